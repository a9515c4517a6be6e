"""Generations that share decode steps: rows that join, move and leave, and how threads wait."""

from __future__ import annotations

import gc
import linecache
import random
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseq.runtime.errors import DeviceError
from edgeseq.runtime.ort.engine import Engine
from edgeseq.runtime.ort.memory import Buffer, CpuMemory
from edgeseq.runtime.ort.sharing import shared_cache, shared_decoder, shared_steps
from tests.support.processes import poll
from tests.support.scripted_session import (
    POSITIONS,
    VOCABULARY,
    ScriptedDecoderSession,
    logits_after,
    scripted_engine,
)

Ids = list[int]
SHARING = {module.__file__ for module in (shared_cache, shared_decoder, shared_steps)}


class WatchedMemory(CpuMemory):
    """Main memory full of NaN, which knows how much of it is in use."""

    def __init__(self) -> None:
        self.is_full = False
        self._arrays: list[weakref.ref[Any]] = []

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        if self.is_full:
            raise DeviceError("There is no memory.")
        buffer = super().allocate(shape, dtype)
        buffer.owner.fill(np.nan)
        self._arrays.append(weakref.ref(buffer.owner))
        return buffer

    @property
    def in_use(self) -> int:
        return sum(array.nbytes for ref in self._arrays if (array := ref()) is not None)


class Text:
    """A generation that checks all of its logits."""

    def __init__(
        self, engine: Engine, prompts: Sequence[Ids], sources: Sequence[Ids] | None = None
    ) -> None:
        self.texts = [list(prompt) for prompt in prompts]
        self.sources = [list(source) for source in sources or [[]] * len(prompts)]
        self.decoder = engine.decoder(sources or prompts, POSITIONS)
        self.thread = ThreadPoolExecutor(1)  # whose steps these are
        self.check(self.decoder.prefill(prompts))

    def check(self, logits: NDArray[np.float32]) -> None:
        pairs = zip(self.texts, self.sources, strict=True)
        np.testing.assert_array_equal(logits, [logits_after(*pair) for pair in pairs])
        logits.fill(np.nan)  # it is the caller's until the next call

    def step(self, token: int = 3) -> None:
        for row, text in enumerate(self.texts):
            text.append((token + row) % VOCABULARY)
        self.check(self.decoder.decode([text[-1] for text in self.texts]))

    def steps(self, count: int) -> None:
        for i in range(count):
            self.step(i)

    def select(self, parents: Sequence[int]) -> None:
        self.texts = [list(self.texts[parent]) for parent in parents]
        self.sources = [self.sources[parent] for parent in parents]
        self.decoder.select_rows(parents)


def together(*texts: Text, steps: int = 8) -> None:
    """Let all decode at the same time; none begins a step before all have made the last one."""
    barrier = threading.Barrier(len(texts))

    def run(text: Text) -> None:
        for i in range(steps):
            barrier.wait(60)
            text.step(i)

    for done in [text.thread.submit(run, text) for text in texts]:
        done.result(60)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for others long enough for a busy machine."""
    monkeypatch.setattr(shared_steps, "LEAST_PATIENCE_S", 0.2)
    monkeypatch.setattr(shared_steps, "MOST_PATIENCE_S", 0.2)


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nobody."""
    monkeypatch.setattr(shared_steps, "LEAST_PATIENCE_S", 0.0)
    monkeypatch.setattr(shared_steps, "MOST_PATIENCE_S", 0.0)


