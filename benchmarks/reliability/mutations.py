"""Damage bundles in thousands of ways, and load each of them.

    python -m benchmarks.reliability.mutations [--count 2000] [--seed 0] [--work FOLDER] [--only N]

Each case is a copy of a small bundle (``bundles.py``) that is damaged in one way (``mutants/``).
Two questions are asked of it, each in a process of its own with limits of time and memory:

- Does ``edgeseq info --verify`` refuse it, if the bytes of a file are not those of the manifest?
- Without ``verify``, does it give text or one sentence of an ``EdgeseqError``?

In half of the cases the damage is *forged*: sizes, hashes and the seal in the manifest are made to
fit it, so that no check of them can find it. What then happens inside ONNX Runtime and
``tokenizers`` is counted apart, because no promise covers bundles that somebody made to do harm.

It prints a table and each broken promise with its number; ``--only`` runs one case. The exit status
is 1 if a promise is broken. It needs Linux and the extra ``export``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import edgeseq.cli.info
import edgeseq.runtime.model
import edgeseq.runtime.ort.prepacked
import edgeseq.runtime.text.byte_tokenizer
import edgeseq.runtime.text.sentencepiece_tokenizer  # noqa: F401  # once, for all children
from edgeseq.cli import command_line
from edgeseq.runtime import EdgeseqError, load
from edgeseq.runtime.bundle.manifest import MANIFEST_NAME

from .bundles import make_bundles
from .children import End, run_in_child
from .mutants import Mutation, files, graphs, manifests, tokenizers

PROMPT = "pronounce: once upon a time"
OUTCOMES = ("text", "refused", "sentence", "foreign", "memory", "endless", "crash", "exit")
KEPT = ("text", "refused")  # what is promised
LIMIT_S = 60.0  # for a load and some tokens, which take less than a second on an idle machine
FORGED_S = 10.0  # for bundles that nothing is promised of


class Kind(NamedTuple):
    """A way to damage bundles."""

    group: str
    name: str
    mutation: Mutation
    is_forged: bool  # whether the manifest is made to fit the damage


def kinds() -> list[Kind]:
    """Return all ways to damage bundles."""
    groups = {
        "bytes": files.BYTES,
        "graph": graphs.VALUES,
        "tokenizer": tokenizers.VALUES,
        "manifest": manifests.VALUES,
    }
    found = [Kind("place", name, mutation, False) for name, mutation in files.PLACES.items()]
    prepacked = {**files.BYTES, **files.PLACES}
    found += [Kind("prepacked", name, mutation, False) for name, mutation in prepacked.items()]
    for group, mutations in groups.items():
        for name, mutation in mutations.items():
            found += [Kind(group, name, mutation, forged) for forged in (False, True)]
    Random(0).shuffle(found)  # so that the first cases are of all groups
    return found


class Case(NamedTuple):
    """A damaged bundle and how its loads ended."""

    number: int
    kind: Kind
    bundle: str
    damage: str
    is_changed: bool  # whether a file's bytes are not those of the manifest
    verified: End
    loaded: End

    @property
    def faults(self) -> list[str]:
        """What was not kept of what is promised, or would be promised of a bundle not forged."""
        found = []
        if self.verified.outcome not in (("refused",) if self.is_changed else KEPT):
            found.append(f"--verify: {self.verified.outcome}: {self.verified.detail}")
        if self.loaded.outcome not in KEPT:
            found.append(f"load: {self.loaded.outcome}: {self.loaded.detail}")
        return found

    @property
    def is_promised(self) -> bool:
        """Whether a promise covers the case: the damage is not forged, or only in the manifest."""
        return not self.kind.is_forged or self.kind.group == "manifest"


def run_case(number: int, seed: int, bundles: Sequence[Path], work: Path) -> Case:
    """Damage a copy of a bundle and load it."""
    rng = Random(f"{seed} {number}")
    all_kinds = kinds()
    kind = all_kinds[number % len(all_kinds)]
    if kind.group == "tokenizer":  # ByT5 has no file of it
        bundles = [bundle for bundle in bundles if bundle.name != "byt5"]
    source = rng.choice(bundles)
    options: dict[str, Any] = {
        "kernels": rng.choice(["auto", "auto", "stock"]),
        "kv_cache": rng.choice([None, None, "float32"]),
    }
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folder = Path(shutil.copytree(source, Path(temporary) / "bundle"))
        if kind.group == "prepacked":
            options = {"prepack": True}
            damage = kind.mutation(_prepare_entry(folder), rng)
        else:
            damage = kind.mutation(folder, rng)
        if kind.is_forged:
            manifests.remake(folder)
        is_changed = not kind.is_forged and _differs(source, folder)
        limit_s = FORGED_S if kind.is_forged else LIMIT_S
        verified = run_in_child(lambda: _verify(folder), limit_s)
        loaded = run_in_child(lambda: _generate(folder, **options), limit_s)
    return Case(number, kind, source.name, damage, is_changed, verified, loaded)


def _prepare_entry(folder: Path) -> Path:
    """Return the cache entry of a bundle's decoder, after a load with ``prepack``."""
    end = run_in_child(lambda: _generate(folder, prepack=True), LIMIT_S)
    if end.outcome != "text":
        raise RuntimeError(f"The weights could not be packed: {end.detail}")
    entries = (_cache(folder) / "edgeseq" / "prepacked").iterdir()
    return max(entries, key=lambda entry: (entry / "graph.onnx").stat().st_size)


