"""The application: its arguments, its windows and its end."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QObject, QSettings, QStandardPaths, QTimer
from PySide6.QtWidgets import QApplication

from .drafts import Draft, new_draft, open_drafts
from .settings import Store
from .theme import set_theme, ui_font
from .window import Window

# Python's other threads may hold the interpreter lock this long after the window asks for it.
SWITCH_S = 0.001


class App(QObject):
    """The windows, which share settings and the folder of drafts."""

    def __init__(self, application: QApplication, store: Store, drafts: Path) -> None:
        super().__init__()
        self._application, self._store, self._drafts = application, store, drafts
        self.windows: list[Window] = []
        self.problem = ""
        application.setQuitOnLastWindowClosed(False)  # it ends with the last thread
        hints = application.styleHints()
        hints.colorSchemeChanged.connect(self._on_scheme)

    def open_windows(self) -> None:
        """Open a window for each draft that is left, or an empty one."""
        for draft in open_drafts(self._drafts):
            try:
                draft.read()
            except (OSError, ValueError, KeyError, TypeError):
                self.problem = f"The draft {draft.path} is damaged, and was left as it is."
            else:
                self.open_window(draft)
        if not self.windows:
            self.open_window()

    def open_window(self, draft: Draft | None = None) -> Window:
        """Open a window with a draft, or an empty one."""
        window = Window(self._store, draft or new_draft(self._drafts))
        window.wants_window.connect(self._on_wanted)
        window.wants_end.connect(self.close)
        window.ended.connect(self._on_ended)
        self.windows.append(window)
        if len(self.windows) > 1:  # not exactly over the other one
            last = self.windows[-2].pos()
            window.move(last.x() + 32, last.y() + 32)
        window.show()
        window.editor.setFocus()
        if self.problem:
            window.tell(self.problem)
            self.problem = ""
        return window

    def close(self) -> None:
        """Close all windows; the application ends once their threads have ended."""
        for window in self.windows:
            window.close()

    def open_file(self, path: Path) -> None:
        """Open a text, in a window of its own unless the last one is empty."""
        window = self.windows[-1] if self.windows[-1].is_empty else self.open_window()
        window.open_text(path)

    def _on_wanted(self, path: Path | None) -> None:
        if path is None:
            self.open_window()
        else:
            self.open_file(path)

    def _on_ended(self, window: Window) -> None:
        self.windows.remove(window)
        window.deleteLater()
        if not self.windows:
            self._application.quit()

    def _on_scheme(self) -> None:
        for window in self.windows:
            window.apply_look()


def main(arguments: Sequence[str]) -> int:
    """Run the app; return the exit status."""
    options = parse(arguments)
    sys.setswitchinterval(SWITCH_S)
    application = QApplication([sys.argv[0]])
    application.setApplicationName("Writing Assistant")
    application.setOrganizationName("edgeseq")
    folder = options.data
    if folder is None:
        found = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.AppDataLocation)
        folder = Path(found)
    store = Store(QSettings(str(folder / "settings.ini"), QSettings.Format.IniFormat))
    if options.model:
        store.change(writer=options.model)
    application.setFont(ui_font(10))
    set_theme(store.settings.theme)
    app = App(application, store, folder / "drafts")
    try:
        app.open_windows()
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    signal.signal(signal.SIGINT, lambda *_: app.close())
    tick = QTimer()  # Python sees signals only when it runs
    tick.start(250)
    tick.timeout.connect(lambda: None)
    if options.file is not None:
        app.open_file(options.file)
    if options.selftest is not None:
        from .selftest import SelfTest

        test = SelfTest(app, options.selftest)
        application.exec()
        return test.status
    return application.exec()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="writing_assistant", description="Write with a small language model beside you."
    )
    parser.add_argument("file", nargs="?", type=Path, help="a text to open")
    parser.add_argument("--model", metavar="BUNDLE", help="the bundle that continues the text")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="keep settings and drafts here (default: the user's folder for data of apps)",
    )
    parser.add_argument(
        "--selftest",
        type=Path,
        metavar="FOLDER",
        help="type a text, take a suggestion, save a picture in this folder, and end",
    )
    return parser.parse_args(arguments)
