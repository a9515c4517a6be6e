"""Decoding in numpy: the decode loop, its strategies, choices and scoring."""
