"""What the window tells the user: a calm bar for an error, and the line at the bottom."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QPushButton, QWidget


class Notice(QFrame):
    """A bar with one sentence, which the user closes."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("notice")
        self._sentence = ""
        self._label = QLabel()
        self._label.setWordWrap(True)
        self._label.setTextFormat(Qt.TextFormat.PlainText)
        self._label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        close = QPushButton("Dismiss")
        close.setObjectName("plain")
        close.clicked.connect(self.hide)
        row = QHBoxLayout(self)
        row.setContentsMargins(20, 8, 12, 8)
        row.addWidget(self._label, 1)
        row.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    @property
    def sentence(self) -> str:
        """The sentence that is shown; "" if the bar is hidden."""
        return "" if self.isHidden() else self._sentence

    def tell(self, sentence: str) -> None:
        """Show a sentence."""
        self._sentence = sentence
        # A path has no place to wrap: give it some, or the window would become as wide.
        self._label.setText(sentence.replace("/", "/\u200b").replace("\\", "\\\u200b"))
        self.show()


class StatusLine(QFrame):
    """State, hint, progress and figures in one line."""

    cancelled = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("status")
        self._state, self._figures = QLabel(), QLabel()
        self._state.setObjectName("state")
        self._figures.setObjectName("figures")
        self._progress = QProgressBar()
        self._progress.setTextVisible(False)
        self._progress.setFixedWidth(110)
        self._progress.setAccessibleName("Progress")
        self._cancel = QPushButton("Cancel")
        self._cancel.clicked.connect(self.cancelled)
        row = QHBoxLayout(self)
        row.setContentsMargins(20, 0, 20, 0)
        row.setSpacing(12)
        row.addWidget(self._state)
        row.addWidget(self._progress)
        row.addWidget(self._cancel)
        row.addStretch(1)
        row.addWidget(self._figures)
        self.setFixedHeight(38)
        self._cancel.setFixedHeight(28)
        self.rest("")

    @property
    def state(self) -> str:
        """The state that is shown."""
        return self._state.text()

    def rest(self, state: str) -> None:
        """Show a state without work."""
        self._state.setText(state)
        self._progress.hide()
        self._cancel.hide()

    def work(self, state: str, *, can_cancel: bool) -> None:
        """Show that work is under way."""
        self._state.setText(state)
        self._progress.setRange(0, 0)
        self._progress.show()
        self._cancel.setVisible(can_cancel)

    def progress(self, done: int, total: int) -> None:
        """Show how much of the work is done."""
        self._progress.setRange(0, total)
        self._progress.setValue(done)

    def figures(self, text: str) -> None:
        """Show figures at the right."""
        self._figures.setText(text)
