"""The examples run as they are; the writing window needs a display or Xvfb."""

from __future__ import annotations

import gc
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

EXAMPLES = Path(__file__).parents[2] / "examples"
T5 = str(demo_bundle("t5"))
ARGUMENTS = {
    "anonymize.py": ["Call Anna."],
    "answer.py": ["Who came?", "The fox came.", T5],
    "classify.py": ["A charming film."],
    "complete.py": ["Once upon a time"],
    "correct.py": ["He have a dog."],
    "extract.py": ["Anna moved to Oslo.", "name,city"],
    "recall.py": ["pronounce: fox", T5],
    "summarize.py": [T5, str(EXAMPLES / "complete.py"), str(EXAMPLES / "answer.py")],
    "translate.py": ["The house is wonderful.", "French", T5],
}


def test_every_example_is_tried_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        *ARGUMENTS,
        "ray_serve.py",
        "writing_window.py",
    }


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_example_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *ARGUMENTS[name]],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_example_prints_its_usage(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"python examples/{name}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_example_is_short(name: str) -> None:
    _, _, code = (EXAMPLES / name).read_text(encoding="utf-8").split('"""')
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


@pytest.fixture(scope="module")
def display() -> Iterator[None]:
    """The display of this machine, or a virtual one.

    Windows are collected here: Tk ends the process if another thread collects one.
    """
    pytest.importorskip("tkinter")
    if "DISPLAY" in os.environ:
        yield
        gc.collect()
        return
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no display, and no Xvfb to make one")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as numbers:
        os.environ["DISPLAY"] = f":{numbers.readline().strip()}"
    yield
    gc.collect()
    del os.environ["DISPLAY"]
    server.terminate()
    server.wait()


@pytest.fixture
def window(display: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import writing_window

    gc.collect()  # the window of the test before
    found = writing_window.Window(load(demo="gpt2"))
    found.root.update()
    found.text.focus_force()
    found.root.update()
    yield found
    found.close()


def until(window: Any, true: Callable[[], Any]) -> None:
    """Let the window work until ``true()``, asked every 5 ms, for up to 30 s."""

    def end() -> None:
        window.root.setvar("ended", "1")  # a `Variable` could be collected in another thread

    def ask() -> None:
        if true():
            end()
        else:
            timers[0] = window.root.after(5, ask)

    timers = [window.root.after(0, ask), window.root.after(30_000, end)]
    window.root.wait_variable("ended")
    for timer in timers:
        window.root.after_cancel(timer)
    assert true()


def write(window: Any, text: str) -> None:
    names = {" ": "space", ",": "comma"}
    for letter in text:
        window.text.event_generate("<Key>", keysym=names.get(letter, letter))
        window.root.update()


def grey(window: Any) -> str:
    ranges = window.text.tag_ranges("grey")
    return str(window.text.get(*ranges)) if ranges else ""


def test_the_window_continues_the_typed_text(window: Any) -> None:
    write(window, "Once upon a")
    assert window.text.get("1.0", "end-1c") == "Once upon a"
    until(window, lambda: grey(window).startswith(" time"))
    assert window.text.index("insert") == "1.11"
    window.text.event_generate("<Key>", keysym="Tab")
    window.root.update()
    assert grey(window) == ""
    assert window.text.get("1.0", "end-1c").startswith("Once upon a time")
    taken = window.text.get("1.0", "end-1c")
    until(window, lambda: grey(window))
    assert window.text.get("1.0", "end-1c") == taken + grey(window)


def test_a_long_text_in_any_script_is_continued(display: None, window: Any) -> None:
    completer = window.completer
    for text in ("Привет, как дела? " * 300, "你好世界" * 64, "🦊" * 300, "The king " * 3000):
        request = completer.complete(text)
        while completer.pieces.get(timeout=60)[0] is not request:
            pass


def test_a_key_drops_and_cancels_the_suggestion(window: Any) -> None:
    complete, requests = window.completer.complete, []

    def record(text: str) -> Any:
        requests.append(complete(text))
        return requests[-1]

    window.completer.complete = record
    write(window, "Once upon a")
    until(window, lambda: grey(window))
    request = requests[-1]
    write(window, "n")
    assert grey(window) == ""
    assert request.cancelled.is_set()
    assert window.text.get("1.0", "end-1c") == "Once upon an"
    until(window, lambda: grey(window))
    assert requests[-1].text == "Once upon an"
