"""A list of texts with their probabilities, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QPainter
from PySide6.QtWidgets import (
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QWidget,
)

from ..theme import LIGHT, Colours

LABEL, SHARE = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1
ROW = 40  # pixels
MARGIN = 8


class Bars(QListWidget):
    """Rows with a label, a probability and a bar. ``chosen``: a row was clicked."""

    chosen = Signal(str)

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("bars")
        self.setAccessibleName(name)
        self.setMouseTracking(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._delegate = _Delegate(self)
        self.setItemDelegate(self._delegate)
        self.itemActivated.connect(self._choose)
        self.itemClicked.connect(self._choose)

    @property
    def rows(self) -> list[tuple[str, float]]:
        """The labels and their probabilities."""
        items = [self.item(row) for row in range(self.count())]
        return [(item.data(LABEL), item.data(SHARE)) for item in items]

    def show_rows(self, rows: Sequence[tuple[str, float]]) -> None:
        """Show labels with their probabilities, from 0 to 1."""
        self.clear()
        for label, share in rows:
            item = QListWidgetItem(f"{readable(label)}, {percent(share)}")
            item.setData(LABEL, label)
            item.setData(SHARE, share)
            self.addItem(item)

    def set_colours(self, colours: Colours) -> None:
        """Take the colours of a theme."""
        self._delegate.colours = colours
        self.viewport().update()

    def sizeHint(self) -> QSize:  # noqa: N802
        """Ask for three rows; there may be room for more."""
        return QSize(200, 3 * ROW)

    def _choose(self, item: QListWidgetItem) -> None:
        self.chosen.emit(item.data(LABEL))


class _Delegate(QStyledItemDelegate):
    colours = LIGHT

    def sizeHint(  # noqa: N802
        self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> QSize:
        return QSize(0, ROW)

    def paint(
        self,
        painter: QPainter,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> None:
        colours, share = self.colours, index.data(SHARE)
        state = option.state  # type: ignore[attr-defined]
        area = QRectF(option.rect).adjusted(0, 1, 0, -1)  # type: ignore[attr-defined]
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        if state & (QStyle.StateFlag.State_MouseOver | QStyle.StateFlag.State_HasFocus):
            painter.setBrush(QColor(colours.hover))
            painter.drawRoundedRect(area, 6, 6)
        inner = area.adjusted(MARGIN, 5, -MARGIN, -6)
        track = QRectF(inner.left(), inner.bottom() - 4, inner.width(), 4)
        painter.setBrush(QColor(colours.line))
        painter.drawRoundedRect(track, 2, 2)
        painter.setBrush(QColor(colours.accent))
        filled = QRectF(track)
        filled.setWidth(max(4.0, track.width() * share))
        painter.drawRoundedRect(filled, 2, 2)
        words = inner.adjusted(0, 0, 0, -9)
        painter.setPen(QColor(colours.muted))
        painter.drawText(words, Qt.AlignmentFlag.AlignRight, percent(share))
        room = int(words.width() - painter.fontMetrics().horizontalAdvance("100 %") - MARGIN)
        label = painter.fontMetrics().elidedText(
            readable(index.data(LABEL)), Qt.TextElideMode.ElideRight, room
        )
        painter.setPen(QColor(colours.text))
        painter.drawText(words, Qt.AlignmentFlag.AlignLeft, label)
        painter.restore()


def readable(label: str) -> str:
    """Return a label to show: tokens of white space have signs."""
    return label.replace("\n", "↵").strip() or "␣"


def percent(share: float) -> str:
    """Return a probability in percent."""
    return "< 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")
