"""Data for training: from files to examples as text, training and held-out."""

from .dataset import Dataset, FileFacts, Pair, Unusable, prompt_of, read_dataset, write_held_out

__all__ = [
    "Dataset",
    "FileFacts",
    "Pair",
    "Unusable",
    "prompt_of",
    "read_dataset",
    "write_held_out",
]
