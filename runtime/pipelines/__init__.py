"""Pipelines with the names, arguments and results of Transformers 4.57."""
