"""The window: it puts the parts together, and passes text to the worker and answers back."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QActionGroup, QCloseEvent, QKeySequence
from PySide6.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QMenu,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from .drafts import Draft, Saved, read_text, write_text
from .editor import Editor
from .feedback import Notice, StatusLine
from .panel.panel import Panel
from .preferences import THEMES, Preferences
from .settings import Settings, Store
from .theme import set_theme, ui_font
from .work.models import DEMOS, model_name, open_model
from .work.rewriting import Rewriter
from .work.suggestions import Suggested, Writer
from .work.worker import Job, Worker

DRAFT_MS = 1000  # from the last change to the saving of the draft
COUNT_MS = 200
HINT = "Tab to accept · {} for one word · Esc to dismiss"


class Window(QMainWindow):
    """A window of the app. It has its own worker, so that windows do not wait for each other."""

    wants_window = Signal(object)  # with the file to open in it, or None
    wants_end = Signal()  # of the whole app
    ended = Signal(object)  # the window itself, once its thread has ended

    def __init__(self, store: Store, draft: Draft) -> None:
        super().__init__()
        self.store, self._draft = store, draft
        self.worker = Worker()
        self.editor = Editor()
        self.notice, self.status = Notice(), StatusLine()
        self.panel = Panel(self.worker, self.editor, self.settings)
        self.writer: Writer | None = None
        self.rewriter: Rewriter | None = None
        self._path: Path | None = None
        self._loading: dict[Job, str] = {}  # a job and the key of its model
        self._suggestion: Job | None = None
        self._long: Job | None = None  # work that the user may want to cancel
        self._saving: Job | None = None
        self._long_state = ""
        self._rate = self._words = ""  # figures of the status line
        self._is_closing = False
        self._pause = timer(self, self._on_pause)
        self._draft_pause = timer(self, self._keep_draft)
        self._count_pause = timer(self, self._count)
        self._lay_out()
        self._fill_menus()
        self._connect()
        self.apply_look()
        self.open_bundle(self.settings.writer)
        self.open_bundle(self.settings.rewriter)
        self._restore()

    def open_bundle(self, key: str) -> None:
        """Load a demo model or the folder of a bundle. Its kind says what it will do."""
        if key in self._loading.values():
            return
        job = self.worker.start(partial(self._load, key, self.settings.threads))
        self._loading[job] = key
        self._show_state()

    def open_text(self, path: Path) -> None:
        """Show the text of a file in this window, which is empty."""
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:
            self.tell(sentence_of(error, path))
            return
        self.editor.replace_all(text)
        self._path = path
        self._keep_draft()
        self._show_title()

    def save(self) -> bool:
        """Save the text in its file, or ask for one; return whether it was saved."""
        if self._path is None:
            return self.save_as()
        try:
            write_text(self._path, self.editor.text)
        except OSError as error:
            self.tell(sentence_of(error, self._path))
            return False
        self.editor.document().setModified(False)
        self._keep_draft()
        self._show_title()
        return True

    def save_as(self) -> bool:
        """Ask for a file, and save the text in it."""
        start = str(self._path or Path.home() / "Untitled.txt")
        name, _ = QFileDialog.getSaveFileName(self, "Save", start, "Texts (*.txt *.md);;All (*)")
        if not name:
            return False
        old, self._path = self._path, Path(name)
        if self.save():
            return True
        self._path = old
        return False

    @property
    def is_empty(self) -> bool:
        """Whether the window has neither a text nor a file."""
        return self._path is None and self.editor.document().isEmpty()

    @property
    def settings(self) -> Settings:
        """The choices of the user."""
        return self.store.settings

    def show_rate(self, tokens_per_s: float | None) -> None:
        """Show the throughput of the last suggestion, or none."""
        self._rate = "" if tokens_per_s is None else f"{tokens_per_s:,.0f} tokens/s"
        self._show_state()

    def tell(self, sentence: str) -> None:
        """Show the sentence of an error."""
        self.notice.tell(sentence)

    def _lay_out(self) -> None:
        self.setWindowTitle("Writing Assistant")
        self._title, self._subtitle = QLabel(), QLabel()
        self._title.setObjectName("title")
        self._subtitle.setObjectName("subtitle")
        self._title.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self._writer_chip = chip("The model that continues your text")
        self._rewriter_chip = chip("The model that rewrites selections")
        top = QFrame()
        top.setObjectName("top")
        top.setFixedHeight(50)
        row = QHBoxLayout(top)
        row.setContentsMargins(20, 0, 12, 0)
        row.setSpacing(8)
        row.addWidget(self._title, 1)
        row.addWidget(self._subtitle)
        row.addSpacing(12)
        row.addWidget(self._writer_chip)
        row.addWidget(self._rewriter_chip)
        middle = QHBoxLayout()
        middle.setSpacing(0)
        middle.addWidget(self.editor, 1)
        middle.addWidget(self.panel)
        whole = QWidget()
        column = QVBoxLayout(whole)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(top)
        column.addWidget(self.notice)
        column.addLayout(middle, 1)
        column.addWidget(self.status)
        self.setCentralWidget(whole)
        self.setMinimumSize(QSize(560, 320))
        self.resize(1080, 720)
        geometry = self.store.file.value("geometry")
        if geometry is not None:
            self.restoreGeometry(geometry)
        self.panel.setVisible(self.settings.shows_panel)

    def _fill_menus(self) -> None:
        keys = QKeySequence.StandardKey
        bar = self.menuBar()
        file = bar.addMenu("&File")
        self._add(file, "&New window", keys.New, self._new_window)
        self._add(file, "&Open…", keys.Open, self._choose_text)
        file.addSeparator()
        self._add(file, "&Save", keys.Save, self.save)
        self._add(file, "Save &as…", keys.SaveAs, self.save_as)
        file.addSeparator()
        self._add(file, "&Close window", keys.Close, self.close)
        self._add(file, "&Quit", keys.Quit, self.wants_end.emit)
        edit = bar.addMenu("&Edit")
        self._add(edit, "&Undo", keys.Undo, self.editor.undo)
        self._add(edit, "&Redo", keys.Redo, self.editor.redo)
        edit.addSeparator()
        self._add(edit, "Cu&t", keys.Cut, self.editor.cut)
        self._add(edit, "&Copy", keys.Copy, self.editor.copy)
        self._add(edit, "&Paste", keys.Paste, self.editor.paste)
        self._add(edit, "Select &all", keys.SelectAll, self.editor.selectAll)
        edit.addSeparator()
        self._add(edit, "S&ettings…", keys.Preferences, self._ask_settings)
        view = bar.addMenu("&View")
        self._shows_panel = self._add(view, "Side &panel", "Ctrl+Shift+P", self._toggle_panel)
        self._shows_panel.setCheckable(True)
        self._shows_panel.setChecked(self.settings.shows_panel)
        self._suggests = self._add(view, "&Suggestions", "Ctrl+Shift+S", self._toggle_suggests)
        self._suggests.setCheckable(True)
        self._suggests.setChecked(self.settings.suggests)
        view.addSeparator()
        themes = QActionGroup(self)
        for name, title in THEMES.items():
            action = self._add(view, title, None, partial(self._choose_theme, name))
            action.setCheckable(True)
            action.setData(name)
            themes.addAction(action)
        self._themes = themes
        for button in (self._writer_chip, self._rewriter_chip):
            menu = QMenu(button)
            for key, title in DEMOS.items():
                self._add(menu, title, None, partial(self.open_bundle, key))
            menu.addSeparator()
            self._add(menu, "Open a bundle…", None, self._choose_bundle)
            button.setMenu(menu)

    def _add(self, menu: QMenu, title: str, keys: Any, do: Any) -> QAction:
        action = QAction(title, self)
        if keys is not None:
            action.setShortcuts(QKeySequence.keyBindings(keys) if not isinstance(keys, str) else [])
            if isinstance(keys, str):
                action.setShortcut(QKeySequence(keys))
        action.triggered.connect(lambda *_: do())  # without the argument of the signal
        menu.addAction(action)
        return action

    def _connect(self) -> None:
        self.editor.textChanged.connect(self._on_text)
        self.editor.cursorPositionChanged.connect(self._ask_soon)
        self.editor.dropped.connect(self._drop)
        self.editor.accepted.connect(self._ask_soon)
        self.editor.asked.connect(self._suggest)
        self.worker.piece.connect(self._on_piece)
        self.worker.done.connect(self._on_done)
        self.worker.failed.connect(self._on_failed)
        self.store.changed.connect(self._on_settings)
        self.worker.progressed.connect(self._on_progress)
        self.worker.stopped.connect(self._on_stopped)
        self.panel.turned.connect(self._ask_soon)
        self.status.cancelled.connect(self._cancel_long)
        for page in self.panel.pages:
            page.began.connect(self._on_long)
            page.troubled.connect(self.tell)

    # Models

    @staticmethod
    async def _load(key: str, threads: int, job: Job) -> Writer | Rewriter:
        def load() -> Writer | Rewriter:
            model = open_model(key, threads)
            made = Rewriter if model.bundle.manifest.has_encoder else Writer
            return made(model, key)

        return await asyncio.to_thread(load)

    def _take(self, model: Writer | Rewriter) -> None:
        """Use a model that was loaded, and close the one before it."""
        if isinstance(model, Writer):
            old: Writer | Rewriter | None = self.writer
            self._drop()
            self.panel.next.clear()
            self.writer = model
            self.store.change(writer=model.key)
        else:
            old, self.rewriter = self.rewriter, model
            self.panel.rewrite.set_rewriter(model)
            self.store.change(rewriter=model.key)
        role = "writer" if isinstance(model, Writer) else "rewriter"
        self.panel.classify.cancel()
        self.panel.classify.set_model(role, model, model_name(model.key))
        if old is not None:
            self.worker.start(partial(close, old))
        self._ask_soon()

    def _choose_bundle(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Open the folder of a bundle")
        if folder:
            self.open_bundle(folder)

    # Suggestions

    def _on_text(self) -> None:
        self._ask_soon()
        self._draft_pause.start(DRAFT_MS)
        self._count_pause.start(COUNT_MS)  # not at each key of a text of megabytes
        self._show_title()

    def _ask_soon(self) -> None:
        """Cancel the suggestion unless it is still wanted, and ask for another after a pause."""
        if self.editor.ghost:
            return
        self._cancel_suggestion()
        if self.settings.suggests or self.panel.shows_next:
            self._pause.start(self.settings.pause_ms)

    def _on_pause(self) -> None:
        self._suggest(self.settings.suggests)

    def _suggest(self, is_wanted: bool = True) -> None:
        """Start a suggestion if it is wanted, and show the next words if they are seen."""
        self._pause.stop()
        self._drop()
        text = self.editor.text_before_caret()
        if text is None or not text.strip() or self.writer is None:
            self.panel.next.clear()
            return
        if is_wanted:
            work = partial(suggest, self.writer, text, self.settings.generation)
            self._suggestion = self.worker.start(work)
        if self.panel.shows_next:
            self.panel.next.ask(self.writer, text)

    def _count(self) -> None:
        count = len(self.editor.text.split())
        self._words = f"{count:,} word" if count == 1 else f"{count:,} words"
        self._show_state()

    def _drop(self) -> None:
        self._cancel_suggestion()
        self.editor.drop_ghost()
        self._show_state()

    def _cancel_suggestion(self) -> None:
        if self._suggestion is not None:
            self._suggestion.cancel()
            self._suggestion = None

    # Answers of the worker

    def _on_piece(self, job: Job, piece: str) -> None:
        if job is self._suggestion:
            is_first = not self.editor.ghost
            self.editor.add_ghost(piece)
            if is_first:
                self._show_state()

    def _on_done(self, job: Job, result: object) -> None:
        if job in self._loading:
            del self._loading[job]
            assert isinstance(result, Writer | Rewriter)
            self._take(result)
        elif job is self._suggestion and isinstance(result, Suggested):
            self.show_rate(result.tokens_per_s)
        elif job is self._long:
            self._long = None
        self._show_state()

    def _on_failed(self, job: Job, sentence: str) -> None:
        if job in self._loading:
            del self._loading[job]
            self.tell(sentence)
        elif job is self._suggestion or job is self._saving:
            self.tell(sentence)
        elif job is self._long:
            self._long = None
        self._show_state()

    def _on_progress(self, job: Job, done: int, total: int) -> None:
        if job is self._long:
            self.status.progress(done, total)

    def _on_long(self, job: Job, state: str) -> None:
        self._long, self._long_state = job, state
        self._show_state()

    def _cancel_long(self) -> None:
        if self._long is not None:
            self._long.cancel()
            self._long = None
            self._show_state()

    def _show_state(self) -> None:
        """Show what is under way, the models, and the size of the text."""
        if self._long is not None:
            self.status.work(self._long_state, can_cancel=True)
        elif self._loading:
            names = " and ".join(model_name(key) for key in self._loading.values())
            self.status.work(f"Loading {names}…", can_cancel=False)
        elif self.editor.ghost:
            keys = QKeySequence(QKeySequence.StandardKey.MoveToNextWord)
            word = keys.toString(QKeySequence.SequenceFormat.NativeText)
            self.status.rest(HINT.format(word.replace("Right", "→")))
        elif self.writer is None:
            self.status.rest("No model continues the text: choose one above.")
        elif not self.settings.suggests:
            self.status.rest("Suggestions are off: Tab asks for one.")
        else:
            self.status.rest("Ready")
        self.status.figures("   ·   ".join(filter(None, (self._rate, self._words))))
        for button, model, none in (
            (self._writer_chip, self.writer, "No writing model"),
            (self._rewriter_chip, self.rewriter, "No rewriting model"),
        ):
            button.setText(model_name(model.key) if model else none)

    # Texts

    def _restore(self) -> None:
        saved = self._draft.read()
        self.editor.replace_all(saved.text)
        self._path = saved.path
        self.editor.document().setModified(saved.is_changed)
        self.editor.moveCursor(self.editor.textCursor().MoveOperation.End)
        self._draft_pause.stop()
        self._count()
        self._show_title()

    def _choose_text(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open", "", "Texts (*.txt *.md);;All (*)")
        if name and self.is_empty:
            self.open_text(Path(name))
        elif name:
            self.wants_window.emit(Path(name))  # the text in this window stays

    def _new_window(self) -> None:
        self.wants_window.emit(None)

    def _saved(self) -> Saved:
        is_changed = self._path is None or self.editor.document().isModified()
        return Saved(self.editor.text, self._path, is_changed)

    def _keep_draft(self) -> None:
        """Write the draft, in the worker's thread: a disk may be slow."""
        self._saving = self.worker.start(partial(keep, self._draft, self._saved()))

    def _show_title(self) -> None:
        name = self._path.name if self._path else "Untitled"
        is_changed = self.editor.document().isModified()
        self._title.setText(name)
        if self._path is None:
            self._subtitle.setText("" if self.editor.document().isEmpty() else "Kept as a draft")
        else:
            self._subtitle.setText("Changed" if is_changed else "Saved")
        self.setWindowTitle(f"{name} – Writing Assistant")

    # Look and settings

    def apply_look(self) -> None:
        """Take the colours of the theme, and the size of the text."""
        colours = set_theme(self.settings.theme)
        self.editor.set_look(ui_font(self.settings.font_size), colours.ghost)
        self.panel.next.bars.set_colours(colours)
        self.panel.classify.bars.set_colours(colours)
        for action in self._themes.actions():
            action.setChecked(action.data() == self.settings.theme)

    def _choose_theme(self, name: str) -> None:
        self.store.change(theme=name)

    def _toggle_panel(self) -> None:
        shows = self._shows_panel.isChecked()
        self.panel.setVisible(shows)
        self.store.change(shows_panel=shows)
        self._ask_soon()

    def _toggle_suggests(self) -> None:
        self.store.change(suggests=self._suggests.isChecked())

    def _ask_settings(self) -> None:
        dialog = Preferences(self.settings, self)
        dialog.accepted.connect(lambda: self.store.change(**dialog.chosen))
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()

    def _on_settings(self, old: Settings, new: Settings) -> None:
        if (old.theme, old.font_size) != (new.theme, new.font_size):
            self.apply_look()
        if old.threads != new.threads:
            for model in (self.writer, self.rewriter):
                if model is not None:
                    self.open_bundle(model.key)
        self._suggests.setChecked(new.suggests)
        if old.generation != new.generation or old.suggests != new.suggests:
            self._drop()
            self._ask_soon()

    # The end

    def closeEvent(self, event: QCloseEvent) -> None:  # noqa: N802
        """Hide the window, keep the text, and let the thread end; ``ended`` follows."""
        event.ignore()
        if self._is_closing:
            return
        try:
            self._draft.write(self._saved())
        except OSError as error:
            self.tell(f"{error} The window stays open: save the text somewhere else.")
            return
        self._is_closing = True
        for waiting in (self._pause, self._draft_pause, self._count_pause):
            waiting.stop()
        self.hide()
        self.store.file.setValue("geometry", self.saveGeometry())
        classify, rewrite = self.panel.classify, self.panel.rewrite
        questions = classify.questions
        self.store.change(
            labels=classify.labels.text(),
            question=questions["writer"],
            source_question=questions["rewriter"],
            own_prompt=rewrite.own_prompt.text(),
        )
        models = [model for model in (self.writer, self.rewriter) if model is not None]
        self.worker.stop(partial(finish, self._draft, self._saved(), models))

    def _on_stopped(self) -> None:
        self.worker.join()
        self.ended.emit(self)


