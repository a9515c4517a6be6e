"""The test of a finished app: it types, takes a suggestion, saves a picture and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt, QTimer
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QApplication

if TYPE_CHECKING:
    from .app import App

TEXT = "Once upon a time"
LONGEST_S = 60


class SelfTest(QObject):
    """Steps with a condition each; the next one is tried until it holds. ``status``: 0 if all did.

    The picture is `assistant.png`, the text `assistant.txt`.
    """

    def __init__(self, app: App, folder: Path) -> None:
        super().__init__()
        self.status = 1
        self._app, self._folder = app, folder
        self._window = app.windows[0]
        self._steps: list[Callable[[], bool]] = [
            self._is_loaded,
            self._type,
            self._is_suggested,
            self._take,
            self._save,
        ]
        self._ticks = QTimer(self)
        self._ticks.timeout.connect(self._step)
        self._ticks.start(20)
        QTimer.singleShot(LONGEST_S * 1000, self._give_up)

    def _step(self) -> None:
        if self._window.notice.sentence:
            print(self._window.notice.sentence, file=sys.stderr)
            self._end()
        elif self._steps[0]():
            del self._steps[0]
            if not self._steps:
                self.status = 0
                self._end()

    def _is_loaded(self) -> bool:
        return self._window.writer is not None and self._window.rewriter is not None

    def _type(self) -> bool:
        for letter in TEXT:
            self._press(0, letter)
        return True

    def _is_suggested(self) -> bool:
        panel = self._window.panel
        is_panel_ready = bool(panel.next.bars.rows) or not panel.shows_next
        return len(self._window.editor.ghost.split()) > 4 and is_panel_ready

    def _take(self) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._window.grab().save(str(self._folder / "assistant.png")):
            raise OSError(f"{self._folder} cannot be written: choose another folder.")
        self._press(Qt.Key.Key_Tab.value)
        return True

    def _save(self) -> bool:
        text = self._window.editor.text
        (self._folder / "assistant.txt").write_text(text, encoding="utf-8")
        return text.startswith(TEXT) and len(text) > len(TEXT)

    def _press(self, key: int, letter: str = "") -> None:
        event = QKeyEvent(QKeyEvent.Type.KeyPress, key, Qt.KeyboardModifier.NoModifier, letter)
        QApplication.sendEvent(self._window.editor, event)

    def _give_up(self) -> None:
        print(f"The step {self._steps[0].__name__} took too long.", file=sys.stderr)
        self._end()

    def _end(self) -> None:
        self._ticks.stop()
        self._app.close()
