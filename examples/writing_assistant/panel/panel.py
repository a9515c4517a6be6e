"""The panel: its pages, and the buttons that choose one."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtWidgets import (
    QButtonGroup,
    QFrame,
    QHBoxLayout,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QVBoxLayout,
)

from ..editor import Editor
from ..settings import Settings
from ..work.worker import Worker
from .classify import ClassifyPage
from .next_word import NextPage
from .page import Page
from .rewrite import RewritePage

WIDTH = 312  # pixels


class Panel(QFrame):
    """The pages, and a row of buttons to choose one."""

    turned = Signal()

    def __init__(self, worker: Worker, editor: Editor, settings: Settings) -> None:
        super().__init__()
        self.setObjectName("panel")
        self.setFixedWidth(WIDTH)
        self.next = NextPage(worker, editor)
        self.rewrite = RewritePage(worker, editor, settings)
        self.classify = ClassifyPage(worker, editor, settings)
        self._stack = QStackedWidget()
        self._tabs = QButtonGroup(self)
        tabs = QHBoxLayout()
        tabs.setSpacing(4)
        pages = (("Next word", self.next), ("Rewrite", self.rewrite), ("Classify", self.classify))
        for number, (name, page) in enumerate(pages):
            button = QPushButton(name)
            button.setObjectName("tab")
            button.setCheckable(True)
            self._tabs.addButton(button, number)
            tabs.addWidget(button)
            self._stack.addWidget(page if page is self.next else scrolled(page))
        self._tabs.button(0).setChecked(True)
        self._tabs.idClicked.connect(self.turn)
        column = QVBoxLayout(self)
        column.setContentsMargins(18, 14, 18, 16)
        column.setSpacing(14)
        column.addLayout(tabs)
        column.addWidget(self._stack, 1)

    @property
    def shows_next(self) -> bool:
        """Whether the page of next words is seen."""
        return self.isVisible() and self._stack.currentIndex() == 0

    @property
    def pages(self) -> tuple[Page, ...]:
        """The pages."""
        return self.next, self.rewrite, self.classify

    def turn(self, number: int) -> None:
        """Show a page."""
        self._tabs.button(number).setChecked(True)
        self._stack.setCurrentIndex(number)
        self.turned.emit()

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Allow low windows: the pages shrink."""
        return QSize(WIDTH, 120)


def scrolled(page: Page) -> QScrollArea:
    """Return an area in which a page scrolls if the window is low."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    page.setObjectName("page")
    area.setWidget(page)
    return area
