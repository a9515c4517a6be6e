"""The writing assistant in `examples/`: its real window, with real key events, on no display."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import load
from edgeseq.runtime.bundle.demo_bundles import demo_bundle

pytest.importorskip("PySide6")
EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST_MS = 60_000
START = "Once upon a time"


@pytest.fixture(scope="module")
def application() -> Any:
    """The application of Qt, of which a process has one."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    sys.path.insert(0, str(EXAMPLES))
    import writing_assistant  # noqa: F401
    from PySide6.QtWidgets import QApplication

    yield QApplication.instance() or QApplication(["tests"])
    sys.path.remove(str(EXAMPLES))


@pytest.fixture
def start(
    application: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """``start(**settings)``: the app over the data in ``tmp_path``, once the models are loaded.

    An exception in a slot, which Qt cannot pass on, fails the test.
    """
    from PySide6.QtCore import QSettings
    from writing_assistant.app import App
    from writing_assistant.settings import Store

    raised: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _, error, __: raised.append(error))
    apps: list[Any] = []

    def new(*, waits: bool = True, **settings: Any) -> Any:
        file = QSettings(str(tmp_path / "settings.ini"), QSettings.Format.IniFormat)
        store = Store(file)
        store.change(**{"pause_ms": 0, "threads": 1, **settings})
        app = App(application, store, tmp_path / "drafts")
        apps.append(app)
        app.open_windows()
        if waits:
            until(lambda: all(window.writer and window.rewriter for window in app.windows))
        return app

    yield new
    for app in apps:
        end(app)
    assert raised == []


@pytest.fixture
def window(start: Callable[..., Any]) -> Any:
    """A window with the demo models, and an empty text."""
    return start().windows[0]


def until(true: Callable[[], Any]) -> None:
    """Let the windows work until ``true()``."""
    from PySide6.QtCore import QElapsedTimer, QEventLoop
    from PySide6.QtWidgets import QApplication

    waited = QElapsedTimer()
    waited.start()
    while not true():
        assert not waited.hasExpired(LONGEST_MS)
        QApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 10)


def end(app: Any) -> None:
    """Close all windows, and wait for their threads."""
    threads = [window.worker for window in app.windows]
    app.close()
    until(lambda: not app.windows)
    for thread in threads:
        thread.join()


def write(window: Any, text: str) -> None:
    from PySide6.QtTest import QTest

    QTest.keyClicks(window.editor, text)


def press(window: Any, key: str, *, control: bool = False) -> None:
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    modifiers = Qt.KeyboardModifier
    QTest.keyClick(
        window.editor,
        getattr(Qt.Key, f"Key_{key}"),
        modifiers.ControlModifier if control else modifiers.NoModifier,
    )


def suggestion(window: Any) -> str:
    """Return the suggestion once it has ended."""
    ended: list[str] = []

    def note(job: Any, result: Any) -> None:
        if job is window._suggestion and result is not None:
            ended.append(result.text)

    window.worker.done.connect(note)
    until(lambda: ended)
    window.worker.done.disconnect(note)
    assert window.editor.ghost == ended[-1]
    return ended[-1]


def select(window: Any, text: str) -> None:
    assert window.editor.find(text) or pytest.fail(f"{text!r} is not in the window")


def to_start(window: Any) -> None:
    window.editor.moveCursor(window.editor.textCursor().MoveOperation.Start)


def continued(window: Any, text: str) -> str:
    """Return what ``generate`` continues a text with, given the options of the window."""
    with load(threads=1) as model:
        [result] = model.generate(text, **window.settings.generation)
    return result.text


def damaged(folder: Path) -> Path:
    shutil.copytree(demo_bundle("gpt2"), folder)
    (folder / "weights.bin").write_bytes(b"damaged")
    return folder


def test_the_suggestion_is_the_text_that_generate_returns(window: Any) -> None:
    write(window, START)
    assert suggestion(window) == continued(window, START)
    assert window.editor.text == START


def test_after_a_space_the_suggestion_begins_with_a_word(window: Any) -> None:
    write(window, f"{START} ")
    assert suggestion(window) == continued(window, START).removeprefix(" ")


def test_tab_accepts_the_suggestion_and_the_next_one_follows(window: Any) -> None:
    write(window, START)
    first = suggestion(window)
    press(window, "Tab")
    assert window.editor.text == START + first
    assert window.editor.ghost == ""
    assert suggestion(window) == continued(window, START + first)


