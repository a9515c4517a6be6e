"""Pipelines with the same names, arguments and results as in Transformers 4.57."""
