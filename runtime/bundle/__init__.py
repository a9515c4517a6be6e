"""A bundle on disk: its manifest, weights file and graph contract; reading, writing, the demos."""
