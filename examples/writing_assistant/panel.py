"""The side panel: probable next words, rewriting a selection, and choices between labels."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from PySide6.QtCore import QSize, Qt, Signal
from PySide6.QtGui import QGuiApplication, QTextCursor
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from .bars import Bars
from .choosing import Chosen, choose, split_labels
from .editor import Editor, plain
from .rewriting import Rewrite, Rewriter
from .settings import Settings
from .suggestions import Writer
from .worker import Job, Work, Worker

WIDTH = 312  # pixels


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


class NextPage(Page):
    """The most probable next tokens."""

    def __init__(self, worker: Worker, editor: Editor) -> None:
        super().__init__(worker, editor)
        self._hint = self.muted("Pause while you write to see how the text may go on.")
        self.bars = Bars("Next words")
        self.bars.chosen.connect(self._insert)
        self.column.addWidget(self.bars, 1)
        self._text = ""
        worker.done.connect(self._on_done)
        worker.failed.connect(self._on_failed)

    def ask(self, writer: Writer, text: str) -> None:
        """Find the next words of a text."""
        self.cancel()
        self._text = text
        self._job = self._worker.start(partial(self._work, writer, text))

    def clear(self) -> None:
        """Show nothing."""
        self.cancel()
        self._job = None
        self.bars.clear()
        self._hint.show()

    @staticmethod
    async def _work(writer: Writer, text: str, job: Job) -> list[tuple[str, float]]:
        return await writer.next_words(job, text)

    def _on_done(self, job: Job, rows: object) -> None:
        if job is self._job and isinstance(rows, list) and not job.cancelled.is_set():
            self.bars.show_rows(rows)
            self._hint.setVisible(not rows)

    def _on_failed(self, job: Job, sentence: str) -> None:
        if job is self._job:
            self.troubled.emit(sentence)

    def _insert(self, word: str) -> None:
        if self._editor.text_before_caret() != self._text:
            return  # the words belong to another place
        self._editor.drop_ghost()
        self._editor.textCursor().insertText(
            word.removeprefix(" ") if self._text.endswith(" ") else word
        )
        self._editor.setFocus()


class RewritePage(Page):
    """What an encoder-decoder model makes of the selection."""

    def __init__(self, worker: Worker, editor: Editor, settings: Settings) -> None:
        super().__init__(worker, editor)
        self._rewriter: Rewriter | None = None
        self._source, self._source_text = QTextCursor(), ""
        self._hint = self.muted("")
        self._tasks = QVBoxLayout()
        self._tasks.setSpacing(6)
        self.column.addLayout(self._tasks)
        self._languages = self._language_row()
        self.own_prompt = QLineEdit(settings.own_prompt)
        self.own_prompt.setAccessibleName("Own prompt")
        self.own_prompt.setToolTip("{text} stands for the selection: paraphrase: {text}")
        self.own_prompt.returnPressed.connect(self._run_own)
        run = QPushButton("Run")
        run.clicked.connect(self._run_own)
        self._own = row(self.own_prompt, run)
        self.column.addWidget(self._own)
        self.result = QPlainTextEdit()
        self.result.setReadOnly(True)
        self.result.setAccessibleName("Result")
        self.result.setPlaceholderText("The result appears here first.")
        self.result.setMinimumHeight(70)
        self.column.addSpacing(4)
        self.column.addWidget(self.result, 1)
        self.replace_button, self._insert, self._copy = map(
            QPushButton, ("Replace", "Insert after", "Copy")
        )
        self.replace_button.setObjectName("primary")
        self.replace_button.clicked.connect(self._on_replace)
        self._insert.clicked.connect(self._on_insert)
        self._copy.clicked.connect(self._on_copy)
        self.column.addWidget(row(self.replace_button, self._insert, self._copy))
        worker.piece.connect(self._on_piece)
        worker.done.connect(self._on_done)
        worker.failed.connect(self._on_failed)
        self._is_done(False)
        self.set_rewriter(None)

    def set_rewriter(self, rewriter: Rewriter | None) -> None:
        """Offer what a model can do; None while there is no model."""
        self.cancel()
        self._rewriter = rewriter
        while self._tasks.count():
            old: Any = self._tasks.takeAt(0)
            old.widget().deleteLater()
        for rewrite in rewriter.rewrites if rewriter else ():
            button = QPushButton(rewrite.title)
            button.setToolTip(rewrite.hint)
            button.clicked.connect(partial(self.run, rewrite))
            self._tasks.addWidget(button)
        self._hint.setText(
            "Works on the selection, or on the paragraph of the caret."
            if rewriter
            else "Open the bundle of a T5 or a BART to rewrite text."
        )
        self._own.setEnabled(rewriter is not None)
        languages = rewriter.languages if rewriter else []
        for box in (self._from, self._to):
            box.clear()
            for code, name in languages:
                box.addItem(name, code)
        self._from.insertItem(0, "Model's own", None)
        self._from.setCurrentIndex(0)
        self._languages.setVisible(bool(languages))

    def run(self, rewrite: Rewrite, *_: object) -> None:
        """Rewrite the selection."""
        if self._rewriter is not None:
            self._begin(partial(self._rewrite, self._rewriter, rewrite), f"{rewrite.title}…")

    def _run_own(self) -> None:
        if self._rewriter is not None:
            work = partial(self._with_prompt, self._rewriter, self.own_prompt.text())
            self._begin(work, "Rewriting…")

    def _run_translation(self) -> None:
        if self._rewriter is not None:
            languages = self._from.currentData(), self._to.currentData()
            self._begin(partial(self._translate, self._rewriter, *languages), "Translating…")

    @staticmethod
    async def _rewrite(rewriter: Rewriter, rewrite: Rewrite, text: str, job: Job) -> str:
        return await rewriter.rewrite(job, rewrite, text)

    @staticmethod
    async def _with_prompt(rewriter: Rewriter, prompt: str, text: str, job: Job) -> str:
        return await rewriter.with_prompt(job, prompt, text)

    @staticmethod
    async def _translate(
        rewriter: Rewriter, source: str | None, target: str | None, text: str, job: Job
    ) -> str:
        return await rewriter.translate(job, text, source, target)

    def _begin(self, work: Callable[[str, Job], Awaitable[str]], state: str) -> None:
        self._source = self.passage()
        self._source_text = text = plain(self._source.selectedText())
        if not text.strip():
            self.troubled.emit("There is nothing to rewrite: write or select some text.")
            return
        self.result.clear()
        self._is_done(False)
        self.start(partial(work, text), state)

    def _language_row(self) -> QWidget:
        self._from, self._to = QComboBox(), QComboBox()
        self._from.setAccessibleName("From")
        self._to.setAccessibleName("To")
        for box in (self._from, self._to):
            box.setMinimumContentsLength(8)
            box.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        button = QPushButton("Translate")
        button.clicked.connect(self._run_translation)
        whole = QWidget()
        column = QVBoxLayout(whole)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(row(self._from, QLabel("to"), self._to))
        column.addWidget(button)
        self.column.addWidget(whole)
        return whole

    def _is_done(self, yes: bool) -> None:
        for button in (self.replace_button, self._insert, self._copy):
            button.setEnabled(yes)

    def _on_piece(self, job: Job, piece: str) -> None:
        if job is self._job and not job.cancelled.is_set():
            cursor = self.result.textCursor()
            cursor.movePosition(QTextCursor.MoveOperation.End)
            cursor.insertText(piece)

    def _on_done(self, job: Job, text: object) -> None:
        if job is self._job and isinstance(text, str) and not job.cancelled.is_set():
            if self.result.toPlainText() != text:
                self.result.setPlainText(text)
            self._is_done(bool(text))

    def _on_failed(self, job: Job, sentence: str) -> None:
        if job is self._job:
            self.troubled.emit(sentence)

    def _on_replace(self) -> None:
        if plain(self._source.selectedText()) != self._source_text:
            self.troubled.emit(
                "The text has changed since it was rewritten: insert the result after it, or "
                "rewrite it again."
            )
            return
        self._source.insertText(self.result.toPlainText())
        self._is_done(False)
        self._copy.setEnabled(True)
        self._editor.setFocus()

    def _on_insert(self) -> None:
        cursor = QTextCursor(self._source)
        cursor.setPosition(cursor.selectionEnd())
        cursor.insertText("\n" + self.result.toPlainText())
        self._editor.setFocus()

    def _on_copy(self) -> None:
        QGuiApplication.clipboard().setText(self.result.toPlainText())


class ClassifyPage(Page):
    """Labels with the probability of each after a text."""

    def __init__(self, worker: Worker, editor: Editor, settings: Settings) -> None:
        super().__init__(worker, editor)
        self._models: dict[str, Writer | Rewriter] = {}
        self._questions = {"writer": settings.question, "rewriter": settings.source_question}
        self.muted("How well each label continues the selection or the paragraph of the caret.")
        self.model_box = QComboBox()
        self.model_box.setAccessibleName("Model")
        self.model_box.currentIndexChanged.connect(self._on_model)
        self.question = QLineEdit()
        self.question.setAccessibleName("Prompt")
        self.question.setToolTip("{text} stands for the selection")
        self.question.textEdited.connect(self._on_question)
        self.labels = QLineEdit(settings.labels)
        self.labels.setAccessibleName("Labels")
        self.labels.setToolTip("Labels with commas between them")
        self.button = QPushButton("Compare")
        self.button.setObjectName("primary")
        self.button.clicked.connect(self.compare)
        self.labels.returnPressed.connect(self.compare)
        self.question.returnPressed.connect(self.compare)
        fields = (("Model", self.model_box), ("Prompt", self.question), ("Labels", self.labels))
        for name, field in fields:
            label = QLabel(name)
            label.setBuddy(field)
            self.column.addWidget(label)
            self.column.addWidget(field)
        self.column.addSpacing(2)
        self.column.addWidget(self.button)
        self.bars = Bars("Probabilities of the labels")
        self.column.addWidget(self.bars, 1)
        self._cut = self.muted("")
        self._cut.hide()
        worker.done.connect(self._on_done)
        worker.failed.connect(self._on_failed)
        self.button.setEnabled(False)

    @property
    def questions(self) -> dict[str, str]:
        """The prompts of both kinds of model."""
        return dict(self._questions)

    def set_model(self, role: str, model: Writer | Rewriter | None, name: str) -> None:
        """Offer a model, or no longer; ``role``: "writer" or "rewriter"."""
        index = self.model_box.findData(role)
        if model is None:
            self._models.pop(role, None)
            self.model_box.removeItem(index)
        elif index < 0:
            self._models[role] = model
            self.model_box.insertItem(0 if role == "writer" else 9, name, role)
            if role == "writer":
                self.model_box.setCurrentIndex(0)
        else:
            self._models[role] = model
            self.model_box.setItemText(index, name)
        self.button.setEnabled(bool(self._models))

    def compare(self) -> None:
        """Compute the probabilities."""
        model = self._models.get(self.model_box.currentData())
        text = plain(self.passage().selectedText())
        if model is None:
            return
        if not text.strip():
            self.troubled.emit("There is nothing to classify: write or select some text.")
            return
        labels = split_labels(self.labels.text())
        self.start(partial(self._work, model, self.question.text(), text, labels), "Comparing…")

    @staticmethod
    async def _work(
        model: Writer | Rewriter, question: str, text: str, labels: list[str], job: Job
    ) -> Chosen:
        return await choose(job, model.model, model.lock, question, text, labels)

    def _on_model(self) -> None:
        self.question.setText(self._questions.get(self.model_box.currentData(), ""))
        self.bars.clear()
        self._cut.hide()

    def _on_question(self, text: str) -> None:
        self._questions[self.model_box.currentData()] = text

    def _on_done(self, job: Job, chosen: object) -> None:
        if job is self._job and isinstance(chosen, Chosen) and not job.cancelled.is_set():
            self.bars.show_rows(chosen.rows)
            self._cut.setVisible(chosen.cut_tokens > 0)
            self._cut.setText(
                f"The text is too long for the model, which did not read {chosen.cut_tokens:,} "
                "tokens of it."
            )

    def _on_failed(self, job: Job, sentence: str) -> None:
        if job is self._job:
            self.bars.clear()
            self.troubled.emit(sentence)


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
