"""A data set as token ids: training examples, held-out examples, and what was cut or left out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...runtime.errors import TrainingError
from ..data import Dataset, Pair
from ..template import DataSettings
from .examples import (
    Collator,
    Encoded,
    Examples,
    HeldOut,
    Lengths,
    Pairs,
    Windows,
    encode_documents,
    encode_pairs,
    held_out_windows,
)

DEFAULT_BLOCK = 1024  # tokens of a window, if the model allows more
SPARE_SHARE, SPARE_TOKENS = 0.25, 2  # of an answer, beyond the longest target


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Examples that a trainer reads.

    ``prompts``: the held-out prompts that are answered, or the held-out documents.
    ``new_tokens``: the most tokens of an answer; None for texts. ``notes``: lines to show.
    """

    examples: Examples
    held_out: HeldOut
    collator: Collator
    prompts: Sequence[str]
    new_tokens: int | None
    notes: Sequence[str] = field(default=())


def texts_of(examples: Sequence[Pair] | Sequence[str], settings: DataSettings) -> Iterator[str]:
    """Yield the texts that a new tokenizer is trained on: documents, or sources and targets."""
    if settings.form == "pairs" and settings.source_prefix:
        yield settings.source_prefix
    for example in examples:
        if isinstance(example, str):
            yield example
        else:
            yield example.source
            yield example.target


def prepare_texts(
    settings: DataSettings, dataset: Dataset, tokenizer: Any, *, limit: int
) -> Prepared:
    """Return windows of the documents of ``dataset``; ``limit``: the model's positions."""
    length = min(settings.block_size or DEFAULT_BLOCK, limit)
    training, held_out = (_strings(side) for side in (dataset.training, dataset.held_out))
    documents = encode_documents(training, tokenizer)
    tokens = sum(map(len, documents))
    if tokens < 3:
        raise TrainingError("The text has fewer than 3 tokens: give more text to train on.")
    windows = Windows(documents, length)
    return Prepared(
        examples=windows,
        held_out=HeldOut(
            rows=held_out_windows(held_out, tokenizer, length),
            sizes=sum(len(text.encode()) for text in held_out),
            pairs=None,
            targets=[],
        ),
        collator=Collator(_pad(tokenizer), None),
        prompts=held_out,
        new_tokens=None,
        notes=[f"training on {tokens:,} tokens in windows of {windows.longest()[0]:,}"],
    )


def prepare_pairs(
    settings: DataSettings,
    dataset: Dataset,
    tokenizer: Any,
    prompt: Callable[[str], str],
    *,
    limit: int,
    start: int | None,
    answers: int,
) -> Prepared:
    """Return the pairs of ``dataset`` as token ids.

    ``start``: the decoder's first token; None for a decoder-only model. ``answers``: how many
    held-out pairs are answered. Raises ``TrainingError`` if too many pairs are too long.
    """
    joined = start is None
    lengths = Lengths(
        source=min(settings.max_source_length or limit, limit),
        target=min(settings.max_target_length or limit, limit),
        both=limit,
    )
    sides = []
    notes = []
    for name, side in (("training", dataset.training), ("held-out", dataset.held_out)):
        pairs = _pairs(side)
        prompts = [prompt(pair.source) for pair in pairs]
        encoded = encode_pairs(pairs, prompts, tokenizer, lengths, joined=joined)
        notes += list(_notes(name, encoded, lengths, joined=joined))
        if encoded.left_out > settings.max_unusable * len(pairs) or not encoded.kept:
            raise TrainingError(
                f"{encoded.left_out:,} of {len(pairs):,} {name} pairs are longer than the model "
                f"or the settings allow ({_spoken(lengths, joined=joined)}): raise "
                "data.max_source_length and data.max_target_length as far as the model allows, "
                "shorten the pairs, or raise data.max_unusable."
            )
        sides.append(encoded)
    training, held_out = sides
    chosen = _sample(len(held_out.kept), answers)
    asked = Pairs(
        [held_out.pairs.sources[i] for i in chosen],
        [held_out.pairs.targets[i] for i in chosen],
        joined=joined,
    )
    longest = max(len(target) for side in sides for target in side.pairs.targets)
    spare = int(longest * SPARE_SHARE) + SPARE_TOKENS
    return Prepared(
        examples=training.pairs,
        held_out=HeldOut(
            rows=[held_out.pairs.row(i) for i in range(len(held_out.pairs))],
            sizes=None,
            pairs=asked,
            targets=[held_out.kept[i].target for i in chosen],
        ),
        collator=Collator(_pad(tokenizer), start),
        prompts=[prompt(held_out.kept[i].source) for i in chosen],
        new_tokens=min(longest + spare, limit),
        notes=notes,
    )


def _notes(name: str, encoded: Encoded, lengths: Lengths, *, joined: bool) -> Iterator[str]:
    if encoded.shortened:
        yield (
            f"{encoded.shortened:,} {name} sources are cut to {lengths.source:,} tokens "
            "(data.max_source_length)"
        )
    if encoded.left_out:
        yield (
            f"{encoded.left_out:,} {name} pairs are left out, because they are too long "
            f"({_spoken(lengths, joined=joined)})"
        )


def _spoken(lengths: Lengths, *, joined: bool) -> str:
    target = f"{lengths.target:,} tokens of a target"
    if not joined:
        return target
    return f"{lengths.source:,} tokens of a prompt, {target}, {lengths.both:,} of both"


def _sample(total: int, count: int) -> list[int]:
    """Return ``count`` of the numbers below ``total``, always the same ones, in order."""
    return sorted(random.Random(0).sample(range(total), min(count, total)))


def _pad(tokenizer: Any) -> int:
    pad = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if pad is None else pad)


def _strings(examples: Sequence[Pair] | Sequence[str]) -> list[str]:
    return [example for example in examples if isinstance(example, str)]


def _pairs(examples: Sequence[Pair] | Sequence[str]) -> list[Pair]:
    return [example for example in examples if isinstance(example, Pair)]
