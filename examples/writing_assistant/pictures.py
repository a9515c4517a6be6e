"""Take the pictures of the documentation: `python -m writing_assistant.pictures FOLDER`.

Run it in `examples/`, on a display of its own, such as that of `xvfb-run`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QElapsedTimer, QSettings, Qt
from PySide6.QtGui import QTextCursor
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

from edgeseq.runtime.bundle.demo_bundles import demo_bundle

from .app import App
from .settings import Store
from .theme import set_theme, ui_font
from .window import Window

LETTER = (
    "Dear Anna,\n\nI hope that you are well, and that the new house is warm by now.\n\n"
    "The dokter was on the telefone last nite. Your neffew can go to skool again, and he will have "
    "his kamera and his musik back."
)
STORY = (
    "Once upon a time there was a king who had three sons. The eldest was proud, the second was "
    "idle, and the youngest talked to the animals of the wood.\n\n"
    "One evening the king fell ill, and no doctor in the country could help him. Then a fox came "
    "to the gate of the castle and asked to be let in. \u201cI know a spring behind the seven "
    "hills,\u201d he said. \u201cBut the way is long, and it is not for everybody.\u201d\n\n"
    "The eldest son laughed at the fox and rode away. "
)
NEXT = "The youngest son went to the"
PARAGRAPH = (
    "So it came to pass that the youngest son went to the gate himself. \u201cShow me the way,"
    "\u201d he said to the fox, \u201cand I will share my bread with you.\u201d They walked for "
    "three days and three nights, over the hills and through the rivers, and on the fourth morning "
    "they saw the spring, which shone like silver under an old lime tree.\n\n"
)


def main(folder: Path) -> None:
    """Take all pictures."""
    application = QApplication([sys.argv[0]])
    application.setFont(ui_font(10))
    with tempfile.TemporaryDirectory() as data:
        for name, take in (("light", light), ("dark", dark), ("long", long), ("error", error)):
            store = Store(QSettings(f"{data}/{name}.ini", QSettings.Format.IniFormat))
            store.change(theme="dark" if name in ("dark", "error") else "light")
            set_theme(store.settings.theme)
            app = App(application, store, Path(data, name))
            window = app.open_window()
            try:
                until(lambda window=window: window.writer and window.rewriter)  # type: ignore[misc]
                take(window)
                QTest.qWait(100)
                window.show_rate(None)  # it depends on what else the machine does
                QTest.qWait(50)
                window.grab().save(str(folder / f"writing_assistant_{name}.png"))
            finally:
                app.close()
            until(lambda app=app: not app.windows)  # type: ignore[misc]


def until(true: Callable[[], object]) -> None:
    """Let the window work until something is true."""
    waited = QElapsedTimer()
    waited.start()
    while not true():
        if waited.hasExpired(60_000):
            sys.exit("A picture could not be taken within a minute.")
        QTest.qWait(10)


def light(window: Window) -> None:
    """A suggestion, with the probabilities of the next word."""
    window.resize(1000, 620)
    window.editor.insertPlainText(STORY + NEXT)
    until(lambda: len(window.editor.ghost.split()) > 9)
    until(lambda: window.panel.next.bars.rows)
    QTest.qWait(300)


def dark(window: Window) -> None:
    """A selection that the demo T5 spells again."""
    window.resize(1000, 620)
    window.editor.insertPlainText(LETTER)
    window.panel.turn(1)
    cursor = window.editor.textCursor()
    cursor.movePosition(QTextCursor.MoveOperation.StartOfBlock, QTextCursor.MoveMode.KeepAnchor)
    window.editor.setTextCursor(cursor)
    assert window.rewriter is not None
    window.panel.rewrite.run(window.rewriter.rewrites[0])
    until(window.panel.rewrite.replace_button.isEnabled)


def long(window: Window) -> None:
    """A text that is longer than the model reads, and labels."""
    window.resize(1000, 620)
    window.editor.insertPlainText(STORY + "\n\n" + PARAGRAPH * 60 + PARAGRAPH.strip())
    window.editor.moveCursor(QTextCursor.MoveOperation.End)
    window.panel.turn(2)
    window.panel.classify.compare()
    until(lambda: window.panel.classify.bars.rows)
    QTest.keyClick(window.editor, Qt.Key.Key_Space)
    until(lambda: len(window.editor.ghost.split()) > 9)
    QTest.qWait(300)


def error(window: Window) -> None:
    """A bundle with a damaged file."""
    window.resize(1000, 620)
    window.editor.insertPlainText(STORY + NEXT)
    with tempfile.TemporaryDirectory() as folder:
        damaged = Path(folder, "fairy-tales")
        shutil.copytree(demo_bundle("gpt2"), damaged)
        (damaged / "weights.bin").write_bytes(b"damaged")
        window.open_bundle(str(damaged))
        until(lambda: window.notice.sentence)
    until(lambda: len(window.editor.ghost.split()) > 9)
    QTest.qWait(300)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
