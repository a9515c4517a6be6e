"""Progress of long work on standard error: a bar on a terminal, else a line every 10 seconds."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Self, TextIO

BAR = 24  # width of the bar in characters
INTERVAL_S = 0.1  # seconds between two updates of the bar
LINE_INTERVAL_S = 10.0  # seconds between two lines where there is no terminal


class Progress:
    """Progress that is shown while its ``with`` block runs.

        with Progress("evaluating", 2000, unit="tokens") as progress:
            progress(128)  # 128 more are done

    On a terminal it is a bar, which stays when the block ends and disappears when it raises. In a
    file or a pipe it is a line every 10 seconds, and none if the block takes less.

    ``share``: where ``total`` is unknown (None), returns the share that is done, from 0 to 1, or 0
    if that is unknown, too.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        unit: str,
        share: Callable[[], float] | None = None,
        stream: TextIO | None = None,  # None: standard error
        clock: Callable[[], float] = time.perf_counter,  # seconds
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._share = share
        stream = sys.stderr if stream is None else stream
        self._stream = stream
        self._is_terminal = stream is not None and stream.isatty()
        self._clock = clock
        self._done = 0
        self._in_line = 0  # units that the last line without a terminal said
        self._width = 0  # characters of the drawn line
        self._started_s = self._shown_s = clock()

    def __enter__(self) -> Self:
        self._started_s = self._shown_s = self._clock()
        return self

    def __call__(self, count: int) -> None:
        """Report that ``count`` more units are done."""
        self._done += count
        now = self._clock()
        if now - self._shown_s >= (INTERVAL_S if self._is_terminal else LINE_INTERVAL_S):
            self._shown_s = now
            self._show(now - self._started_s)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (self._is_terminal or 0 < self._in_line < self._done):
            self._show(self._clock() - self._started_s, end="\n")
        elif self._width:
            self._draw("")
            self._draw("")

    def _show(self, elapsed_s: float, end: str = "") -> None:
        if self._is_terminal:
            self._draw(self._line(elapsed_s) + end)
        elif self._stream is not None:
            print(self._line(elapsed_s), file=self._stream, flush=True)
            self._in_line = self._done

    def _draw(self, line: str) -> None:
        end = "\n" if line.endswith("\n") else ""
        line = line.removesuffix("\n")[: shutil.get_terminal_size().columns - 1]
        print(f"\r{line:<{self._width}}", end=end, file=self._stream, flush=True)
        self._width = len(line)

    def _line(self, elapsed_s: float) -> str:
        if self._total is not None:
            share = min(self._done / self._total, 1.0) if self._total else 1.0
            count = f"{self._done:,} of {self._total:,} {self._unit}"
        else:
            share = self._share() if self._share is not None else 0.0
            count = f"{self._done:,} {self._unit}"
        bar = f"[{'#' * int(BAR * share):-<{BAR}}]"
        is_known = self._total is not None or share > 0
        done = bar if self._is_terminal and is_known else count
        rate = self._done / elapsed_s if elapsed_s > 0 else 0.0
        digits = 0 if rate >= 10 else 1
        percent = f" {share:4.0%}" if is_known else ""
        line = f"{self._label} {done}{percent}  {rate:,.{digits}f} {self._unit}/s"
        if not 0 < share < 1:
            return line
        return f"{line}  {clock_time(elapsed_s / share - elapsed_s)} left"


def clock_time(seconds: float) -> str:
    """Return ``seconds`` as hours, minutes and seconds: 1:02:03, or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def rarely(show: Callable[[str], None]) -> Callable[[str], None]:
    """Return ``show`` on a terminal; elsewhere a function that shows a message every 10 seconds."""
    if sys.stderr is not None and sys.stderr.isatty():
        return show
    shown_s = time.perf_counter()

    def show_rarely(message: str) -> None:
        nonlocal shown_s
        if time.perf_counter() - shown_s >= LINE_INTERVAL_S:
            shown_s = time.perf_counter()
            show(message)

    return show_rarely
