"""The shared blocks that the graphs of all families are made of."""