def test_a_word_can_be_accepted(window: Any) -> None:
    write(window, START)
    whole = suggestion(window)
    press(window, "Right", control=True)
    assert window.editor.text == f"{START} there"
    assert window.editor.ghost == whole.removeprefix(" there")
    press(window, "Right", control=True)
    assert window.editor.text == f"{START} there was"


def test_typing_cancels_the_suggestion(window: Any) -> None:
    window.store.change(tokens=120)
    write(window, START)
    until(lambda: window.editor.ghost)
    job = window._suggestion
    write(window, ",")
    assert job.cancelled.is_set()
    assert window.editor.ghost == ""
    assert window.editor.text == f"{START},"
    window.store.change(tokens=16)
    assert suggestion(window) == continued(window, f"{START},")


@pytest.mark.parametrize("key", ["Escape", "Left", "Backspace"])
def test_other_keys_remove_the_suggestion(window: Any, key: str) -> None:
    write(window, START)
    suggestion(window)
    press(window, key)
    assert window.editor.ghost == ""
    assert window.editor.text == (START[:-1] if key == "Backspace" else START)


def test_the_suggestion_is_no_part_of_the_text(window: Any) -> None:
    write(window, START)
    suggestion(window)
    assert window.editor.text == window.editor.toPlainText() == START
    window.editor.selectAll()
    assert window.editor.textCursor().selectedText() == START
    press(window, "Tab")  # there is no suggestion any more, because of the selection
    assert window.editor.text == START


def test_an_accepted_suggestion_can_be_undone(window: Any) -> None:
    write(window, START)
    suggestion(window)
    press(window, "Tab")
    window.editor.undo()
    assert window.editor.text == START


def test_the_suggestion_stays_when_the_editor_loses_the_focus(window: Any) -> None:
    write(window, START)
    whole = suggestion(window)
    window.panel.turn(1)
    window.panel.rewrite.own_prompt.setFocus()
    assert window.editor.text == START
    window.editor.setFocus()
    press(window, "Tab")
    assert window.editor.text == START + whole


def test_undo_removes_the_suggestion_from_its_paragraph(window: Any) -> None:
    editor = window.editor
    editor.insertPlainText("The king\n")
    write(window, START)
    suggestion(window)
    editor.undo()
    editor.undo()
    assert editor.ghost == ""
    block = editor.document().firstBlock()
    while block.isValid():
        assert block.layout().preeditAreaText() == ""
        block = block.next()


def test_nothing_is_suggested_within_a_paragraph(window: Any) -> None:
    write(window, START)
    suggestion(window)
    press(window, "Left")
    until(lambda: not window._pause.isActive())
    assert window._suggestion is None
    assert window.panel.next.bars.rows == []


def test_a_suggestion_is_asked_for_with_tab_if_they_are_off(window: Any) -> None:
    window.store.change(suggests=False)
    write(window, START)
    until(lambda: window.panel.next.bars.rows)
    assert window._suggestion is None
    press(window, "Tab")
    assert suggestion(window) == continued(window, START)
    assert window.editor.text == START


def test_letters_of_two_units_are_counted_as_qt_does(window: Any) -> None:
    window.editor.insertPlainText(f"🦊🦊 {START}")
    whole = suggestion(window)
    assert whole == continued(window, f"🦊🦊 {START}")
    press(window, "Tab")
    assert window.editor.text == f"🦊🦊 {START}{whole}"


def test_the_end_of_a_long_text_is_continued(window: Any) -> None:
    from writing_assistant.work.suggestions import LONGEST_TEXT, end_of

    text = "The fox went into the wood. The king went home.\n" * 2000 + "The old woman"
    window.editor.insertPlainText(text)
    assert suggestion(window) == continued(window, end_of(text))
    assert LONGEST_TEXT / 2 < len(end_of(text)) <= LONGEST_TEXT
    assert end_of(f"{text} went") == f"{end_of(text)} went"


def test_next_words_are_ranked_and_can_be_inserted(window: Any) -> None:
    write(window, START)
    bars = window.panel.next.bars
    until(lambda: bars.rows)
    shares = [share for _, share in bars.rows]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
    assert bars.rows[0][0] == " there"
    bars.chosen.emit(bars.rows[1][0])
    assert window.editor.text == START + bars.rows[1][0]


