"""Read the training stories of the demo GPT-2, split them and cut them into windows.

Stories lie in a folder of UTF-8 ``*.txt`` files, with two blank lines before each story. The
sub-folder ``heldout`` holds whole books for evaluation and is never read for training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
VALIDATION_EVERY = 100  # every hundredth training story is kept for the validation curve


def read_stories(folder: Path) -> list[str]:
    """Return the stories of every ``*.txt`` directly in ``folder``, in order of the file names."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise SystemExit(f"{folder} contains no .txt files: pass the folder of the stories.")
    texts = (file.read_text(encoding="utf-8").rstrip("\n") for file in files)
    return [story for text in texts for story in text.split("\n\n\n") if story.strip()]


def split_stories(stories: list[str]) -> tuple[list[str], list[str]]:
    """Return ``(training, validation)``: every hundredth story is for validation."""
    training = [s for i, s in enumerate(stories) if i % VALIDATION_EVERY]
    return training, stories[::VALIDATION_EVERY]


def encode(stories: list[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """Return each story's token ids, which end with the end-of-text token."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    return [
        np.array([*encoding.ids, end], dtype=np.int64)
        for encoding in tokenizer.encode_batch(stories)
    ]


def epoch_windows(stories: list[np.ndarray], length: int, rng: np.random.Generator) -> np.ndarray:
    """Return token ids of one pass over the stories in a new order, ``(windows, length + 1)``.

    Windows overlap by one token, so that each token is predicted once. The first window starts at a
    random offset, so that every pass cuts the stories at different positions.
    """
    tokens = np.concatenate([stories[i] for i in rng.permutation(len(stories))])
    tokens = tokens[rng.integers(length) :]
    count = (len(tokens) - 1) // length
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::length][:count]
    return windows[rng.permutation(count)]
