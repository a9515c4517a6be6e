"""Decoding in numpy: the loop, its strategies, choices and scoring."""
