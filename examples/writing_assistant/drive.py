"""Measure whether the window stalls while a model decodes: `python -m writing_assistant.drive`.

Run it in `examples/`. A timer of 5 ms ticks in the thread of the window; a gap is the time between
two ticks. The script prints the 50th, 99th and largest gap while the window is at rest, while
models are loaded, and while the model decodes all the time: as soon as a suggestion ends it is
accepted, so that the text grows by itself and every piece is drawn.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PySide6.QtCore import QObject, QSettings, Qt, QTimer
from PySide6.QtWidgets import QApplication

from .app import SWITCH_S, App
from .settings import Store
from .theme import set_theme, ui_font
from .window import Window

TICK_MS = 5
GOAL_MS = 30.0


class Gaps(QObject):
    """A timer that notes when it ticks."""

    def __init__(self) -> None:
        super().__init__()
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._ticks: list[tuple[float, float]] = []  # time, and time of the processor
        self._timer.start(TICK_MS)

    def _tick(self) -> None:
        self._ticks.append((time.perf_counter(), time.thread_time()))

    def report(self, name: str) -> float:
        """Print the gaps since the last report; return the 99th of 100 in milliseconds."""
        gaps, work = np.diff(np.array(self._ticks), axis=0).T * 1000
        self._ticks.clear()
        middle, high = np.percentile(gaps, [50, 99])
        print(
            f"{name:12} {len(gaps):6} gaps: half at most {middle:5.1f} ms, 99 in 100 at most "
            f"{high:5.1f} ms, largest {gaps.max():6.1f} ms; computing in the window's thread: "
            f"99 in 100 at most {np.percentile(work, 99):5.1f} ms, largest {work.max():6.1f} ms",
            flush=True,
        )
        return float(high)


class Driver(QObject):
    """The steps of the measurement. ``status``: 0 if 99 in 100 gaps are short enough."""

    def __init__(self, app: App, window: Window, seconds: float) -> None:
        super().__init__()
        self.status = 1
        self._app, self._window, self._seconds = app, window, seconds
        self._gaps = Gaps()
        self._tokens = 0
        self._watch = QTimer(self)
        self._watch.timeout.connect(self._while_loading)
        self._watch.start(TICK_MS)

    def _while_loading(self) -> None:
        if self._window.writer is None or self._window.rewriter is None:
            return
        self._watch.stop()
        self._gaps.report("loading")
        QTimer.singleShot(int(min(self._seconds, 5) * 1000), self._decode)

    def _decode(self) -> None:
        self._gaps.report("at rest")
        self._window.worker.done.connect(self._on_done)
        self._window.worker.piece.connect(self._on_piece)
        self._window.editor.insertPlainText("Once upon a time there was")
        QTimer.singleShot(int(self._seconds * 1000), self._end)

    def _on_piece(self) -> None:
        self._tokens += 1

    def _on_done(self) -> None:
        editor = self._window.editor
        if editor.ghost:
            editor.accept_all()
            if len(editor.text) > 4000:  # begin again, as the texts of people do not grow so fast
                editor.replace_all("Once upon a time there was")
                editor.moveCursor(editor.textCursor().MoveOperation.End)

    def _end(self) -> None:
        high = self._gaps.report("decoding")
        print(f"{self._tokens / self._seconds:.0f} pieces a second were drawn")
        self.status = 0 if high <= GOAL_MS and self._tokens else 1
        self._app.close()


def main() -> int:
    """Measure; return 1 if the window stalls."""
    parser = argparse.ArgumentParser(description=__doc__, prog="drive")
    parser.add_argument("--seconds", type=float, default=30, help="time of decoding (default: 30)")
    parser.add_argument("--model", metavar="BUNDLE", default="demo:gpt2")
    parser.add_argument("--threads", type=int, default=0, help="computing threads (default: 0)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a suggestion")
    parser.add_argument("--switch", type=float, default=SWITCH_S, help="sys.setswitchinterval")
    options = parser.parse_args()
    sys.setswitchinterval(options.switch)
    application = QApplication([sys.argv[0]])
    application.setFont(ui_font(10))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(QSettings(f"{folder}/settings.ini", QSettings.Format.IniFormat))
        store.change(
            pause_ms=0, tokens=options.tokens, threads=options.threads, writer=options.model
        )
        set_theme("light")
        app = App(application, store, Path(folder))
        driver = Driver(app, app.open_window(), options.seconds)
        print(f"{platform.platform()}, Qt on {application.platformName()}")
        application.exec()
    return driver.status


if __name__ == "__main__":
    sys.exit(main())