@pytest.fixture
def hasty(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for others a moment only, in tests with many rounds."""
    monkeypatch.setattr(shared_steps, "LEAST_PATIENCE_S", 0.03)
    monkeypatch.setattr(shared_steps, "MOST_PATIENCE_S", 0.03)


@pytest.fixture
def memory() -> WatchedMemory:
    return WatchedMemory()


@pytest.fixture
def scripted(memory: WatchedMemory) -> tuple[Engine, ScriptedDecoderSession]:
    return scripted_engine(memory=memory)


@pytest.fixture
def engine(scripted: tuple[Engine, ScriptedDecoderSession]) -> Engine:
    return scripted[0]


@pytest.fixture
def session(scripted: tuple[Engine, ScriptedDecoderSession]) -> ScriptedDecoderSession:
    return scripted[1]


# Sharing


def test_a_generation_alone_has_its_private_cache(
    engine: Engine, session: ScriptedDecoderSession, memory: WatchedMemory
) -> None:
    text = Text(engine, [[1, 2]])
    before = memory.in_use
    text.steps(5)
    assert session.steps == [1] * 5
    assert memory.in_use == before


def test_generations_at_the_same_time_share_steps(
    engine: Engine, session: ScriptedDecoderSession
) -> None:
    texts = [Text(engine, [[i] * (i + 2)]) for i in range(4)]
    together(*texts, steps=30)
    assert session.steps.count(4) > 20


def test_streams_that_one_thread_reads_take_turns(
    engine: Engine, session: ScriptedDecoderSession
) -> None:
    """None can come while the thread waits for another one."""
    texts = [Text(engine, [[i, i]]) for i in range(3)]
    for i in range(4):
        for text in texts:
            text.step(i)
    assert session.steps == [1] * 12


def test_batches_and_beams_share_steps(engine: Engine, session: ScriptedDecoderSession) -> None:
    batch, beams = Text(engine, [[1, 2], [3], [4, 5, 6]]), Text(engine, [[9, 8]])
    beams.select([0, 0])
    together(batch, beams)
    assert max(session.steps[-4:]) == 5
    batch.select([2, 0])
    beams.select([1, 1])
    together(batch, beams)
    assert max(session.steps[-4:]) == 4
    beams.select([0, 1, 1])  # more rows than before
    batch.select([1])
    together(batch, beams)
    assert max(session.steps[-4:]) == 4


def test_rows_that_end_leave_no_gap(engine: Engine, session: ScriptedDecoderSession) -> None:
    texts = [Text(engine, [[i]]) for i in range(6)]
    together(*texts)
    for left in (texts[1], texts[0], texts[4]):
        left.decoder.close()
    rest = [texts[2], texts[3], texts[5]]
    together(*rest)
    assert max(session.steps[-4:]) == 3
    joining = Text(engine, [[7, 7, 7]])
    together(*rest, joining)
    assert max(session.steps[-4:]) == 4


def test_long_texts_make_the_cache_grow(engine: Engine) -> None:
    """Beyond the first capacity, up to the limit of positions."""
    texts = [Text(engine, [[1] * 499]), Text(engine, [[2]]), Text(engine, [[3] * 250])]
    together(*texts, steps=100)
    assert [len(text.texts[0]) for text in texts] == [599, 101, 350]
    together(*texts[1:], steps=60)  # beside a row that has no position left


def test_memory_returns(engine: Engine, memory: WatchedMemory) -> None:
    before = memory.in_use
    texts = [Text(engine, [[i]]) for i in range(16)]
    together(*texts)
    many = memory.in_use
    for text in texts[2:]:
        text.decoder.close()
    together(*texts[:2])
    assert memory.in_use < many / 3
    for text in texts[:2]:
        text.decoder.close()
    del text
    assert memory.in_use == before
    texts.clear()


def test_reads_forks_and_prompts_leave_the_shared_cache(engine: Engine) -> None:
    one, other = Text(engine, [[1, 2]]), Text(engine, [[3]])
    together(one, other)
    read = one.decoder.read([4, 5])
    one.texts[0] += [4, 5]
    np.testing.assert_array_equal(read[-1], logits_after(one.texts[0]))
    together(one, other)
    fork = Text.__new__(Text)
    fork.texts, fork.sources = [list(other.texts[0])], [[]]
    fork.thread = ThreadPoolExecutor(1)
    fork.decoder = other.decoder.fork()
    together(one, other, fork)
    other.decoder.forget(3)
    del other.texts[0][-3:]
    together(one, other, fork)
    fork.texts[0] += [7, 7, 7]
    fork.check(fork.decoder.prefill([[7, 7, 7]]))
    together(one, other, fork)


def test_a_paused_decoder_has_its_private_cache_again(
    engine: Engine, session: ScriptedDecoderSession
) -> None:
    one, other = Text(engine, [[1, 2]]), Text(engine, [[3]])
    together(one, other)
    one.decoder.pause()
    session.steps.clear()
    other.steps(5)
    assert session.steps == [1] * 5
    together(one, other)
    assert max(session.steps[-4:]) == 2


# With an encoder


@pytest.fixture
def seq2seq(memory: WatchedMemory) -> tuple[Engine, ScriptedDecoderSession]:
    return scripted_engine(has_encoder=True, memory=memory, positions=None)


def test_sources_of_any_length_share_steps(
    seq2seq: tuple[Engine, ScriptedDecoderSession],
) -> None:
    engine, session = seq2seq
    lengths = (1, 40, 16, 90)
    texts = [Text(engine, [[i]], [[i + 1] * n]) for i, n in enumerate(lengths)]
    together(*texts)
    assert max(session.steps[-4:]) == 4
    texts.pop().decoder.close()
    batch = Text(engine, [[5], [6]], [[3] * 5, [4] * 70])
    together(*texts, batch)
    batch.select([1])
    together(*texts, batch)
    assert max(session.steps[-4:]) == 4


def test_sources_share_steps_with_those_that_have_as_many_rows(
    seq2seq: tuple[Engine, ScriptedDecoderSession],
) -> None:
    engine, session = seq2seq
    greedy = [Text(engine, [[i]], [[9] * (i + 1)]) for i in range(2)]
    beams = [Text(engine, [[i]], [[8] * (i + 3)]) for i in range(2)]
    for text in beams:
        text.select([0, 0, 0])
    together(*greedy, *beams)
    assert {2, 6} <= set(session.steps[-8:])
    beams[0].select([2, 1, 1])
    beams[1].select([2, 0])  # now two rows for the source
    together(*greedy, *beams)
    assert {2, 3} <= set(session.steps[-8:])
    beams[0].select([1])  # as greedy search
    together(*greedy, *beams)
    assert {2, 3} <= set(session.steps[-8:])


# Absent members


def test_nobody_waits_for_a_stream_that_is_not_read(
    engine: Engine, session: ScriptedDecoderSession, impatient: None
) -> None:
    abandoned, one, other = (Text(engine, [[i]]) for i in range(3))
    together(abandoned, one, other)
    together(one, other, steps=20)
    session.steps.clear()
    together(one, other, steps=20)
    assert max(session.steps) <= 2  # the rows of the abandoned one have left
    together(abandoned, one, other)


def test_a_member_continues_where_it_was(engine: Engine, impatient: None) -> None:
    texts = [Text(engine, [[i, i]]) for i in range(3)]
    for round_ in range(12):
        together(*texts)
        together(*texts[round_ % 3 :][:1], texts[(round_ + 1) % 3], steps=round_)
        texts[round_ % 3].select([0, 0] if round_ % 2 else [0])


# Errors and interrupts


def test_an_error_ends_the_step_for_all_of_it(
    engine: Engine, session: ScriptedDecoderSession
) -> None:
    texts = [Text(engine, [[i]]) for i in range(3)]
    together(*texts)

    def fail(rows: int, n: int) -> None:
        if n == 1:
            raise ValueError("The step failed.")

    session.before = fail
    errors = []

    def run(text: Text) -> None:
        with pytest.raises(ValueError, match=r"The step failed\."):
            text.decoder.decode([1])
        errors.append(text)

    for done in [text.thread.submit(run, text) for text in texts]:
        done.result(60)
    assert len(errors) == 3
    session.before = lambda rows, n: None
    together(*texts)  # the step counts for none of them


def test_without_memory_only_those_who_join_fail(engine: Engine, memory: WatchedMemory) -> None:
    texts = [Text(engine, [[i]]) for i in range(4)]
    together(*texts)
    fifth = Text(engine, [[9]])
    memory.is_full = True
    done = [text.thread.submit(text.steps, 8) for text in texts]
    failing = fifth.thread.submit(fifth.steps, 8)
    for one in done:
        one.result(60)
    with pytest.raises(DeviceError, match="There is no memory"):
        failing.result(60)


class Tracer:
    """Does something at the ``line``-th line of the sharing code in this thread."""

    def __init__(self, line: int, action: Callable[[], None]) -> None:
        self.seen, self._line, self._action = 0, line, action

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in SHARING:
            return None
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        # Python looks for interrupts at no line `with lock`: it never leaves the lock taken.
        if event == "line" and not source.strip().startswith("with "):
            self.seen += 1
            if self.seen == self._line:
                self._action()
        return self

    def run(self, work: Callable[[], object]) -> bool:
        """Do ``work``; return whether it came to that line."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            work()
        finally:
            sys.settrace(before)
        return self.seen >= self._line


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("role", ["leads", "follows", "joins"])
def test_an_interrupt_anywhere_stops_nobody_else(
    role: str, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_steps, "POLL_S", 0.02)
    line, beyond = 0, 0
    while beyond < 3:  # the victim leads or follows, which differs in lines
        line += 3
        engine, _ = scripted_engine()
        others = [Text(engine, [[1, 2], [3]]), Text(engine, [[4]])]
        victim = Text(engine, [[5, 6]])
        together(*others, *([] if role == "joins" else [victim]), steps=2)
        others[0].select([1, 0][: 1 + line % 2])
        got_there = interrupted(line, victim, others, leads=role == "leads")
        beyond = 0 if got_there else beyond + 1
        together(*others, Text(engine, [[8]]), steps=2)
    assert line > 30


def interrupted(line: int, victim: Text, others: Sequence[Text], *, leads: bool) -> bool:
    """Step all once, and interrupt the victim at a line; return whether it came there."""
    tracer = Tracer(line, interrupt)
    ready = threading.Event()

    def be_interrupted() -> None:
        ready.set()
        with suppress(KeyboardInterrupt):
            tracer.run(lambda: victim.decoder.decode([1]))
        victim.decoder.close()

    if leads:
        done = [other.thread.submit(other.step) for other in others]
        poll(lambda: any(map(was_handed_in, others)) or all(one.done() for one in done))
        done.append(victim.thread.submit(be_interrupted))
    else:
        done = [victim.thread.submit(be_interrupted)]
        assert ready.wait(60)
        done += [other.thread.submit(other.step) for other in others]
    for one in done:
        one.result(60)
    return tracer.seen >= line


def was_handed_in(text: Text) -> bool:
    """Return whether the thread of a text waits for others."""
    member = text.decoder._member  # type: ignore[attr-defined]
    return member.request is not None


def test_a_stream_may_be_collected_anywhere(hasty: None) -> None:
    """The garbage collector closes a decoder in a thread that may have the lock."""
    line, got_there = 0, True
    while got_there:
        line += 2
        engine, _ = scripted_engine()
        texts = [Text(engine, [[1]]), Text(engine, [[2], [3]])]
        lost = [Text(engine, [[4]])]
        together(*texts, *lost, steps=2)
        tracer = Tracer(line, lost.clear)

        def step(tracer: Tracer = tracer, text: Text = texts[0]) -> bool:
            return tracer.run(text.step)

        traced, other = texts[0].thread.submit(step), texts[1].thread.submit(texts[1].step)
        got_there = traced.result(60)
        other.result(60)
        together(*texts, steps=2)
    assert line > 20


# Many at once


@pytest.mark.parametrize("has_encoder", [False, True], ids=["decoder", "encoder-decoder"])
@pytest.mark.parametrize("seed", range(3))
def test_many_that_come_and_go(
    has_encoder: bool, seed: int, memory: WatchedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_steps, "LEAST_PATIENCE_S", 0.001)
    monkeypatch.setattr(shared_steps, "MOST_PATIENCE_S", 0.002)
    positions = None if has_encoder else POSITIONS
    engine, session = scripted_engine(has_encoder=has_encoder, memory=memory, positions=positions)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            works = [pool.submit(one_life, engine, has_encoder, 100 * seed + i) for i in range(48)]
            for work in works:
                work.result(120)
    finally:
        sys.setswitchinterval(interval)
    assert max(session.steps) > 4
    del works
    gc.collect()
    assert memory.in_use == 0


def one_life(engine: Engine, has_encoder: bool, seed: int) -> None:
    """Generate at random: steps, selections, reads, forks, pauses."""
    rng = random.Random(seed)
    count = rng.choice([1, 1, 1, 2, 3])
    prompts = [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 60))] for _ in range(count)]
    sources = None
    if has_encoder:
        sources = [[rng.randrange(9) for _ in range(rng.randint(1, 50))] for _ in range(count)]
        prompts = [prompt[:1] for prompt in prompts]
    text = Text(engine, prompts, sources)
    if rng.random() < 0.3:
        beams = rng.randint(2, 4)
        text.select([row for row in range(count) for _ in range(beams)])
    is_single = len(text.texts) == 1
    for _ in range(rng.randint(1, 40)):
        action = rng.random()
        if action < 0.15:
            kept = [rng.randrange(len(text.texts)) for _ in text.texts]
            text.select(sorted(kept[: rng.randint(1, len(kept))]))
        elif action < 0.2 and is_single:
            more = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 4))]
            text.texts[0] += more
            text.check(text.decoder.prefill([more]))
        elif action < 0.23:
            text.decoder.pause()
        elif action < 0.25 and is_single:
            fork = text.decoder.fork()
            text.decoder.close()
            text.decoder = fork
        text.step(rng.randrange(VOCABULARY))
    if rng.random() < 0.7:
        text.decoder.close()
