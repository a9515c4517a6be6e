"""What the pages of the panel share: a column of widgets and a job."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from ..editor import Editor
from ..work.worker import Job, Work, Worker


class Page(QWidget):
    """A page of the panel, with a job of its own."""

    began = Signal(object, str)  # the job, and what it does
    troubled = Signal(str)  # one sentence

    def __init__(self, worker: Worker, editor: Editor) -> None:
        super().__init__()
        self._worker, self._editor = worker, editor
        self._job: Job | None = None
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(0, 0, 0, 0)
        self.column.setSpacing(6)

    def start(self, work: Work, state: str) -> None:
        """Start a job in place of the last one."""
        self.cancel()
        self._job = self._worker.start(work)
        self.began.emit(self._job, state)

    def cancel(self) -> None:
        """Cancel the job, if there is one."""
        if self._job is not None:
            self._job.cancel()

    def muted(self, text: str) -> QLabel:
        """Add a line of explanation."""
        label = QLabel(text)
        label.setObjectName("muted")
        label.setWordWrap(True)
        self.column.addWidget(label)
        return label

    def passage(self) -> QTextCursor:
        """Return the selection, or the paragraph of the caret without white space around it."""
        cursor = self._editor.textCursor()
        if not cursor.hasSelection():
            cursor.select(QTextCursor.SelectionType.BlockUnderCursor)
            if cursor.selectedText().startswith("\u2029"):
                cursor.setPosition(cursor.selectionStart() + 1)
                cursor.movePosition(
                    QTextCursor.MoveOperation.EndOfBlock, QTextCursor.MoveMode.KeepAnchor
                )
        return cursor


def row(*widgets: QWidget) -> QWidget:
    """Return a widget with others beside each other."""
    whole = QWidget()
    layout = QHBoxLayout(whole)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    layout.setAlignment(Qt.AlignmentFlag.AlignVCenter)
    for widget in widgets:
        layout.addWidget(widget)
    return whole
