"""Generate ten thousand texts and load a thousand models in one process; its memory must not grow.

    python -m benchmarks.reliability.long_run [--generations 10000] [--loads 1000] [--seed 0]

Generations by both demo models have random options: greedy search, sampling, beams, prompt lookup,
batches, sessions, streams that are cancelled or left, threads, asyncio, constraints (if llguidance
is there) and calls that are refused. Models are loaded with and without ``prepack``, closed, used
in a ``with`` block, or dropped for the garbage collector; some are kept for a while. After each
tenth, the script records resident memory, open files and threads.

The exit status is 1 if the last tenth has more memory than the second by ``--limit`` MB, or more
open files or threads, or if a greedy text changed. It needs Linux and psutil.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from random import Random
from typing import Any, NamedTuple

import psutil

from edgeseq.runtime import EdgeseqError, Model, load

TENTHS = 10
WORDS = ("once", "upon", "a", "time", "there", "was", "an", "old", "king", "who", "had", "sons")
PROBES = {"gpt2": "Once upon a time,", "t5": "pronounce: algorithm"}


class State(NamedTuple):
    """What the process holds after a tenth."""

    resident_mb: float
    shared_mb: float  # proportional set size: shared memory is divided among processes
    files: int
    threads: int


def state() -> State:
    """Return what the process holds, once what nobody refers to is collected."""
    gc.collect()
    process = psutil.Process()
    memory = process.memory_full_info()
    return State(
        round(memory.rss * 1e-6, 1),
        round(memory.pss * 1e-6, 1),
        process.num_fds(),
        process.num_threads(),
    )


class Generations:
    """Random calls of the demo models."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.models = {name: load(demo=name, threads=2) for name in PROBES}
        self.kinds: Counter[str] = Counter()
        self.different = 0
        self._sessions = {name: model.session() for name, model in self.models.items()}
        self._first = {name: self._probe(name) for name in PROBES}
        self._actions: list[tuple[int, Callable[[], None]]] = [
            (6, self.greedy),
            (6, self.sample),
            (4, self.beams),
            (3, self.groups),
            (3, self.lookup),
            (4, self.batch),
            (5, self.session),
            (4, self.leave_stream),
            (4, self.cancel_stream),
            (2, self.threads),
            (2, self.asynchronous),
            (3, self.choose),
            (2, self.refused),
            (2, self.repeat),
        ]
        if find_spec("llguidance") is not None:
            self._actions.append((3, self.constrain))

    def step(self) -> None:
        """Make one call."""
        weights, actions = zip(*self._actions, strict=True)
        [action] = self.rng.choices(actions, weights)
        self.kinds[action.__name__] += 1
        action()

    def settle(self) -> None:
        """End what is kept between calls: the caches of sessions."""
        self._sessions = {name: model.session() for name, model in self.models.items()}

    def close(self) -> None:
        """Close the models."""
        for model in self.models.values():
            model.close()

    def _model(self) -> tuple[str, Model]:
        name = self.rng.choice(sorted(PROBES))
        return name, self.models[name]

    def _prompt(self, name: str, most: int = 60) -> str:
        count = self.rng.choice([1, 1, 4, 16, most])
        words = " ".join(self.rng.choices(WORDS, k=count))
        return f"pronounce: {words}" if name == "t5" else words

    def _length(self) -> int:
        return self.rng.choice([1, 4, 16, 32])

    def _probe(self, name: str) -> str:
        return self.models[name].generate(PROBES[name], max_new_tokens=8, do_sample=False)[0].text

    def greedy(self) -> None:
        """Greedy search."""
        name, model = self._model()
        model.generate(self._prompt(name), max_new_tokens=self._length(), do_sample=False)

    def sample(self) -> None:
        """Sample with random warpers and penalties."""
        rng = self.rng
        name, model = self._model()
        model.generate(
            self._prompt(name),
            max_new_tokens=self._length(),
            do_sample=True,
            seed=rng.randrange(1000),
            temperature=rng.uniform(0.2, 2.0),
            top_k=rng.choice([0, 5, 50]),
            top_p=rng.choice([0.5, 1.0]),
            repetition_penalty=rng.choice([1.0, 1.2]),
            num_return_sequences=rng.choice([1, 1, 3]),
        )

    def beams(self) -> None:
        """Beam search."""
        name, model = self._model()
        beams = self.rng.choice([2, 4, 7])
        model.generate(
            self._prompt(name, 20),
            max_new_tokens=self._length(),
            num_beams=beams,
            num_return_sequences=self.rng.choice([1, beams]),
            do_sample=False,
        )

    def groups(self) -> None:
        """Diverse beam search."""
        name, model = self._model()
        model.generate(
            self._prompt(name, 20),
            max_new_tokens=8,
            num_beams=4,
            num_beam_groups=2,
            diversity_penalty=0.5,
            do_sample=False,
        )

    def lookup(self) -> None:
        """Prompt lookup."""
        name, model = self._model()
        tokens = self.rng.choice([2, 5])
        model.generate(
            self._prompt(name), max_new_tokens=16, do_sample=False, prompt_lookup_num_tokens=tokens
        )

    def batch(self) -> None:
        """A batch of prompts of different lengths."""
        name, model = self._model()
        prompts = [self._prompt(name, 30) for _ in range(self.rng.choice([2, 5, 9]))]
        model.generate(prompts, max_new_tokens=self._length(), do_sample=self.rng.random() < 0.5)

    def session(self) -> None:
        """Continue a text in a session; begin anew now and then."""
        name, model = self._model()
        if self.rng.random() < 0.2:
            self._sessions[name] = model.session()
        text = PROBES[name] + " " + " ".join(self.rng.choices(WORDS, k=self.rng.choice([0, 3])))
        self._sessions[name].generate(text, max_new_tokens=self._length(), do_sample=False)

    def leave_stream(self) -> None:
        """Leave a stream after a few pieces, closed or not."""
        name, model = self._model()
        stream = model.stream(self._prompt(name), max_new_tokens=32)
        for _ in range(self.rng.randrange(4)):
            next(stream, None)
        if self.rng.random() < 0.5:
            stream.close()

    def cancel_stream(self) -> None:
        """Cancel a stream from its control."""
        name, model = self._model()
        cancel = threading.Event()
        left = self.rng.randrange(1, 6)
        for _ in model.stream(self._prompt(name), max_new_tokens=32, cancel=cancel):
            left -= 1
            if not left:
                cancel.set()

    def threads(self) -> None:
        """Generate in several threads at once, which share decode steps."""
        name, model = self._model()
        prompts = [self._prompt(name, 10) for _ in range(4)]
        running = [
            threading.Thread(target=model.generate, args=[prompt], kwargs={"max_new_tokens": 8})
            for prompt in prompts
        ]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    def asynchronous(self) -> None:
        """Generate in an event loop of its own, and leave one stream."""
        name, model = self._model()

        async def read(pieces: int) -> None:
            stream = model.astream(self._prompt(name, 10), max_new_tokens=12)
            async for _ in stream:
                pieces -= 1
                if not pieces:
                    break
            await stream.aclose()

        async def both() -> None:
            await asyncio.gather(read(2), read(100))

        asyncio.run(both())

    def choose(self) -> None:
        """Choose one of some answers."""
        name, model = self._model()
        choices = [" king", " golden bird", " sons"]
        model.generate(self._prompt(name, 10), choices=choices)

    def constrain(self) -> None:
        """Generate with a constraint, an old or a new one."""
        most = self.rng.randrange(3, 12) if self.rng.random() < 0.5 else self.rng.randrange(10**6)
        options: dict[str, Any] = self.rng.choice(
            [
                {"regex": f"[a-z ]{{1,{most % 500 + 1}}}"},
                {"json_schema": {"type": "object", "properties": {f"a{most}": {"type": "string"}}}},
            ]
        )
        model, prompt = self.models["gpt2"], self._prompt("gpt2", 10)
        model.generate(prompt, max_new_tokens=8, do_sample=False, **options)

    def refused(self) -> None:
        """Make a call that is refused."""
        name, model = self._model()
        options: dict[str, Any] = self.rng.choice(
            [{"temperature": -1}, {"num_beams": 0}, {"bad_words_ids": [[]]}, {"top_k": "a"}]
        )
        with contextlib.suppress(EdgeseqError):  # T5 has no limit of tokens
            model.generate(self._prompt(name) * self.rng.choice([1, 200]), **options)

    def repeat(self) -> None:
        """Generate the first text again."""
        name, _ = self._model()
        self.different += self._probe(name) != self._first[name]


