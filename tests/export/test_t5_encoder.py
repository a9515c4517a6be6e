"""The encoder output of T5 for a source alone and in a batch.

The attention handles queries in blocks of 128 or 256, so the lengths of sources are around one, two
and four blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from edgeseq.export import export_checkpoint
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.ort.graph_session import GraphSession, open_session
from edgeseq.runtime.ort.kv_cache import KVCache
from edgeseq.runtime.ort.memory import CpuMemory
from edgeseq.runtime.ort.onnx_decoder import OnnxDecoder
from edgeseq.runtime.ort.onnx_encoder import EncodedSources, OnnxEncoder

Ids = list[list[int]]

TOLERANCE = 1e-4
LENGTHS = (3, 40, 1, 17, 90, 15, 16, 127, 128, 129, 255, 256, 257, 300, 512, 513, 600)
START = 0
VARIANTS: dict[str, dict[str, Any]] = {
    "head_size_12": {},
    "head_size_10_more_decoder_layers": {
        "d_kv": 10,
        "num_heads": 3,
        "num_layers": 1,
        "num_decoder_layers": 3,
    },
    "head_size_64_default_buckets": {
        "d_kv": 64,
        "num_heads": 2,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
    },
}


@dataclass(frozen=True)
class Exported:
    """A checkpoint's model, its bundle and the session of its encoder."""

    reference: T5ForConditionalGeneration
    bundle: Bundle
    session: GraphSession

    def encoder(self) -> OnnxEncoder:
        return OnnxEncoder(self.session, self.bundle.manifest, CpuMemory())

    def decoder(self, sources: EncodedSources, rows: int) -> OnnxDecoder:
        session = open_session(self.bundle.file("decoder.onnx"), threads=1)
        manifest = self.bundle.manifest
        return OnnxDecoder(session, manifest, CpuMemory(), rows=rows, capacity=16, sources=sources)


@pytest.fixture(scope="module", params=VARIANTS)
def exported(
    request: pytest.FixtureRequest,
    seeded_t5: Callable[..., T5ForConditionalGeneration],
    save_t5: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    reference = seeded_t5(**VARIANTS[request.param])
    bundle = export_checkpoint(save_t5(reference), tmp_path_factory.mktemp("bundle") / "t5")
    return Exported(reference, bundle, open_session(bundle.file("encoder.onnx"), threads=1))


def random_sources(lengths: Sequence[int]) -> Ids:
    rng = np.random.default_rng(0)
    return [rng.integers(2, 320, size=length).tolist() for length in lengths]


def arrays(encoded: KVCache, row: int, length: int) -> list[np.ndarray[Any, Any]]:
    """Return the keys and values of a row's positions, (heads, length, head size) each."""
    return [encoded.buffers[0].owner[i, row, :, :length] for i in range(len(encoded.buffers))]


def assert_equal_rows(encoded: KVCache, row: int, other: KVCache, other_row: int) -> None:
    length = encoded.lengths[row]
    assert other.lengths[other_row] == length
    pairs = zip(arrays(encoded, row, length), arrays(other, other_row, length), strict=True)
    for left, right in pairs:
        assert np.any(left != 0)
        np.testing.assert_array_equal(left, right)


@torch.no_grad()
def expected_arrays(reference: T5ForConditionalGeneration, source: list[int]) -> list[Any]:
    """Return PyTorch's hidden states times the projections of each cross-attention."""
    hidden = reference.encoder(torch.tensor([source])).last_hidden_state[0]
    return [
        projection(hidden).unflatten(1, (reference.config.num_heads, -1)).transpose(0, 1).numpy()
        for block in reference.decoder.block
        for projection in (block.layer[1].EncDecAttention.k, block.layer[1].EncDecAttention.v)
    ]


# What comes out


def test_keys_and_values_are_those_of_pytorch(exported: Exported) -> None:
    sources = random_sources(LENGTHS)
    encoded = exported.encoder().prepare(sources).read()
    for row, source in enumerate(sources):
        expected = expected_arrays(exported.reference, source)
        for actual, wanted in zip(arrays(encoded, row, len(source)), expected, strict=True):
            assert np.abs(wanted).max() > 0.5
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=TOLERANCE)


def test_source_alone_and_in_a_batch_gives_the_same_bits(exported: Exported) -> None:
    sources = random_sources(LENGTHS)
    together = exported.encoder().prepare(sources).read()
    assert together.rows == len(sources)
    for row, source in enumerate(sources):
        assert_equal_rows(exported.encoder().prepare([source]).read(), 0, together, row)


@pytest.mark.parametrize("lengths", [(260, 520), (520, 260), (2, 256, 258), (9, 4), (16, 17, 15)])
def test_source_beside_a_longer_one_gives_the_same_bits(
    exported: Exported, lengths: tuple[int, ...]
) -> None:
    sources = random_sources(lengths)
    together = exported.encoder().prepare(sources).read()
    for row, source in enumerate(sources):
        assert_equal_rows(exported.encoder().prepare([source]).read(), 0, together, row)