def _cache(folder: Path) -> Path:
    return folder.parent / "cache"


def _differs(source: Path, folder: Path) -> bool:
    """Whether a file of the copy has other bytes, or is none."""
    for path in source.iterdir():
        copied = folder / path.name
        if copied.is_symlink() or not copied.is_file():
            return True
        before, after = path.read_bytes(), copied.read_bytes()
        if after != before and not (path.name == MANIFEST_NAME and _same_json(before, after)):
            return True
    return False


def _same_json(before: bytes, after: bytes) -> bool:
    """Whether both manifests say the same: the order of keys and a byte order mark do not count."""
    try:
        return bool(json.loads(after.decode("utf-8-sig")) == json.loads(before))
    except (ValueError, RecursionError):
        return False


def _verify(folder: Path) -> str:
    """Run ``edgeseq info --verify``; raise its error again."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = command_line.main(["info", str(folder), "--verify"])
    message = errors.getvalue().removeprefix("edgeseq: ").removesuffix("\n")
    if status == 1 and message:
        raise EdgeseqError(message)
    return f"status {status} {message}"


def _generate(folder: Path, *, prepack: bool = False, **options: Any) -> str:
    os.environ["XDG_CACHE_HOME"] = str(_cache(folder))
    with load(folder, threads=1, prepack=prepack, **options) as model:
        text: Any = model.generate(PROMPT, max_new_tokens=8, do_sample=False)[0].text
        texts = model.generate([PROMPT, "a"], max_new_tokens=4, do_sample=False, num_beams=2)
        pieces = [*model.stream("spell: W IH1", max_new_tokens=4, do_sample=False)]
    assert isinstance(text, str)
    return f"{text!r:.60} {texts[1].text!r:.20} {pieces!r:.20}"


def run_cases(
    numbers: Sequence[int], seed: int, bundles: Sequence[Path], work: Path, workers: int
) -> Iterator[Case]:
    """Run cases in ``workers`` processes; yield them as they end."""
    run = partial(run_case, seed=seed, bundles=bundles, work=work)
    with get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(run, numbers)


def table(cases: Sequence[Case]) -> str:
    """Return the cases by kind of damage and outcome, in Markdown."""
    columns = [name for name in OUTCOMES if any(case.loaded.outcome == name for case in cases)]
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for case in cases:
        forged = "forged" if case.kind.is_forged else "damaged"
        rows[case.kind.group, forged][case.loaded.outcome] += 1
        rows[case.kind.group, forged]["all"] += 1
        rows[case.kind.group, forged]["verify"] += case.verified.outcome == "refused"
    lines = [
        f"| damage | manifest | cases | refused by `--verify` | {' | '.join(columns)} |",
        f"|{' --- |' * (4 + len(columns))}",
    ]
    for (group, forged), counts in sorted(rows.items()):
        cells = [
            group,
            forged,
            counts["all"],
            counts["verify"],
            *(counts[name] for name in columns),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description="Load damaged bundles.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("mutations"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--demos", action="store_true", help="damage the demo models only")
    parser.add_argument("--groups", nargs="+", help="groups of damage to run; without it, all")
    parser.add_argument("--only", type=int, help="number of the only case to run")
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    folder = work / "bundles"
    _make_in_another_process(folder, arguments.demos)  # torch starts threads
    bundles = make_bundles(folder, arguments.demos)
    numbers = list(range(arguments.count) if arguments.only is None else [arguments.only])
    if arguments.groups:
        every = kinds()
        numbers = [n for n in numbers if every[n % len(every)].group in arguments.groups]
    cases = []
    for case in run_cases(numbers, arguments.seed, bundles, work, arguments.workers):
        cases.append(case)
        for fault in case.faults:
            promise = "BROKEN" if case.is_promised else "forged"
            print(f"{promise} {case.number} {case.kind.group}/{case.kind.name} of {case.bundle}")
            print(f"    {case.damage}\n    {fault}", flush=True)
    broken = [case.number for case in cases if case.faults and case.is_promised]
    print(table(cases))
    print(f"\n{len(cases)} cases, {len(broken)} broken promises: {broken[:50]}")
    slowest = max(cases, key=lambda case: case.loaded.seconds)
    largest = max(cases, key=lambda case: case.loaded.resident_mb)
    figures = {
        "cases": len(cases),
        "broken": len(broken),
        "faults_of_forged_bundles": sum(bool(case.faults) for case in cases) - len(broken),
        "longest_s": round(slowest.loaded.seconds, 1),
        "most_resident_mb": round(largest.loaded.resident_mb),
    }
    print(json.dumps(figures))
    sys.exit(bool(broken))


def _make_in_another_process(folder: Path, only_demos: bool) -> None:
    child = os.fork()
    if child == 0:
        try:
            make_bundles(folder, only_demos)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        sys.exit("The bundles could not be made.")


if __name__ == "__main__":
    main()