async def suggest(writer: Writer, text: str, options: dict[str, Any], job: Job) -> Any:
    """Stream a suggestion."""
    return await writer.suggest(job, text, options)


async def close(model: Writer | Rewriter, job: Job) -> None:
    """Close a model that is no longer used."""
    await model.close()


async def keep(draft: Draft, saved: Saved, job: Job) -> None:
    """Write the draft. The loop's thread does it, so that a later text is written later."""
    draft.write(saved)


async def finish(draft: Draft, saved: Saved, models: list[Writer | Rewriter], job: Job) -> None:
    """Keep the text of a window that was closed, and free its models."""
    draft.write(saved)  # again: a job of the thread may have written an older text since
    draft.close()
    for model in models:
        await model.close()


def timer(window: QWidget, do: Any) -> QTimer:
    """Return a timer that calls a function once it has run down."""
    made = QTimer(window)
    made.setSingleShot(True)
    made.timeout.connect(do)
    return made


def chip(hint: str) -> QToolButton:
    """Return a button that shows a model and opens a menu."""
    button = QToolButton()
    button.setObjectName("chip")
    button.setToolTip(hint)
    button.setAccessibleName(hint)
    button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextOnly)
    return button


def sentence_of(error: Exception, path: Path) -> str:
    """Return one sentence for an error of a file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{path} cannot be opened: {error.strerror}."
    return str(error)
