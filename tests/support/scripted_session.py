"""Sessions for tests that compute with plain numbers, and know where every token must be.

The key of a position is its token plus one. The logits after a text are a function of its tokens
and its source, so a test knows them without a model, and a row that was mixed up gives others.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.bundle.manifest import CacheFormat, Dimensions, Manifest
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.ort.engine import Engine
from edgeseq.runtime.ort.memory import CpuMemory

VOCABULARY = 24
POSITIONS = 600
PADDING = -7.0  # the keys of a source's padding


def logits_after(tokens: Sequence[int], source: Sequence[int] = ()) -> NDArray[np.float32]:
    """Return the logits after a text."""
    state = 1
    for token in (*source, -1, *tokens):
        state = (state * 31 + token + 2) % 65_521
    return np.array([state * (i + 3) % 101 for i in range(VOCABULARY)], np.float32)


def scripted_manifest(*, has_encoder: bool = False, positions: int | None = POSITIONS) -> Manifest:
    """Return a manifest for the scripted sessions."""
    manifest = open_bundle(demo_bundle("t5" if has_encoder else "gpt2")).manifest
    sizes = Dimensions(
        layers=1,
        heads=1,
        head_size=1,
        stored_head_size=1,
        vocabulary=VOCABULARY,
        max_positions=positions,
    )
    return replace(manifest, dimensions=sizes, kv_cache=CacheFormat(dtype="float32"))


def scripted_engine(
    *, has_encoder: bool = False, memory: CpuMemory | None = None, **settings: Any
) -> tuple[Engine, ScriptedDecoderSession]:
    """Return an engine over scripted sessions, and its decoder session."""
    session = ScriptedDecoderSession()
    sessions: Mapping[str, Any] = {"decoder": session, "encoder": ScriptedEncoderSession()}
    manifest = scripted_manifest(has_encoder=has_encoder, **settings)
    return Engine(manifest, sessions, memory=memory), session


class ScriptedBinding:
    """The arrays that are bound, by name."""

    def __init__(self) -> None:
        self.bound: dict[str, NDArray[Any]] = {}

    def bind_input(
        self, name: str, device: str, number: int, dtype: Any, shape: Sequence[int], address: int
    ) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_char * size).from_address(address) if size else b""
        self.bound[name] = np.frombuffer(memory, dtype).reshape(shape)

    bind_output = bind_input


class ScriptedEncoderSession:
    """Writes the tokens of sources as their keys."""

    def io_binding(self) -> ScriptedBinding:
        return ScriptedBinding()

    def run_with_iobinding(self, binding: ScriptedBinding, *options: object) -> None:
        bound = binding.bound
        for keys, ids, length in zip(
            bound["cross.0.key"], bound["input_ids"], bound["source_lengths"], strict=True
        ):
            keys[0, :, 0] = PADDING
            keys[0, :length, 0] = ids[:length]


class ScriptedDecoderSession:
    """Appends tokens to the rows of the cache, and computes the logits after each row.

    ``steps``: the number of rows of each decode step. ``before``: called at the start of each run,
    in the thread that runs it, with the number of rows and of tokens per row.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.before: Callable[[int, int], None] = lambda rows, n: None
        self._turn = threading.Lock()

    def io_binding(self) -> ScriptedBinding:
        return ScriptedBinding()

    def run_with_iobinding(self, binding: ScriptedBinding, *options: object) -> None:
        with self._turn:
            bound = binding.bound
            rows, n = bound["input_ids"].shape
            self.before(rows, n)
            if n == 1:
                self.steps.append(rows)
            self._run(bound, rows, n)

    def _run(self, bound: Mapping[str, NDArray[Any]], rows: int, n: int) -> None:
        keys, ends = bound["past_key_values.0.key"], bound["seqlens_k"] + 1
        assert keys.ctypes.data == bound["present.0.key"].ctypes.data
        capacity = keys.shape[2]
        total = int(bound["total_sequence_length"])
        assert max(ends) <= total <= capacity, "no room for the step"
        texts = []
        is_first = rows > 1 and n > 1
        for row in range(rows):
            begin = 0 if is_first else int(ends[row]) - n
            ids = bound["input_ids"][row]
            keys[row, 0, begin : begin + n, 0] = ids + 1
            positions = bound["position_ids"][row, : int(ends[row]) - begin]
            assert positions.tolist() == list(range(begin, int(ends[row])))
            assert positions.max(initial=0) < POSITIONS
            texts.append([int(key) - 1 for key in keys[row, 0, : int(ends[row]), 0]])
        sources: list[list[int]] = [[]]
        if "source_lengths" in bound:
            cross = bound["cross.0.key"]
            assert np.isfinite(cross).all()  # weight zero times what follows a source
            lengths = bound["source_lengths"]
            sources = [
                list(map(int, row[0, :length, 0]))
                for row, length in zip(cross, lengths, strict=True)
            ]
            assert rows % len(sources) == 0
        for logits, at in zip(bound["logits"], bound["logits_at"], strict=True):
            row, offset = divmod(int(at), n)
            before = len(texts[row]) - n if not is_first else 0
            source = sources[row * len(sources) // rows] if sources[0] else []
            logits[:] = logits_after(texts[row][: before + offset + 1], source)
