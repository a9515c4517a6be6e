"""Logits before and after a change of them in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

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
