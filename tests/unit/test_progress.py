"""The progress bar, with a fake terminal and a fake clock."""

from __future__ import annotations

import io
import sys

import pytest

from edgeseq.runtime.progress import Progress, rarely


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_the_bar_shows_share_speed_and_time_left(terminal: Terminal) -> None:
    clock = Clock()
    with Progress("reading", 4000, unit="tokens", stream=terminal, clock=clock) as progress:
        clock.now_s += 0.5
        progress(1000)
        assert terminal.getvalue() == (
            "\rreading [######------------------]  25%  2,000 tokens/s  0:02 left"
        )
        clock.now_s += 1
        progress(3000)
    assert terminal.getvalue().count("\n") == 1
    *_, last = terminal.getvalue().split("\r")
    assert last.rstrip() == "reading [########################] 100%  2,667 tokens/s"
    assert last.endswith("\n")


def test_a_share_stands_for_an_unknown_total(terminal: Terminal) -> None:
    clock, shares = Clock(), iter([0.5, 1.0])
    with Progress(
        "running", None, unit="rows", share=lambda: next(shares), stream=terminal, clock=clock
    ) as progress:
        clock.now_s += 1
        progress(30)
        assert terminal.getvalue() == (
            "\rrunning [############------------]  50%  30 rows/s  0:01 left"
        )


def test_a_count_stands_for_an_unknown_share(terminal: Terminal) -> None:
    clock = Clock()
    with Progress(
        "running", None, unit="rows", share=lambda: 0.0, stream=terminal, clock=clock
    ) as progress:
        clock.now_s += 1
        progress(30)
        assert terminal.getvalue() == "\rrunning 30 rows  30 rows/s"


def test_the_bar_is_drawn_ten_times_a_second_at_most(terminal: Terminal) -> None:
    clock = Clock()
    with Progress("reading", 1000, unit="tokens", stream=terminal, clock=clock) as progress:
        for _ in range(1000):
            clock.now_s += 1 / 1024  # exact in binary
            progress(1)
    assert 9 <= terminal.getvalue().count("\r") <= 11


def test_a_shorter_line_covers_a_longer_one(terminal: Terminal) -> None:
    clock = Clock()
    with Progress("reading", 100, unit="tokens", stream=terminal, clock=clock) as progress:
        for count in (1, 98):
            clock.now_s += 3600
            progress(count)
    _, first, second, last = terminal.getvalue().removesuffix("\n").split("\r")
    assert "99:00:00 left" in first
    assert len(second) == len(first)
    assert len(last) == len(second.rstrip())


def test_an_error_removes_the_bar(terminal: Terminal) -> None:
    clock = Clock()
    with (
        pytest.raises(KeyError),
        Progress("reading", 100, unit="tokens", stream=terminal, clock=clock) as progress,
    ):
        clock.now_s += 1
        progress(10)
        raise KeyError
    _, drawn, blank, home = terminal.getvalue().split("\r")
    assert blank == " " * len(drawn)
    assert home == ""


def test_a_narrow_terminal_gets_no_more_than_fits(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    with Progress("reading", 100, unit="tokens", stream=terminal, clock=Clock()) as progress:
        progress(100)
    assert max(map(len, terminal.getvalue().rstrip("\n").split("\r"))) == 29


@pytest.mark.parametrize("total", [0, 10])
def test_a_bar_without_any_progress(terminal: Terminal, total: int) -> None:
    with Progress("reading", total, unit="tokens", stream=terminal, clock=Clock()):
        pass
    assert ("100%" in terminal.getvalue()) == (total == 0)


def test_a_file_gets_a_line_every_ten_seconds() -> None:
    file, clock = io.StringIO(), Clock()
    with Progress("reading", 4000, unit="tokens", stream=file, clock=clock) as progress:
        for count in (1000, 1000, 1900, 100):
            clock.now_s += 6
            progress(count)
    assert file.getvalue().splitlines() == [
        "reading 2,000 of 4,000 tokens  50%  167 tokens/s  0:12 left",
        "reading 4,000 of 4,000 tokens 100%  167 tokens/s",
    ]


def test_messages_are_shown_rarely_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: Terminal
) -> None:
    clock, shown = Clock(), list[str]()
    monkeypatch.setattr("edgeseq.runtime.progress.time.perf_counter", clock)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    show = rarely(shown.append)
    for second in range(25):
        clock.now_s = 100.0 + second
        show(str(second))
    assert shown == ["10", "20"]
    monkeypatch.setattr(sys, "stderr", terminal)
    assert rarely(shown.append) == shown.append


def test_short_work_is_silent_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress("reading", 10, unit="tokens") as progress:
        progress(10)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    with Progress("reading", 10, unit="tokens") as progress:
        progress(10)
