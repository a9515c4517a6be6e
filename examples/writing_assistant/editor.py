"""The editor: plain text, and a suggestion in grey after the caret that is no part of the text."""

from __future__ import annotations

import re
from typing import Any

from PySide6.QtCore import QEvent, QMimeData, Qt, QTimer, Signal
from PySide6.QtGui import (
    QColor,
    QFont,
    QInputMethodEvent,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPalette,
    QResizeEvent,
    QTextBlock,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextLayout,
)
from PySide6.QtWidgets import QTextEdit, QWidget

WIDEST = 700  # pixels of a line of text at most
LEAST_MARGIN = 28
WIDE_MARGIN = 24  # beside it, unless the window is narrow
FRAME_MS = 16
LINE_HEIGHT = 150  # percent
WORD = re.compile(r"\s*\S+")
LINE_SEPARATOR = "\u2028"  # Qt's sign for a line break within a paragraph
PARAGRAPH_SEPARATOR = "\u2029"
MODIFIERS = {
    Qt.Key.Key_Shift,
    Qt.Key.Key_Control,
    Qt.Key.Key_Alt,
    Qt.Key.Key_AltGr,
    Qt.Key.Key_Meta,
    Qt.Key.Key_CapsLock,
    Qt.Key.Key_NumLock,
}


