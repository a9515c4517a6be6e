"""Logits of a bundle, and logits that are changed in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.decoding.scoring import window_logits
from edgeseq.runtime.ort.engine import open_engine
from edgeseq.runtime.request.passages import Window

Logits = npt.NDArray[np.float32]


def changed(change: Callable[[Logits], None], *rows: Sequence[float]) -> list[list[float]]:
    """Return what ``change`` makes of logits, (rows, vocab)."""
    logits = np.array(rows, dtype=np.float32)
    change(logits)
    result: list[list[float]] = logits.tolist()
    return result


def assert_same_logits(logits: Logits, expected: Any) -> None:
    """Compare with a tensor of torch: the same tokens are forbidden, the others nearly equal."""
    np.testing.assert_array_equal(np.isneginf(logits), np.isneginf(expected.numpy()))
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-6, atol=1e-6)


def logits_of(bundle: Bundle, windows: Iterable[Window]) -> Logits:
    """Return the logits, (tokens, vocab), that a bundle's decoder computes in ``windows``."""
    decoder = open_engine(bundle.manifest, bundle.folder, threads=1).decoder
    return np.concatenate(
        [block for window in windows for _, block in window_logits(decoder, window)]
    )
