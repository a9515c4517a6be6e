"""The page that rewrites the selection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from PySide6.QtGui import QGuiApplication, QTextCursor
from PySide6.QtWidgets import (
    QComboBox,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ..editor import Editor, plain
from ..settings import Settings
from ..work.rewriting import Rewrite, Rewriter
from ..work.worker import Job, Worker
from .page import Page, row


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
