"""The page that compares labels."""

from __future__ import annotations

from functools import partial

from PySide6.QtWidgets import QComboBox, QLabel, QLineEdit, QPushButton

from ..editor import Editor, plain
from ..settings import Settings
from ..work.choosing import Chosen, choose, split_labels
from ..work.rewriting import Rewriter
from ..work.suggestions import Writer
from ..work.worker import Job, Worker
from .bars import Bars
from .page import Page


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