class Loads:
    """Loads of the demo models that end in different ways."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.kinds: Counter[str] = Counter()
        self.different = 0
        self._kept: list[Model] = []
        self._first: dict[str, str] = {}

    def step(self) -> None:
        """Load a model, generate, and end it somehow."""
        rng = self.rng
        name = rng.choice(sorted(PROBES))
        options: dict[str, Any] = {
            "prepack": rng.random() < 0.3,
            "threads": rng.choice([1, 2]),
            "kernels": rng.choice(["auto", "stock"]),
            "verify": rng.random() < 0.2,
            "kv_cache": rng.choice([None, "float32"]),
        }
        model = load(demo=name, **options)
        text = model.generate(PROBES[name], max_new_tokens=4, do_sample=False)[0].text
        key = f"{name} {options['kernels']} {options['kv_cache']}"
        self.different += self._first.setdefault(key, text) != text
        end = rng.choice(["close", "with", "drop", "drop in a cycle", "drop a stream", "keep"])
        self.kinds[end] += 1
        match end:
            case "close":
                model.close()
            case "with":
                with model:
                    pass
            case "drop in a cycle":
                cycle: list[Any] = [model]
                cycle.append(cycle)
            case "drop a stream":
                next(model.stream(PROBES[name], max_new_tokens=16), None)
            case "keep":
                self._kept.append(model)
                del self._kept[:-3]

    def settle(self) -> None:
        """Forget the models that are kept; a close returns freed memory to the system."""
        self._kept.clear()
        gc.collect()
        load(threads=1).close()


def run(name: str, work: Generations | Loads, count: int) -> list[State]:
    """Make ``count`` steps; return what the process holds after each tenth."""
    states = []
    for tenth in range(TENTHS):
        for _ in range(count // TENTHS):
            work.step()
        work.settle()
        states.append(state())
        print(f"{name}, tenth {tenth + 1}: {states[-1]}", file=sys.stderr, flush=True)
    return states


def table(name: str, states: Sequence[State]) -> str:
    """Return what the process held after each tenth, in Markdown."""
    lines = [
        f"| {name}, after tenth | {' | '.join(str(i + 1) for i in range(len(states)))} |",
        f"|{' --- |' * (len(states) + 1)}",
    ]
    titles = ("resident MB", "proportional MB", "open files", "threads")
    for title, values in zip(titles, zip(*states, strict=True), strict=True):
        lines.append(f"| {title} | {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def growth(states: Sequence[State]) -> State:
    """Return by how much the last tenth is above the second."""
    second, last = states[1], states[-1]
    return State(
        round(last.resident_mb - second.resident_mb, 1),
        round(last.shared_mb - second.shared_mb, 1),
        last.files - second.files,
        last.threads - second.threads,
    )


def main() -> None:
    """Run and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Generate and load for a long time.")
    parser.add_argument("--generations", type=int, default=10_000)
    parser.add_argument("--loads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=8.0, help="MB that memory may grow by")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    is_flat = True
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # of prepacked weights
        for name, count in {"generations": arguments.generations, "loads": arguments.loads}.items():
            if not count:
                continue
            work = (Generations if name == "generations" else Loads)(arguments.seed)
            states = run(name, work, count)
            if isinstance(work, Generations):
                work.close()
            grown = growth(states)
            print(table(name, states))
            print(f"\n{dict(sorted(work.kinds.items()))}\n")
            figures[name] = {
                "count": count // TENTHS * TENTHS,
                "grown_mb": grown.resident_mb,
                "grown_files": grown.files,
                "grown_threads": grown.threads,
                "texts_that_differ": work.different,
            }
            is_flat &= grown.resident_mb <= arguments.limit and not work.different
            is_flat &= grown.files <= 0 and grown.threads <= 0
    print(json.dumps(figures))
    sys.exit(not is_flat)


if __name__ == "__main__":
    main()
