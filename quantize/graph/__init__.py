"""Graphs of a bundle as the quantizer reads and rewrites them."""
