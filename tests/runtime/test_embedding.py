"""A model inside a program: threads, event loops, closing, and side effects."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import EdgeseqError, Model, OptionError, PromptError, load
from edgeseq.runtime.concurrency import locks
from edgeseq.runtime.ort.onnx_decoder import OnnxDecoder
from tests.support.processes import python

PROMPTS = [f"Once upon a time there was a {word}" for word in ("fox", "king", "girl", "bird", "so")]
OPTIONS: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def expected(demo_gpt2: Model) -> dict[str, str]:
    return {prompt: demo_gpt2.generate(prompt, **OPTIONS)[0].text for prompt in PROMPTS}


def stream_threads() -> int:
    return sum(thread.name == "edgeseq-stream" for thread in threading.enumerate())


async def read(model: Model, prompt: str, **options: Any) -> str:
    return "".join([piece async for piece in model.astream(prompt, **{**OPTIONS, **options})])


class Gate:
    """A logits processor that waits before token number ``after`` until it is opened."""

    def __init__(self, after: int) -> None:
        self.reached, self._opened = threading.Event(), threading.Event()
        self._after, self.steps = after, 0

    def __call__(self, tokens: Any, logits: Any) -> Any:
        if self.steps == self._after:
            self.reached.set()
            assert self._opened.wait(60)
        self.steps += 1
        return logits

    def open(self) -> None:
        self._opened.set()


def test_threads_get_what_each_would_get_alone(demo_gpt2: Model, expected: dict[str, str]) -> None:
    with ThreadPoolExecutor(20) as pool:
        wanted = PROMPTS * 8
        streams = pool.map(lambda prompt: "".join(demo_gpt2.stream(prompt, **OPTIONS)), wanted)
        assert [*streams] == [expected[prompt] for prompt in wanted]


@pytest.mark.parametrize("max_concurrent", [1, 3, None])
def test_fifty_streams_of_an_event_loop(max_concurrent: Any, expected: dict[str, str]) -> None:
    model = load(demo="gpt2", max_concurrent=max_concurrent)

    async def run() -> list[str]:
        return await asyncio.gather(*(read(model, prompt) for prompt in PROMPTS * 10))

    assert asyncio.run(run()) == [expected[prompt] for prompt in PROMPTS * 10]
    assert stream_threads() == 0


def test_streams_that_are_closed_or_cancelled_leave_nothing(expected: dict[str, str]) -> None:
    """One half is closed after a few pieces, a quarter cancelled at a token, a quarter at once."""
    draw, slots = random.Random(0), 3
    model = load(demo="gpt2", max_concurrent=slots)

    async def one(number: int) -> None:
        prompt = PROMPTS[number % len(PROMPTS)]
        if number % 2:
            gate = Gate(after=draw.randrange(9))
            task = asyncio.create_task(
                read(model, prompt, max_new_tokens=400, logits_processor=gate)
            )
            if number % 4 == 1:
                assert await asyncio.to_thread(gate.reached.wait, 60)
            else:
                await asyncio.sleep(0)
            task.cancel()
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await task
            return
        pieces = model.astream(prompt, **OPTIONS)
        text = ""
        for _ in range(draw.randrange(5)):
            text += await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        assert expected[prompt].startswith(text)

    async def begin_as_many_as_there_are_slots() -> None:
        streams = [model.astream(PROMPTS[0], **OPTIONS) for _ in range(slots)]
        pieces = await asyncio.gather(*map(anext, streams))
        assert all(piece and expected[PROMPTS[0]].startswith(piece) for piece in pieces)
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(20))  # for the gates
        await asyncio.gather(*map(one, range(20)))
        await asyncio.wait_for(begin_as_many_as_there_are_slots(), 60)
        assert await read(model, PROMPTS[0]) == expected[PROMPTS[0]]

    asyncio.run(run())
    assert stream_threads() == 0


def test_closing_ends_the_work_within_a_token(demo_gpt2: Model) -> None:
    """Closed while its seventh token is chosen, a stream computes one more."""
    gate = Gate(after=6)

    async def run() -> None:
        pieces = demo_gpt2.astream(
            PROMPTS[0], **{**OPTIONS, "max_new_tokens": 400, "logits_processor": gate}
        )
        await anext(pieces)
        assert await asyncio.to_thread(gate.reached.wait, 60)
        closing = asyncio.create_task(pieces.aclose())  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        assert not closing.done()
        gate.open()
        await closing

    asyncio.run(run())
    assert gate.steps == 8
    assert stream_threads() == 0


def test_the_event_loop_runs_while_a_stream_computes(demo_gpt2: Model) -> None:
    """The loop opens the gate, so it would never open if the stream blocked the loop."""
    gate = Gate(after=5)

    async def run() -> None:
        reading = asyncio.create_task(read(demo_gpt2, PROMPTS[0], logits_processor=gate))
        assert await asyncio.to_thread(gate.reached.wait, 60)
        for _ in range(10):
            await asyncio.sleep(0)
        assert gate.steps == 5
        gate.open()
        await reading

    asyncio.run(run())
    assert gate.steps == OPTIONS["max_new_tokens"]


def test_errors_reach_the_reader(demo_gpt2: Model) -> None:
    for options in ({"nonsense": 1}, {"choices": ["a"]}, {"num_beams": 0}):
        with pytest.raises(OptionError):
            demo_gpt2.astream(PROMPTS[0], **options)
    with pytest.raises(PromptError):
        demo_gpt2.astream(3)  # type: ignore[arg-type]

    def fails(tokens: Any, logits: Any) -> Any:
        raise RuntimeError("mine")

    async def run() -> None:
        with pytest.raises(PromptError):
            await read(demo_gpt2, "too long " * 1000)
        with pytest.raises(RuntimeError, match="mine"):
            await read(demo_gpt2, PROMPTS[0], logits_processor=fails)

    asyncio.run(run())
    assert stream_threads() == 0


def test_the_callers_cancel_ends_a_stream(demo_gpt2: Model, expected: dict[str, str]) -> None:
    """The event is set at a piece, at the latest while the seventh token is chosen."""
    event, gate = threading.Event(), Gate(after=6)

    async def run() -> str:
        text = ""
        options = {**OPTIONS, "cancel": event, "logits_processor": gate}
        async for piece in demo_gpt2.astream(PROMPTS[0], **options):
            text += piece
            event.set()
            gate.open()
        return text

    text = asyncio.run(run())
    assert expected[PROMPTS[0]].startswith(text)
    assert gate.steps <= 8


def test_a_session_streams_too(demo_gpt2: Model, expected: dict[str, str]) -> None:
    async def run() -> str:
        with demo_gpt2.session() as session:
            return "".join([piece async for piece in session.astream(PROMPTS[1], **OPTIONS)])

    assert asyncio.run(run()) == expected[PROMPTS[1]]


@pytest.mark.parametrize("ids", [[123, 60], [[123, 60]]])
def test_a_stream_continues_a_prefix(ids: Any, demo_t5: Model) -> None:
    options: dict[str, Any] = {**OPTIONS, "decoder_input_ids": ids}
    [expected] = demo_t5.generate("pronounce: fox", **options)
    assert asyncio.run(read(demo_t5, "pronounce: fox", **options)) == expected.text
    with pytest.raises(PromptError, match="2 lists for 1 prompts"):
        asyncio.run(read(demo_t5, "pronounce: fox", decoder_input_ids=[[1], [2]]))


def test_a_prefix_of_a_decoder_alone_is_refused_at_once(demo_gpt2: Model) -> None:
    with pytest.raises(OptionError, match="decoder_input_ids has no effect"):
        demo_gpt2.astream(PROMPTS[0], decoder_input_ids=[1])


def test_one_thread_may_not_begin_more_streams_than_there_are_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_S", 0.2)
    model = load(demo="gpt2", max_concurrent=2)
    streams = [model.stream(prompt, **OPTIONS) for prompt in PROMPTS[:3]]
    first, second = next(streams[0]), next(streams[1])
    with pytest.raises(EdgeseqError, match=r"^All slots \(max_concurrent is 2\) are held"):
        next(streams[2])
    streams[0].close()  # type: ignore[attr-defined]
    assert next(model.stream(PROMPTS[0], **OPTIONS)) == first
    assert second


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_a_bad_max_concurrent_is_refused(count: Any) -> None:
    with pytest.raises(OptionError, match="max_concurrent is"):
        load(demo="gpt2", max_concurrent=count)


# Its end


def test_a_closed_model_says_so(expected: dict[str, str]) -> None:
    with load(demo="gpt2") as model:
        session, stream = model.session(), model.stream(PROMPTS[0], **OPTIONS)
        text = next(stream)
    assert text + "".join(stream) == expected[PROMPTS[0]]  # a stream that has begun continues
    for call in (
        lambda: model.generate(PROMPTS[0]),
        lambda: model.stream(PROMPTS[0]),
        lambda: model.astream(PROMPTS[0]),
        lambda: model.score(PROMPTS[0]),
        lambda: model.run("completion", PROMPTS[0]),
        lambda: session.generate(PROMPTS[0]),
        model.__enter__,
    ):
        with pytest.raises(EdgeseqError, match="The model is closed"):
            call()
    model.close()


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


MEMORY = """
import gc, sys
from pathlib import Path
from edgeseq.runtime import load

