"""Train a tokenizer from the data: byte-level BPE as GPT-2 has, or Unigram as T5 has.

Both decode to exactly the text that was encoded, unless ``lowercase`` is set. The one exception is
the character ``▁``, which Unigram decodes as a space, as T5 does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast, T5TokenizerFast

END_OF_TEXT = "<|endoftext|>"
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
RARE_STEP = 1e-4  # between the scores of two rare characters
FALLBACK_SCORE = -30.0  # below the log-probability of any piece


def train_tokenizer(settings: Mapping[str, Any], texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer that a template's group ``tokenizer`` describes on ``texts``.

    It can have fewer tokens than ``vocab_size`` if the texts are few.
    """
    train = _bpe if settings["algorithm"] == "bpe" else _unigram
    lower = normalizers.Lowercase() if settings.get("lowercase") else None
    return train(
        texts,
        int(settings["vocab_size"]),
        first=[lower] if lower is not None else [],
        digits=bool(settings.get("split_digits")),
    )


def _bpe(
    texts: Iterable[str], size: int, *, first: list[Any], digits: bool
) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    if first:
        tokenizer.normalizer = normalizers.Sequence(first)
    levels: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if digits:
        levels.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(levels) if digits else levels[0]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return GPT2TokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def _unigram(
    texts: Iterable[str], size: int, *, first: list[Any], digits: bool
) -> PreTrainedTokenizerFast:
    """Train a Unigram tokenizer whose text begins with a space, which its decoder removes.

    A character that is not in the vocabulary becomes the bytes of its UTF-8 form.
    """
    learner = Tokenizer(models.Unigram())
    learner.normalizer = normalizers.Sequence(_spaces(first))
    split: list[Any] = [pre_tokenizers.Split(SPACE, "merged_with_next")]
    if digits:
        split.append(pre_tokenizers.Digits(individual_digits=True))
    learner.pre_tokenizer = pre_tokenizers.Sequence(split)
    special = [PAD, END, UNKNOWN]
    pieces = max(size - len(BYTES), len(special) + 1)
    learner.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=pieces,
            special_tokens=special,
            unk_token=UNKNOWN,
            show_progress=False,
        ),
    )
    found = [(piece, score) for piece, score in json.loads(learner.to_str())["model"]["vocab"]]
    vocabulary = _settled(found, len(special))
    known = {piece for piece, _ in vocabulary}
    # The whole alphabet of bytes, and the space alone, which the trainer can leave out.
    missing = [piece for piece in (SPACE, *BYTES) if piece not in known]
    vocabulary += [(piece, FALLBACK_SCORE) for piece in missing]
    tokenizer = Tokenizer(models.Unigram(vocabulary, special.index(UNKNOWN), byte_fallback=True))
    tokenizer.normalizer = learner.normalizer
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", END], special_tokens=[(END, special.index(END))]
    )
    return T5TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=PAD,
        extra_ids=0,
        clean_up_tokenization_spaces=False,
    )


def _settled(vocabulary: list[tuple[str, float]], special: int) -> list[tuple[str, float]]:
    """Return a vocabulary that is the same for the same texts; ``special`` tokens begin it.

    The trainer sums scores in a different order each time, which changes their last digits. It also
    adds rare characters below the lowest score, each a bit lower, in any order.
    """
    pieces = vocabulary[special:]
    lowest = min(score for _, score in pieces)
    steps = RARE_STEP * sum(len(piece) == 1 for piece, _ in pieces)
    settled = [
        (piece, round(lowest, 4) if len(piece) == 1 and score <= lowest + steps else score)
        for piece, score in pieces
    ]
    rounded = [(piece, round(score, 6)) for piece, score in settled]
    rounded.sort(key=lambda item: (-item[1], item[0]))
    return [*vocabulary[:special], *rounded]


def _spaces(first: list[Any]) -> list[Any]:
    """Return normalizers that mark the spaces, and put one in front of the text."""
    return [*first, normalizers.Prepend(SPACE), normalizers.Replace(Regex(" "), SPACE)]
