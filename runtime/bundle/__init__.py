"""Bundles on disk: manifest, weights file, graph contract, reading, writing, demo bundles."""
