"""Continuous batching: generations that run at the same time share decode steps."""
