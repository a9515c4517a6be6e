"""A call's generation options, controls and prompts, which are checked before the work."""
