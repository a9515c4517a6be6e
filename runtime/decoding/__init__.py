"""Decoding strategies in numpy: the loop, greedy search and sampling, beams, prompt lookup."""
