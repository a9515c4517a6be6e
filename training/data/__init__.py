"""Data for training: from files to examples as text, training and held-out."""

from .dataset import describe, prompt_of, read_dataset, write_held_out
from .examples import Dataset, FileFacts, Pair, Unusable

__all__ = [
    "Dataset",
    "FileFacts",
    "Pair",
    "Unusable",
    "describe",
    "prompt_of",
    "read_dataset",
    "write_held_out",
]
