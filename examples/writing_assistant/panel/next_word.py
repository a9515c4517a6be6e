"""The page of the most probable next tokens."""

from __future__ import annotations

from functools import partial

from ..editor import Editor
from ..work.suggestions import Writer
from ..work.worker import Job, Worker
from .bars import Bars
from .page import Page


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