def resident_mb():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

model = load(sys.argv[1])
model.generate("Once", max_new_tokens=3, do_sample=False)
model.close()
before = resident_mb()
with load(sys.argv[1]) as model:
    model.generate("Once", max_new_tokens=3, do_sample=False)
    during = resident_mb()
gc.collect()
print(before, during, resident_mb())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_closing_gives_the_memory_back(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from edgeseq.export import export_checkpoint

    large = make_checkpoint(n_embd=512, n_layer=6, n_head=8)  # 75 MB of weights
    export_checkpoint(large, tmp_path / "large")
    before, during, after = map(float, python(MEMORY, tmp_path / "large").split())
    assert during - before > 50
    assert after - before < 15


def test_it_cannot_be_pickled_or_copied(demo_gpt2: Model) -> None:
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(EdgeseqError, match="pass the path of its bundle"):
            action(demo_gpt2)
        with (
            demo_gpt2.session() as session,
            pytest.raises(EdgeseqError, match="use its method fork"),
        ):
            action(session)


def generate_in_child(results: Any) -> None:
    for call in (lambda: FORKED[0].generate(PROMPTS[0], **OPTIONS), lambda: next(BEGUN[0])):
        try:
            call()
        except EdgeseqError as error:
            results.put(str(error))
    results.put(load(demo="gpt2").generate(PROMPTS[0], **OPTIONS)[0].text)


FORKED: list[Model] = []
BEGUN: list[Any] = []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_after_a_fork_is_told(demo_gpt2: Model, expected: dict[str, str]) -> None:
    FORKED[:], BEGUN[:] = [demo_gpt2], [demo_gpt2.stream(PROMPTS[0], **OPTIONS)]
    begin = next(BEGUN[0])
    busy = threading.Thread(
        target=lambda: demo_gpt2.generate(PROMPTS[1], max_new_tokens=300, eos_token_id=None)
    )
    busy.start()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=generate_in_child, args=(results,))
    child.start()
    assert "before this process was forked" in results.get(timeout=120)
    assert "generation that started before this process was forked" in results.get(timeout=120)
    assert results.get(timeout=120) == expected[PROMPTS[0]]  # loaded again, it works
    child.join(60)
    assert child.exitcode == 0
    busy.join()
    assert begin + "".join(BEGUN[0]) == expected[PROMPTS[0]]  # in this process it continues