def test_number_of_threads_changes_no_bit(exported: Exported) -> None:
    sources = random_sources((3, 300, 40, 513))
    session = open_session(exported.bundle.file("encoder.onnx"), threads=2)
    on_two = OnnxEncoder(session, exported.bundle.manifest, CpuMemory()).prepare(sources).read()
    on_one = exported.encoder().prepare(sources).read()
    for row in range(len(sources)):
        assert_equal_rows(on_one, row, on_two, row)


@pytest.mark.parametrize("padded", [32, 528])
def test_the_ids_in_the_padding_do_not_matter(exported: Exported, padded: int) -> None:
    lengths = np.array([padded - 9, 5, padded], np.int32)
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 320, size=(3, padded))
    other = ids.copy()
    for row, length in enumerate(lengths):
        other[row, length:] = rng.integers(2, 320, size=padded - length)
    outputs, others = (
        exported.session.run(None, {"input_ids": x, "source_lengths": lengths})
        for x in (ids, other)
    )
    for left, right in zip(outputs, others, strict=True):
        for row, length in enumerate(lengths):
            np.testing.assert_array_equal(left[row, :, :length], right[row, :, :length])


# What the decoder reads of it


def test_decoder_reads_a_source_up_to_its_length(exported: Exported) -> None:
    sources = random_sources((20, 3, 33, 32))
    steps = [[7, 8, 9, 10], [11, 12, 13, 14]]
    logits = []
    for filling in (0.0, 1e3):
        prepared = exported.encoder().prepare(sources)
        encoded = prepared.read()
        for row, length in enumerate(encoded.lengths):
            encoded.buffers[0].owner[:, row, :, length:] = filling
        decoder = exported.decoder(prepared, len(sources))
        logits.append([decoder.prefill([[START]] * len(sources)).copy()])
        logits[-1] += [decoder.decode(step).copy() for step in steps]
    np.testing.assert_array_equal(logits[0], logits[1])


class Beams:
    """Two decoders: one with three rows for each source, one with every source three times.

    The logits of both have to be equal after the same calls.
    """

    def __init__(self, exported: Exported, sources: Ids) -> None:
        repeated = [source for source in sources for _ in range(3)]
        self.rows = len(repeated)
        encoder = exported.encoder()
        prepared = encoder.prepare(sources)
        self._encoded = prepared.cache
        self._decoders = (
            exported.decoder(prepared, len(sources)),
            exported.decoder(encoder.prepare(repeated), self.rows),
        )

    def prefill(self, prompts: Ids) -> None:
        """Read one prompt for each source; then repeat the first decoder's rows three times."""
        grouped, repeated = self._decoders
        parents = [row for row in range(len(prompts)) for _ in range(3)]
        logits = grouped.prefill(prompts)[parents]
        expected = repeated.prefill([prompts[row] for row in parents])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
        grouped.select_rows(parents)

    def decode(self, tokens: list[int]) -> np.ndarray[Any, Any]:
        return self._compared([decoder.decode(tokens) for decoder in self._decoders])

    def select_rows(self, parents: list[int]) -> None:
        for decoder in self._decoders:
            decoder.select_rows(parents)
        self.rows = len(parents)
        assert self._encoded.rows * 3 == self.rows  # a source is never stored three times

    def _compared(self, logits: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        grouped, repeated = logits
        assert grouped.shape[0] == self.rows
        assert len(np.unique(grouped.round(3), axis=0)) == self.rows  # no row hides another
        np.testing.assert_allclose(grouped, repeated, rtol=0, atol=1e-5)
        return grouped.copy()


def test_rows_of_a_source_share_its_keys_and_values(
    exported: Exported, t5_logits: Callable[..., torch.Tensor]
) -> None:
    sources = random_sources((20, 3, 41))
    beams = Beams(exported, sources)
    begins = [[START, *range(20, 20 + row), 30 + row] for row in range(3)]
    texts = [list(begin) for begin in begins for _ in range(3)]
    logits: list[np.ndarray[Any, Any]] = []

    def advance(tokens: list[int]) -> None:
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
        logits.append(beams.decode(tokens))

    beams.prefill(begins)
    advance(list(range(40, 49)))
    for parents in (
        [2, 0, 1, 3, 5, 4, 8, 7, 6],  # within the sources
        [1, 1, 0, 4, 3, 3, 6, 6, 8],  # some rows twice, others not at all
        [5, 3, 4, 1, 0, 2, 6, 7, 8],  # two sources in each other's place
    ):
        beams.select_rows(parents)
        texts = [list(texts[parent]) for parent in parents]
        advance([50 + 3 * row for row in range(9)])
    sources = [sources[1], sources[0], sources[2]]
    parents = [8, 6, 7, 4, 3, 5]  # the first source is done: the last one fills its place
    beams.select_rows(parents)
    texts, sources = [list(texts[parent]) for parent in parents], [sources[2], sources[1]]
    advance(list(range(60, 66)))
    advance(list(range(70, 76)))
    beams.select_rows([4, 3, 5])
    texts, sources = [list(texts[row]) for row in (4, 3, 5)], [sources[1]]
    advance([80, 81, 82])
    for row, text in enumerate(texts):
        expected = t5_logits(exported.reference, sources[0], text)[-1]
        np.testing.assert_allclose(logits[-1][row], expected, rtol=0, atol=TOLERANCE)
