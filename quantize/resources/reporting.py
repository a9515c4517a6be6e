"""Progress of long steps as lines of text for a callback."""

from __future__ import annotations

import io
from collections.abc import Callable

from ...runtime.progress import Progress


def progress_in_lines(label: str, total: int, unit: str, report: Callable[[str], None]) -> Progress:
    """Return a progress that calls ``report`` with a line every ten seconds.

    A line says how much is done and how long the rest will take.
    """
    return Progress(label, total, unit=unit, stream=_Lines(report))


class _Lines(io.StringIO):
    """A stream that passes on whole lines."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__()
        self._report = report
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._report(line)
        return len(text)
