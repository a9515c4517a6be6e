"""Whole models with scripted logits instead of graphs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from edgeseq.runtime import Model
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.bundle.manifest import Kind, Manifest
from edgeseq.runtime.bundle.reading import Bundle, open_bundle
from edgeseq.runtime.decoder import Decoder, never
from edgeseq.runtime.text.tokenizer import Tokenizer
from tests.support.scripted_decoder import Ids, Logits, ScriptedDecoder
from tests.support.scripted_engine import model_with

START = 0  # of an encoder's decoder, and a special token that no text shows
BORDER = 255  # between a source and what the decoder reads
# Byte-level tokens: "Ġ" is a space, "Ċ" a new line, "Ã©" and "ðŁĻĤ" are é and a smile in pieces.
TOKENS = (
    *("<end>", "a", "b", ".", "Ġ", "ab", "Ċ", "Ã", "©", "Ġa", "ba", "aa", "c", "d", "e", "f"),
    *("ðŁ", "ĻĤ", "Ġb", "Ġ.", "'s", "Ġ'", "cd", "ef", "de", "abc", "Ġcd", "A", "B", "C", "D"),
    *("E", "F", "0", "1", "2", "3", "4", "5", "6"),
)


@dataclass(frozen=True)
class Hashed:
    """Logits that depend on the last ``context`` tokens, or with 0 on all.

    With a small context a text repeats itself. ``ties``: many logits are equal.
    """

    vocabulary: int
    seed: int
    context: int
    ties: bool

    def __call__(self, ids: Sequence[int]) -> Logits:
        return hashed_logits(self, bytes(ids[-self.context :]))


@lru_cache(maxsize=20_000)
def hashed_logits(rule: Hashed, context: bytes) -> Logits:
    generator = np.random.default_rng([rule.seed, zlib.crc32(context)])
    logits = generator.normal(scale=2.0, size=rule.vocabulary).astype(np.float32)
    return logits.round() if rule.ties else logits


@dataclass
class Encoded(ScriptedDecoder):
    """A scripted decoder after an encoder: each row begins with its source."""

    sources: Sequence[Ids] = field(default_factory=list)

    def prefill(
        self, prompts: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never
    ) -> Logits:
        pairs = zip(self.sources, prompts, strict=True)
        return super().prefill([[*source, BORDER, *start] for source, start in pairs], cancelled)


@cache
def tokenizer() -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([TOKENS[START]])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        backend.save(str(path))
        return Tokenizer(path, clean_up_tokenization_spaces=True)


@cache
def manifest(kind: Kind) -> Manifest:
    demo = "gpt2" if kind == "decoder-only" else "t5"
    return replace(open_bundle(demo_bundle(demo)).manifest, kind=kind)


def scripted_model(rule: Hashed, kind: Kind, max_positions: int | None = None) -> Model:
    """Return a model of ``rule`` with the first tokens of ``TOKENS`` and no generation defaults."""
    of_kind = manifest(kind)
    sizes = of_kind.dimensions._replace(vocabulary=rule.vocabulary, max_positions=max_positions)
    generation = (
        {"bos_token_id": START} if kind == "decoder-only" else {"decoder_start_token_id": START}
    )

    def new_decoder(prompts: Sequence[Sequence[int]], capacity: int) -> Decoder:
        if kind == "decoder-only":
            return ScriptedDecoder(rule, capacity)
        sources = [list(prompt) for prompt in prompts]
        return Encoded(rule, capacity + 1 + max(map(len, sources)), sources=sources)

    bundle = Bundle(Path(), replace(of_kind, dimensions=sizes, generation=generation))
    return model_with(bundle, tokenizer(), new_decoder)
