"""A progress bar on standard error for long work. It appears only on a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

BAR = 24  # width of the bar in characters
INTERVAL_S = 0.1  # seconds between two updates of the bar


class Progress:
    """A progress bar that is drawn while its ``with`` block runs, if ``stream`` is a terminal.

        with Progress("evaluating", 2000, unit="tokens") as progress:
            progress(128)  # 128 more are done

    The bar stays when the block ends, and disappears when the block raises.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        unit: str,
        stream: TextIO | None = None,  # None: standard error
        clock: Callable[[], float] = time.perf_counter,  # seconds
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        stream = sys.stderr if stream is None else stream
        self._stream = stream if stream is not None and stream.isatty() else None
        self._clock = clock
        self._done = 0
        self._width = 0  # characters of the drawn line
        self._started = self._drawn = clock()

    def __enter__(self) -> Self:
        self._started = self._drawn = self._clock()
        return self

    def __call__(self, count: int) -> None:
        """Report that ``count`` more units are done."""
        self._done += count
        now = self._clock()
        if now - self._drawn >= INTERVAL_S:
            self._drawn = now
            self._draw(self._line(now - self._started))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._draw(self._line(self._clock() - self._started) + "\n")
        elif self._width:
            self._draw("")
            self._draw("")

    def _draw(self, line: str) -> None:
        if self._stream is None:
            return
        end = "\n" if line.endswith("\n") else ""
        line = line.removesuffix("\n")[: shutil.get_terminal_size().columns - 1]
        print(f"\r{line:<{self._width}}", end=end, file=self._stream, flush=True)
        self._width = len(line)

    def _line(self, elapsed_s: float) -> str:
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        bar = f"{'#' * int(BAR * share):-<{BAR}}"
        rate = self._done / elapsed_s if elapsed_s > 0 else 0.0
        digits = 0 if rate >= 10 else 1
        line = f"{self._label} [{bar}] {share:4.0%}  {rate:,.{digits}f} {self._unit}/s"
        if not 0 < share < 1:
            return line
        return f"{line}  {_clock_time(elapsed_s / share - elapsed_s)} left"


def _clock_time(seconds: float) -> str:
    """Return ``seconds`` as hours, minutes and seconds: 1:02:03, or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