def test_a_damaged_bundle_is_told_in_one_sentence(window: Any, tmp_path: Path) -> None:
    write(window, START)
    writer = window.writer
    window.open_bundle(str(damaged(tmp_path / "bundle")))
    until(lambda: window.notice.sentence)
    assert "weights.bin is damaged" in window.notice.sentence
    assert "\n" not in window.notice.sentence
    assert window.writer is writer
    assert window.editor.text == START
    write(window, " there")
    assert suggestion(window) == continued(window, f"{START} there")


def test_a_bundle_that_is_gone_is_told_at_the_start(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    app = start(waits=False, writer=str(tmp_path / "gone"))
    [window] = app.windows
    until(lambda: window.notice.sentence and window.rewriter)
    assert "gone" in window.notice.sentence
    write(window, START)
    assert window.editor.text == START
    window.open_bundle("demo:gpt2")
    assert suggestion(window) == continued(window, START)


def test_a_selection_is_rewritten_and_replaced(window: Any) -> None:
    write(window, "The dokter and the kat")
    to_start(window)
    select(window, "dokter and the kat")
    page = window.panel.rewrite
    page.run(window.rewriter.rewrites[0])
    until(page.replace_button.isEnabled)
    assert page.result.toPlainText() == "doctor and the cat"
    assert window.editor.text == "The dokter and the kat"
    page.replace_button.click()
    assert window.editor.text == "The doctor and the cat"
    window.editor.undo()
    assert window.editor.text == "The dokter and the kat"


def test_a_text_that_changed_since_is_not_replaced(window: Any) -> None:
    write(window, "the kat")
    page = window.panel.rewrite
    page.run(window.rewriter.rewrites[0])
    until(page.replace_button.isEnabled)
    press(window, "Backspace")
    page.replace_button.click()
    assert window.editor.text == "the ka"
    assert "has changed" in window.notice.sentence


def test_each_task_of_the_demo_gives_what_the_model_gives(window: Any) -> None:
    page = window.panel.rewrite
    for title, text, expected in (
        ("Pronounce", "fox", "F AA1 K S"),
        ("Spell phonemes", "K AE1 T", "cat"),
    ):
        window.editor.replace_all(text)
        [rewrite] = [one for one in window.rewriter.rewrites if one.title == title]
        page.run(rewrite)
        until(page.replace_button.isEnabled)
        assert page.result.toPlainText() == expected


def test_a_prompt_of_the_user_is_used(window: Any) -> None:
    window.editor.replace_all("winter")
    page = window.panel.rewrite
    page.own_prompt.setText("pronounce: {text}")
    page.own_prompt.returnPressed.emit()
    until(page.replace_button.isEnabled)
    assert page.result.toPlainText() == "W IH1 N T ER0"
    page.own_prompt.setText("pronounce:")
    page.own_prompt.returnPressed.emit()
    until(lambda: window.notice.sentence)
    assert "{text}" in window.notice.sentence


def test_long_work_is_cancelled(window: Any) -> None:
    text = "dokter telefone kamera musik " * 400
    window.editor.insertPlainText(text)
    page = window.panel.rewrite
    page.run(window.rewriter.rewrites[0])
    until(page.result.toPlainText)
    assert window.status.state == "Spell by sound…"
    window.status.cancelled.emit()
    assert window.status.state != "Spell by sound…"
    assert not page.replace_button.isEnabled()
    window.editor.replace_all("kat")
    page.run(window.rewriter.rewrites[0])  # it waits for the end of the cancelled one
    until(page.replace_button.isEnabled)
    assert page.result.toPlainText() == "cat"


def test_a_selection_that_is_too_long_is_told(window: Any) -> None:
    window.editor.insertPlainText("word " * 5000)
    window.panel.rewrite.run(window.rewriter.rewrites[0])
    until(lambda: window.notice.sentence)
    assert "at most 20,000" in window.notice.sentence


def test_a_model_that_translates_offers_its_languages(window: Any, nllb: Path) -> None:
    page = window.panel.rewrite
    window.open_bundle(str(nllb))
    until(lambda: window.rewriter.key == str(nllb))
    names = [page._to.itemText(row) for row in range(page._to.count())]
    assert "French" in names
    assert names == sorted(names)
    window.editor.replace_all("Once. Twice.")
    page._to.setCurrentText("French")
    page._run_translation()
    until(page.replace_button.isEnabled)
    with load(nllb, threads=1) as model:
        expected = model.translate("Once. Twice.", target_language="French")
    assert page.result.toPlainText() == expected


def test_labels_get_probabilities_that_sum_to_one(window: Any) -> None:
    write(window, "The king was dead.")
    page = window.panel.classify
    page.labels.setText("happy, sad, sad ,afraid,")
    page.compare()
    until(lambda: page.bars.rows)
    assert {label for label, _ in page.bars.rows} == {"happy", "sad", "afraid"}
    assert sum(share for _, share in page.bars.rows) == pytest.approx(1)
    with load(threads=1) as model:
        prompt = page.question.text().replace("{text}", "The king was dead.")
        [result] = model.generate(prompt, choices=[" happy", " sad", " afraid"])
    expected = [(choice.text.strip(), choice.probability) for choice in result.choices or ()]
    assert page.bars.rows == [(label, pytest.approx(share)) for label, share in expected]


def test_the_rewriting_model_classifies_too(window: Any) -> None:
    window.editor.replace_all("read")
    page = window.panel.classify
    page.model_box.setCurrentIndex(page.model_box.findData("rewriter"))
    assert page.question.text() == "{text}"
    page.question.setText("pronounce: {text}")
    page.labels.setText("R EH1 D, R IY1 D")
    page.compare()
    until(lambda: page.bars.rows)
    assert page.bars.rows[0] == ("R EH1 D", pytest.approx(0.8, abs=0.1))


@pytest.mark.parametrize(
    ("labels", "question", "reason"),
    [("happy", "{text} He was", "two labels"), ("happy, sad", "He was", "{text}")],
)
def test_wrong_labels_and_prompts_are_told(
    window: Any, labels: str, question: str, reason: str
) -> None:
    write(window, START)
    page = window.panel.classify
    page.labels.setText(labels)
    page.question.setText(question)
    page.compare()
    until(lambda: window.notice.sentence)
    assert reason in window.notice.sentence
    assert page.bars.rows == []


def test_settings_are_kept(start: Callable[..., Any], tmp_path: Path) -> None:
    app = start()
    app.windows[0].store.change(tokens=5, samples=True, temperature=0.5, theme="dark", font_size=20)
    app.windows[0].panel.classify.labels.setText("red, green")
    app.windows[0].open_bundle(str(shutil.copytree(demo_bundle("gpt2"), tmp_path / "mine")))
    until(lambda: app.windows[0].writer.key == str(tmp_path / "mine"))
    end(app)
    [window] = start().windows
    settings = window.settings
    assert (settings.tokens, settings.samples, settings.temperature) == (5, True, 0.5)
    assert (settings.theme, settings.font_size, settings.labels) == ("dark", 20, "red, green")
    assert window.writer.key == str(tmp_path / "mine")
    assert settings.generation["temperature"] == 0.5


def test_the_dialog_returns_what_it_was_given(window: Any) -> None:
    from writing_assistant.preferences import Preferences

    window.store.change(tokens=7, theme="light")
    dialog = Preferences(window.settings, window)
    assert dialog.chosen == {name: getattr(window.settings, name) for name in dialog.chosen}
    dialog.tokens.setValue(9)
    dialog.accept()
    window.store.change(**dialog.chosen)
    assert window.settings.tokens == 9


def test_texts_that_were_not_saved_come_back(start: Callable[..., Any]) -> None:
    app = start()
    first = app.windows[0]
    write(first, "The first text")
    first._new_window()
    second = app.windows[1]
    until(lambda: second.writer and second.rewriter)
    write(second, "The second text")
    end(app)
    texts = [window.editor.text for window in start().windows]
    assert sorted(texts) == ["The first text", "The second text"]


def test_the_draft_is_written_while_the_window_is_open(window: Any, tmp_path: Path) -> None:
    write(window, START)
    draft = tmp_path / "drafts" / "1.json"
    until(lambda: draft.exists() and START in draft.read_text(encoding="utf-8"))


def test_a_saved_text_is_in_its_file_and_no_draft(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "story.txt"
    file.write_text("Grüße,\n", encoding="utf-8")
    app = start()
    [window] = app.windows
    window.open_text(file)
    assert window.editor.text == "Grüße,\n"
    window.editor.moveCursor(window.editor.textCursor().MoveOperation.End)
    write(window, "Anna")
    assert window.save()
    assert file.read_text(encoding="utf-8") == "Grüße,\nAnna"
    end(app)
    assert not list((tmp_path / "drafts").glob("*.json"))


def test_a_file_does_not_take_the_place_of_a_draft(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "story.txt").write_text("The story", encoding="utf-8")
    app = start()
    write(app.windows[0], "The draft")
    app.open_file(tmp_path / "story.txt")
    assert [window.editor.text for window in app.windows] == ["The draft", "The story"]
    until(lambda: app.windows[1].writer and app.windows[1].rewriter)


def test_a_window_whose_text_cannot_be_kept_stays_open(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    app = start()
    [window] = app.windows
    write(window, START)
    (tmp_path / "drafts").rename(tmp_path / "elsewhere")
    app.close()
    assert "stays open" in window.notice.sentence
    assert window.isVisible()
    assert window.editor.text == START
    (tmp_path / "elsewhere").rename(tmp_path / "drafts")


def test_a_file_that_is_no_text_is_told(window: Any, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(b"\x89PNG\xff")
    window.open_text(file)
    assert "UTF-8" in window.notice.sentence
    window.open_text(tmp_path / "none.txt")
    assert "No such file" in window.notice.sentence
    assert window.editor.text == ""


def test_a_damaged_draft_is_left_alone(start: Callable[..., Any], tmp_path: Path) -> None:
    draft = tmp_path / "drafts" / "1.json"
    draft.parent.mkdir()
    draft.write_text("{", encoding="utf-8")
    [window] = start().windows
    assert "is damaged" in window.notice.sentence
    write(window, START)
    end_of_draft = tmp_path / "drafts" / "2.json"
    until(end_of_draft.exists)
    assert draft.read_text(encoding="utf-8") == "{"


def test_a_window_closes_while_the_model_decodes(start: Callable[..., Any]) -> None:
    app = start(tokens=128)
    [window] = app.windows
    write(window, START)
    until(lambda: window.editor.ghost)
    end(app)


def test_a_window_closes_while_models_are_loaded(start: Callable[..., Any]) -> None:
    end(start(waits=False))


def test_the_model_changes_while_it_decodes(window: Any, tmp_path: Path) -> None:
    window.store.change(tokens=128)
    write(window, START)
    until(lambda: window.editor.ghost)
    old = window.writer
    window.store.change(tokens=16)
    other = shutil.copytree(demo_bundle("gpt2"), tmp_path / "other")
    window.open_bundle(str(other))
    until(lambda: window.writer is not old)
    assert suggestion(window) == continued(window, START)
    assert window.notice.sentence == ""


def test_the_theme_changes_all_windows(start: Callable[..., Any]) -> None:
    app = start(theme="light")
    app.windows[0]._new_window()
    until(lambda: app.windows[1].writer and app.windows[1].rewriter)
    pages = []
    for theme in ("light", "dark"):
        app.windows[0].store.change(theme=theme)
        pages.append([window.grab().toImage().pixelColor(2, 2).name() for window in app.windows])
    assert pages[0][0] == pages[0][1] != pages[1][0] == pages[1][1]


def test_the_measurement_prints_its_figures(application: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "writing_assistant.drive", "--seconds", "1"],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )
    assert done.returncode in (0, 1), done.stderr  # 1: this machine was too busy
    assert done.stderr == ""
    for name in ("loading", "at rest", "decoding"):
        assert f"{name:12} " in done.stdout


def test_the_app_tests_itself(application: Any, tmp_path: Path) -> None:
    from PySide6.QtGui import QImage

    done = subprocess.run(
        [
            *(sys.executable, EXAMPLES / "writing_assistant"),
            *("--data", tmp_path / "data", "--selftest", tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "assistant.txt").read_text(encoding="utf-8")
    assert text.startswith(f"{START} there was")
    picture = QImage(str(tmp_path / "out" / "assistant.png"))
    row = {picture.pixelColor(x, picture.height() // 2).name() for x in range(picture.width())}
    assert len(row) > 1