EXITS = {
    "sync": """
stream = model.stream("Once", max_new_tokens=400, eos_token_id=None, do_sample=False)
print(len(next(stream)) > 0, flush=True)
""",
    "async": """
import asyncio
async def run():
    pieces = model.astream("Once", max_new_tokens=400, eos_token_id=None, do_sample=False)
    print(len(await anext(pieces)) > 0, flush=True)
    sys.exit()
asyncio.run(run())
""",
    "loop left alone": """
import asyncio
loop = asyncio.new_event_loop()
pieces = model.astream("Once", max_new_tokens=400, eos_token_id=None, do_sample=False)
print(len(loop.run_until_complete(anext(pieces))) > 0, flush=True)
""",
    "loop closed": """
import asyncio
loop = asyncio.new_event_loop()
pieces = model.astream("Once", max_new_tokens=400, eos_token_id=None, do_sample=False)
print(len(loop.run_until_complete(anext(pieces))) > 0, flush=True)
loop.close()
""",
    "thread": """
import threading
threading.Thread(
    target=lambda: [*model.stream("Once", max_new_tokens=40, do_sample=False)]
).start()
print(True, flush=True)
""",
}


@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_may_end_in_the_middle_of_a_stream(how: str) -> None:
    code = f"import sys\nfrom edgeseq.runtime import load\nmodel = load(demo='gpt2')\n{EXITS[how]}"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "True\n"
    assert done.returncode == 0
    assert not re.search("Fatal|ignored", done.stderr)


BEYOND_MAIN = """
import asyncio, threading
from edgeseq.runtime import load
model, main = load(demo="gpt2"), threading.main_thread()
options = {"max_new_tokens": 12, "eos_token_id": None, "do_sample": False}
async def run():
    main.join()
    print("".join([piece async for piece in model.astream("Once", **options)]))
print(model.generate("Once", **options)[0].text)
threading.Thread(target=lambda: asyncio.run(run())).start()
"""


