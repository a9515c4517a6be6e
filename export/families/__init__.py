"""The model families that can be exported, each in one or more modules."""
