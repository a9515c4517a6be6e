"""Threads that compute with numpy side by side, each with a linear algebra library of one thread.

Layers are independent, so a thread per layer uses all cores. The results then do not depend on the
number of threads, and no thread waits for another within a product.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import numpy as np

from ...runtime.ort.cpu import thread_count

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A context manager of ``threads`` threads; None: one per usable core.

    Raises ``OptionError`` if ``threads`` is not an integer from 1 to 1,024.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = thread_count(threads)

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="edgeseq-quantize")
        self._one_thread = _one_blas_thread()
        self._one_thread.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._one_thread.__exit__(None, None, None)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``function(item)`` of each item, in order; at most a few results wait in memory."""
        if self.threads == 1:
            yield from map(function, items)
            return
        waiting = []
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) > self.threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Give numpy's OpenBLAS one thread in the block; other libraries keep theirs."""
    library = _openblas()
    if library is None:
        yield
        return
    get, change = library
    before = get()
    change(1)
    try:
        yield
    finally:
        change(before)


def _openblas() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """Return the functions that get and set OpenBLAS's threads; None: numpy has another library."""
    try:
        module = np._core._multiarray_umath  # type: ignore[attr-defined]
        loaded = ctypes.CDLL(os.fspath(module.__file__))
    except (AttributeError, OSError):
        return None
    for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
        try:
            return (
                loaded[f"{prefix}openblas_get_num_threads{suffix}"],
                loaded[f"{prefix}openblas_set_num_threads{suffix}"],
            )
        except AttributeError:
            continue
    return None