class Editor(QTextEdit):
    """Plain text with a suggestion.

    The suggestion is shown as Qt shows text of an input method that is not committed: the layout
    of the paragraph has it, and wraps it, but the document does not. So it can never be saved,
    copied or undone by mistake.
    """

    asked = Signal()  # Tab without a suggestion: the user wants one now
    dropped = Signal()  # the suggestion was removed
    accepted = Signal()  # the whole suggestion was taken

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("editor")
        self.setAccessibleName("Text")
        self.setAcceptRichText(False)
        self.setPlaceholderText("Start writing. When you pause, the model continues in grey.")
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.document().setDocumentMargin(LEAST_MARGIN)
        self._ghost = ""
        self._anchor = 0  # position of the suggestion in the document
        self._shown = ""  # the part of it that is laid out
        self._block = QTextBlock()  # the paragraph that has it
        self._is_own = False  # the editor itself inserts text
        self._frame = QTimer(self)
        self._frame.setSingleShot(True)
        self._frame.timeout.connect(self._show_pieces)
        self._colour = QColor(Qt.GlobalColor.gray)
        self.replace_all("")
        self.textChanged.connect(self._on_change)
        self.cursorPositionChanged.connect(self._on_move)
        self.selectionChanged.connect(self._on_move)  # the caret may stay where it is

    @property
    def ghost(self) -> str:
        """The suggestion that is shown."""
        return self._ghost

    @property
    def text(self) -> str:
        """The text of the user."""
        return self.toPlainText()

    def text_before_caret(self) -> str | None:
        """Return the text to continue; None if the caret is not at the end of a paragraph."""
        cursor = self.textCursor()
        if cursor.hasSelection() or not cursor.atBlockEnd():
            return None
        cursor.setPosition(0, QTextCursor.MoveMode.KeepAnchor)
        return plain(cursor.selectedText())

    def replace_all(self, text: str) -> None:
        """Show another text; nothing of the old one can be undone."""
        self.drop_ghost()
        self.setPlainText(text)
        spacing = QTextBlockFormat()
        spacing.setLineHeight(
            LINE_HEIGHT, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value
        )
        cursor = QTextCursor(self.document())
        cursor.select(QTextCursor.SelectionType.Document)
        cursor.mergeBlockFormat(spacing)
        self.document().clearUndoRedoStacks()
        self.document().setModified(False)

    def set_look(self, font: QFont, ghost: str) -> None:
        """Set the font of the text and the colour of suggestions."""
        self._colour = QColor(ghost)
        self.document().setDefaultFont(font)
        self.setStyleSheet(f"#editor {{ font-size: {font.pointSizeF()}pt; }}")  # of the hint
        colours = self.palette()
        colours.setColor(QPalette.ColorRole.PlaceholderText, self._colour)
        self.setPalette(colours)
        self._lay_out()

    def add_ghost(self, piece: str) -> None:
        """Show more of a suggestion after the caret."""
        if not self._ghost:
            self._anchor = self.textCursor().position()
        self._ghost += piece
        if not self._frame.isActive():  # a fast model sends more pieces than a screen shows
            self._show_pieces()

    def _show_pieces(self) -> None:
        """Show the pieces that came since the last frame."""
        if self._ghost and self._shown != self._ghost:
            self._lay_out()
            self._show_end()
            self._frame.start(FRAME_MS)

    def drop_ghost(self) -> None:
        """Remove the suggestion."""
        if self._ghost:
            self._ghost = ""
            self._lay_out()
            self.dropped.emit()

    def accept_all(self) -> None:
        """Make the suggestion a part of the text."""
        self._accept(len(self._ghost))
        self.accepted.emit()

    def accept_word(self) -> None:
        """Make the first word of the suggestion a part of the text, and keep the rest."""
        word = WORD.match(self._ghost)
        if word is None or word.end() == len(self._ghost):
            self.accept_all()
        else:
            self._accept(word.end())

    def _accept(self, size: int) -> None:
        taken, rest = self._ghost[:size], self._ghost[size:]
        self._ghost = ""
        self._lay_out()
        self._is_own = True
        cursor = self.textCursor()
        cursor.beginEditBlock()  # so that it is undone by itself
        cursor.insertText(taken)
        cursor.endEditBlock()
        self.setTextCursor(cursor)
        self._is_own = False
        self._anchor, self._ghost = cursor.position(), rest
        self._lay_out()
        self.ensureCursorVisible()

    def _lay_out(self) -> None:
        """Lay out the paragraph of the suggestion, with it or without it."""
        document = self.document()
        if self._ghost:
            self._block = document.findBlock(self._anchor)
        block = self._block  # which may have moved since it got the suggestion
        self._shown = self._ghost
        if not block.isValid():
            return
        layout = block.layout()
        if self._ghost:
            start = self._anchor - block.position()
            shown = self._ghost.replace("\n", LINE_SEPARATOR)
            layout.setPreeditArea(start, shown)
            grey: Any = QTextLayout.FormatRange()
            grey.start, grey.length, grey.format = start, utf16_length(shown), QTextCharFormat()
            grey.format.setForeground(self._colour)
            layout.setFormats([grey])
        elif layout.preeditAreaText():
            layout.setPreeditArea(-1, "")
            layout.clearFormats()
        else:
            return
        document.markContentsDirty(block.position(), block.length())

    def _show_end(self) -> None:
        """Scroll so that the suggestion is seen, as long as the caret stays seen, too."""
        block = self.document().findBlock(self._anchor)
        end = self._anchor - block.position() + utf16_length(self._ghost)
        line = block.layout().lineForTextPosition(end)
        if not line.isValid():
            return
        corner = self.document().documentLayout().blockBoundingRect(block).topLeft()
        bar = self.verticalScrollBar()
        below = corner.y() + line.rect().bottom() + LEAST_MARGIN / 2
        excess = below - bar.value() - self.viewport().height()
        room = self.cursorRect().top()
        if excess > 0 and room > 0:
            bar.setValue(bar.value() + int(min(excess, room)))

    def _on_change(self) -> None:
        if not self._is_own:
            self.drop_ghost()

    def _on_move(self) -> None:
        cursor = self.textCursor()
        if not self._is_own and (cursor.hasSelection() or cursor.position() != self._anchor):
            self.drop_ghost()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802
        """Tab accepts the suggestion, Ctrl+Right a word of it, and other keys remove it.

        On macOS the key of a word is Option+Right.
        """
        is_plain = event.modifiers() == Qt.KeyboardModifier.NoModifier
        if event.key() == Qt.Key.Key_Tab and is_plain:
            if self._ghost:
                self.accept_all()
            else:
                self.asked.emit()
        elif event.key() in MODIFIERS:
            super().keyPressEvent(event)
        elif self._ghost and event.matches(QKeySequence.StandardKey.MoveToNextWord):
            self.accept_word()
        else:
            had_ghost = bool(self._ghost)
            self.drop_ghost()
            if event.key() == Qt.Key.Key_Escape:
                self.dropped.emit()  # also before the first piece has come
                event.setAccepted(had_ghost)
            else:
                super().keyPressEvent(event)

    def inputMethodEvent(self, event: QInputMethodEvent) -> None:  # noqa: N802
        """Leave the place after the caret to the input method."""
        if self._ghost and not event.preeditString() and not event.commitString():
            event.accept()  # some input methods send empty events before keys such as Tab
            return
        self.drop_ghost()
        super().inputMethodEvent(event)

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Remove the suggestion: positions of the mouse are those of the text."""
        self.drop_ghost()
        super().mousePressEvent(event)

    def insertFromMimeData(self, source: QMimeData) -> None:  # noqa: N802
        """Paste text without its look."""
        if source.hasText():
            self.textCursor().insertText(source.text())
            self.ensureCursorVisible()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Keep lines at a length that is good to read."""
        super().resizeEvent(event)
        least = WIDE_MARGIN if self.width() > WIDEST * 3 // 4 else 0
        side = max(least, (self.width() - WIDEST) // 2 - LEAST_MARGIN)
        if self.viewportMargins().left() != side:
            self.setViewportMargins(side, 0, side, 0)

    def event(self, event: QEvent) -> bool:
        """Take Tab and Escape before the window's shortcuts do."""
        if (
            event.type() == QEvent.Type.ShortcutOverride
            and isinstance(event, QKeyEvent)
            and event.key() in (Qt.Key.Key_Tab, Qt.Key.Key_Escape)
        ):
            event.accept()
            return True
        return super().event(event)


def utf16_length(text: str) -> int:
    """Return the length of a text as Qt counts."""
    return len(text.encode("utf-16-le")) // 2


def plain(selected: str) -> str:
    """Return the text of a selection, in which Qt has signs of its own for line breaks."""
    return selected.replace(PARAGRAPH_SEPARATOR, "\n").replace(LINE_SEPARATOR, "\n")
