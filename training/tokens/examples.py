"""Examples as token ids, and their order: windows of text, and pairs of a source and a target.

The batches of an epoch follow from the seed and the epoch alone, so that a resumed run reads the
same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import Pair

IGNORED = -100  # a label that the loss ignores
POOL = 50  # batches whose pairs are sorted by length together
Ids = NDArray[np.int64]
Batch = dict[str, torch.Tensor]


class Examples(Protocol):
    """The training examples of one kind."""

    def batch_count(self, size: int) -> int:
        """Return the number of batches of ``size`` rows in an epoch."""

    def batches(self, size: int, seed: int, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, each as the numbers of its rows."""

    def row(self, number: int) -> tuple[Ids, Ids]:
        """Return the ids that the model reads, and the label of each position or of the target."""

    def longest(self) -> tuple[int, int]:
        """Return the most ids and the most labels of a row."""


class Windows:
    """Windows of ``length`` tokens of documents, which are joined in a new order in each epoch.

    ``documents`` end with the end-of-sequence token. Windows overlap by one token, so that each
    token is predicted once. An epoch begins at a random token, so that it has other windows.
    """

    def __init__(self, documents: Sequence[Ids], length: int) -> None:
        self._documents = documents
        tokens = sum(map(len, documents))
        self._length = max(1, min(length, tokens - 1))
        self._count = max(1, tokens // self._length - 1)
        self._stream = np.concatenate(list(documents))

    def batch_count(self, size: int) -> int:
        """Return the number of batches of ``size`` windows in an epoch."""
        return -(-self._count // size)

    def batches(self, size: int, seed: int, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, each as the first tokens of its windows."""
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self._documents))
        self._stream = np.concatenate([self._documents[i] for i in order])
        spare = len(self._stream) - self._count * self._length
        first = int(random.integers(spare)) if spare > 1 else 0
        starts = first + self._length * random.permutation(self._count)
        return [starts[i : i + size].tolist() for i in range(0, self._count, size)]

    def row(self, number: int) -> tuple[Ids, Ids]:
        """Return the window that begins at token ``number``, and the token after each token."""
        window = self._stream[number : number + self._length + 1]
        return window[:-1], window[1:]

    def longest(self) -> tuple[int, int]:
        """Return the length of a window, twice."""
        return self._length, self._length


class Pairs:
    """Pairs of token ids: ``sources`` that are read, ``targets`` that the loss predicts.

    ``joined``: whether a row is source and target in one, for a decoder-only model.
    """

    def __init__(self, sources: Sequence[Ids], targets: Sequence[Ids], *, joined: bool) -> None:
        self.sources, self.targets, self.joined = sources, targets, joined

    def __len__(self) -> int:
        return len(self.sources)

    def batch_count(self, size: int) -> int:
        """Return the number of batches of ``size`` pairs in an epoch."""
        return -(-len(self) // size)

    def batches(self, size: int, seed: int, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, each of pairs of similar length."""
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self)).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), size * POOL):
            pool = sorted(order[start : start + size * POOL], key=self._lengths)
            batches += [pool[i : i + size] for i in range(0, len(pool), size)]
        return [batches[i] for i in random.permutation(len(batches))]

    def _lengths(self, number: int) -> tuple[int, int]:
        return len(self.sources[number]), len(self.targets[number])

    def row(self, number: int) -> tuple[Ids, Ids]:
        """Return the pair's source and target; joined, their ids and labels without the source."""
        source, target = self.sources[number], self.targets[number]
        if not self.joined:
            return source, target
        ids = np.concatenate([source, target])
        labels = np.concatenate([np.full(len(source), IGNORED), target])
        return ids[:-1], labels[1:]

    def longest(self) -> tuple[int, int]:
        """Return the most ids and the most labels of a row."""
        most = [max(map(len, side)) for side in (self.sources, self.targets)]
        if not self.joined:
            return most[0], most[1]
        total = max(len(s) + len(t) for s, t in zip(self.sources, self.targets, strict=True)) - 1
        return total, total


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out examples as rows of ids and labels, and the pairs to answer.

    ``sizes``: the bytes of the text; None for pairs. ``targets``: the expected answers.
    """

    rows: Sequence[tuple[Ids, Ids]]
    sizes: int | None
    pairs: Pairs | None
    targets: Sequence[str]


@dataclass(frozen=True)
class Collator:
    """Pads rows to tensors that the model and the loss read.

    ``pad``: the id in padded positions; ``start``: the decoder's first id, None for a decoder-only
    model, whose labels are beside its ids.
    """

    pad: int
    start: int | None

    def __call__(self, rows: Sequence[tuple[Ids, Ids]]) -> Batch:
        """Return ids, their mask and labels, each ``(rows, longest)``."""
        ids = padded([ids for ids, _ in rows], self.pad)
        labels = padded([labels for _, labels in rows], IGNORED)
        mask = padded([np.ones_like(ids) for ids, _ in rows], 0)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if self.start is not None:
            first = labels.new_full((len(rows), 1), self.start)
            before = torch.cat([first, labels[:, :-1]], dim=1)
            batch["decoder_input_ids"] = before.masked_fill(before == IGNORED, self.pad)
        return batch


def padded(rows: Sequence[Ids], value: int) -> torch.Tensor:
    """Return the rows as one tensor, filled up with ``value`` on the right."""
    filled = np.full((len(rows), max(map(len, rows))), value, np.int64)
    for row, ids in zip(filled, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(filled)


@dataclass(frozen=True)
class Lengths:
    """The most tokens of a source, of a target, and of both together."""

    source: int
    target: int
    both: int


@dataclass(frozen=True)
class Encoded:
    """Pairs as token ids, and what became of those that are too long."""

    pairs: Pairs
    kept: Sequence[Pair]
    shortened: int  # sources that were cut
    left_out: int  # pairs that are too long


def encode_pairs(
    pairs: Sequence[Pair],
    prompts: Sequence[str],
    tokenizer: Any,
    lengths: Lengths,
    *,
    joined: bool,
) -> Encoded:
    """Return the ids of ``prompts``, which are the pairs' sources as the model reads them.

    Targets end with the end-of-sequence token. Longer sources are cut as Transformers does, but
    for a decoder-only model (``joined``), whose prompt must keep its end. Pairs that are too long
    are left out.
    """
    sources, targets, kept, shortened = [], [], [], 0
    if pairs:
        prompt_ids = tokenizer(list(prompts)).input_ids
        if not joined and any(len(ids) > lengths.source for ids in prompt_ids):
            shortened = sum(len(ids) > lengths.source for ids in prompt_ids)
            prompt_ids = tokenizer(
                list(prompts), truncation=True, max_length=lengths.source
            ).input_ids
        target_ids = _target_ids(pairs, tokenizer, joined=joined)
        for pair, source, target in zip(pairs, prompt_ids, target_ids, strict=True):
            together = len(source) + len(target) if joined else 0
            if (
                len(source) <= lengths.source
                and len(target) <= lengths.target
                and together <= lengths.both
            ):
                sources.append(np.array(source, np.int64))
                targets.append(np.array(target, np.int64))
                kept.append(pair)
    left_out = len(pairs) - len(kept)
    return Encoded(Pairs(sources, targets, joined=joined), kept, shortened, left_out)


def _target_ids(pairs: Sequence[Pair], tokenizer: Any, *, joined: bool) -> list[list[int]]:
    texts = [pair.target for pair in pairs]
    if not joined:
        found: list[list[int]] = tokenizer(text_target=texts).input_ids
        return found
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    return [[*ids, tokenizer.eos_token_id] for ids in rows]


def encode_documents(documents: Sequence[str], tokenizer: Any) -> list[Ids]:
    """Return the ids of each document, which end with the end-of-sequence token."""
    rows = tokenizer(list(documents), add_special_tokens=False).input_ids
    return [np.array([*ids, tokenizer.eos_token_id], np.int64) for ids in rows]


def held_out_windows(
    documents: Sequence[str], tokenizer: Any, length: int
) -> list[tuple[Ids, Ids]]:
    """Return windows in which each token of held-out documents is predicted exactly once."""
    first = np.array([tokenizer.eos_token_id], np.int64)  # before the first token of the text
    stream = np.concatenate([first, *encode_documents(documents, tokenizer)])
    windows = [stream[i : i + length + 1] for i in range(0, len(stream) - 1, length)]
    return [(window[:-1], window[1:]) for window in windows]