def test_a_loop_in_a_thread_goes_on_after_the_main_thread() -> None:
    expected, found = python(BEYOND_MAIN).splitlines()
    assert found == expected != ""


# What it leaves alone

QUIET = """
import json, logging, os, signal, sys, threading, warnings
from pathlib import Path

def state():
    handlers = {str(s): str(signal.getsignal(s)) for s in signal.valid_signals()}
    known = logging.root.manager.loggerDict
    loggers = {n: str(getattr(l, "handlers", 0)) for n, l in known.items()}
    return {
        "signals": handlers,
        "root": [str(logging.root.handlers), logging.root.level],
        "loggers": {n: h for n, h in loggers.items() if h not in ("[]", "0")},
        "filters": str(warnings.filters),
        "folder": os.getcwd(),
        "hooks": [str(sys.excepthook), str(sys.displayhook), str(threading.excepthook)],
        "limit": sys.getrecursionlimit(), "switch": sys.getswitchinterval(),
        "files": sorted(map(str, Path.cwd().rglob("*"))),
    }

import numpy, onnxruntime, tokenizers  # what these do is theirs

before = state()
from edgeseq.runtime import load
with load(demo="gpt2") as model:
    model.generate("Once", max_new_tokens=4)
    "".join(model.stream("Once", max_new_tokens=4))
    model.run("classification", "A fine film.")
    with model.session() as session:
        session.generate("Once", max_new_tokens=4)
after = state()
print(json.dumps([before, after, [t.name for t in threading.enumerate()]]))
"""


def test_nothing_of_the_programs_state_is_changed(tmp_path: Path) -> None:
    variables = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", QUIET],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=variables,
    )
    before, after, threads = json.loads(done.stdout)
    assert after == before
    assert threads == ["MainThread"]
    assert done.stderr == ""


def test_many_requests_leave_no_memory_behind(demo_gpt2: Model) -> None:
    """A tenth of the requests of ``benchmarks/embedding.py``."""

    async def some(count: int) -> None:
        async def one(number: int) -> None:
            pieces = demo_gpt2.astream(PROMPTS[number % 5], **OPTIONS)
            async for _ in pieces:
                if number % 5 < 2:
                    break
            await pieces.aclose()  # type: ignore[attr-defined]

        for _ in range(count // 10):
            await asyncio.gather(*map(one, range(10)))

    asyncio.run(some(30))
    gc.collect()
    assert stream_threads() == 0
    left = [item for item in gc.get_objects() if type(item) is OnnxDecoder]
    assert left == []
    objects = len(gc.get_objects())
    asyncio.run(some(100))
    gc.collect()
    assert len(gc.get_objects()) - objects < 90  # less than one a request


# What takes long: a T5's source, the prompts of a batch

LONG_SOURCE = "pronounce: " + "the king said to the queen " * 100


def test_a_long_source_is_cancelled_while_it_is_read(demo_t5: Model) -> None:
    """After a whole source there would be a token."""
    asked = itertools.count()
    [result] = demo_t5.generate(LONG_SOURCE, cancel=lambda: next(asked) >= 1)
    assert (result.token_ids, result.finish_reason) == ((), "cancelled")


def test_a_session_reads_a_cancelled_source_again(demo_t5: Model) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": None}
    [expected] = demo_t5.generate(LONG_SOURCE, **options)
    asked = itertools.count()
    with demo_t5.session() as session:
        [result] = session.generate(LONG_SOURCE, cancel=lambda: next(asked) >= 1, **options)
        assert (result.token_ids, session.cached_tokens) == ((), ())
        assert session.generate(LONG_SOURCE, **options)[0].token_ids == expected.token_ids


def test_a_batch_of_prompts_is_cancelled_while_it_is_read(demo_gpt2: Model) -> None:
    asked = itertools.count()
    prompts = ["the king said to the queen " * 70] * 16
    results = demo_gpt2.generate(prompts, cancel=lambda: next(asked) >= 1, max_new_tokens=4)
    assert {(r.token_ids, r.finish_reason) for r in results} == {((), "cancelled")}


def test_an_error_of_the_callers_cancel_is_raised(demo_t5: Model) -> None:
    with pytest.raises(ValueError, match="not a number"):
        demo_t5.generate(LONG_SOURCE, cancel=raising)


def raising() -> bool:
    raise ValueError("not a number")
