"""How shards are given to workers, with a stand-in for Ray whose actors end as scripted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseq.batch.cluster.driver import MOST_ENDS, answer_shards
from edgeseq.batch.cluster.folder import JobFolder, opened
from edgeseq.batch.cluster.shards import input_files, shards_of
from edgeseq.batch.cluster.worker import Computing, Done
from edgeseq.runtime import EdgeseqError, OptionError, PromptError

SHARDS = 6
HERE = Computing("here", "native", "1", "2")
REASON = "Worker exit detail: It was killed. Some common causes: many"


class RayError(Exception):
    """An actor has ended."""


class RayTaskError(RayError):
    """A method of an actor has raised."""


class StandIn:
    """The part of Ray that the driver uses; results are there as soon as they are awaited.

    ``ends``: by the number of a shard, how many workers end over it; None: before any shard.
    ``computing``: how each worker computes, the last one for all others. ``nodes``: the machines.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(
        self,
        folder: Path,
        ends: Mapping[int | None, int] | None = None,
        computing: tuple[Any, ...] = (HERE,),
        cpus: float = 2.0,
    ) -> None:
        self.started = self.killed = 0
        self.answered: list[int] = []
        self.is_busy = False  # whether other programs use all CPUs
        self._folder, self._ends, self._computing = folder, dict(ends or {}), computing
        self._cpus = cpus

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self, work: Any) -> Any:
        self.started += 1
        computing = self._computing[min(self.started, len(self._computing)) - 1]
        return SimpleNamespace(
            ready=SimpleNamespace(remote=lambda: Result(None, computing)),
            answer=SimpleNamespace(remote=lambda shard: Result(shard, Done(shard.rows, 0))),
        )

    def put(self, value: Any) -> Any:
        return value

    def wait(self, results: list[Result], num_returns: int, timeout: float) -> Any:
        return ([], results) if self.is_busy else (results[:1], results[1:])

    def get(self, result: Result) -> Any:
        number = None if result.shard is None else result.shard.number
        if self._ends.get(number, 0):
            self._ends[number] -= 1
            raise RayError(f"The actor died.\n{REASON}")
        if result.shard is not None:
            self.answered.append(result.shard.number)
            (self._folder / result.shard.name("jsonl")).touch()
        return result.value

    def kill(self, actor: Any) -> None:
        self.killed += 1

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": self._cpus}}]


class Result:
    """What an actor returns; the shard is None while it loads the model."""

    def __init__(self, shard: Any, value: Any) -> None:
        self.shard, self.value = shard, value


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[JobFolder]:
    rows = "".join(f"{json.dumps({'question': str(i)})}\n" for i in range(2 * SHARDS))
    (tmp_path / "a.jsonl").write_text(rows, encoding="utf-8")
    shards = shards_of(input_files(tmp_path / "a.jsonl"), 2)
    with opened(tmp_path / "out", {"task": "a"}, shards, "jsonl") as found:
        yield found


def answer(ray: StandIn, folder: JobFolder, workers: int = 2) -> list[str]:
    """Answer the shards; return what is said."""
    said: list[str] = []
    work: Any = SimpleNamespace(template=SimpleNamespace(name="a"))
    answer_shards(ray, work, folder, workers=workers, threads=1, say=said.append)
    return said


def test_every_shard_is_answered_once(folder: JobFolder) -> None:
    ray = StandIn(folder.path)
    assert answer(ray, folder) == []
    assert sorted(ray.answered) == list(range(SHARDS))
    assert ray.started == ray.killed == 2


def test_there_are_no_more_workers_than_shards(folder: JobFolder) -> None:
    for number in range(1, SHARDS):
        (folder.path / f"part-{number:05}.jsonl").touch()
    ray = StandIn(folder.path)
    answer(ray, folder, workers=4)
    assert ray.answered == [0]
    assert ray.started == 1


def test_a_worker_that_ends_is_replaced(folder: JobFolder) -> None:
    ray = StandIn(folder.path, ends={None: 1, 3: MOST_ENDS - 1, 5: 1})
    said = answer(ray, folder)
    assert said == ["a worker ended (It was killed): another one is started"] * 4
    assert sorted(ray.answered) == list(range(SHARDS))
    assert ray.started == ray.killed == 6


@pytest.mark.parametrize(
    ("number", "where"), [(None, "before it was ready"), (2, "over the same shard")]
)
def test_workers_that_end_again_and_again_end_the_job(
    folder: JobFolder, number: int | None, where: str
) -> None:
    ray = StandIn(folder.path, ends={number: MOST_ENDS})
    with pytest.raises(EdgeseqError, match=rf"ended {where} for the 3rd time \(It was killed\)"):
        answer(ray, folder, workers=1)
    assert ray.killed == ray.started == MOST_ENDS


def test_the_error_of_a_worker_ends_the_job(folder: JobFolder) -> None:
    with pytest.raises(PromptError, match="A sentence"):
        answer(StandIn(folder.path, computing=(PromptError("A sentence."),)), folder)


def test_workers_that_compute_otherwise_are_refused(folder: JobFolder) -> None:
    other = HERE._replace(machine="there", kernels="stock")
    with pytest.raises(EdgeseqError, match=r"there has other kernels \(stock\) than here"):
        answer(StandIn(folder.path, computing=(HERE, other)), folder)


def test_machines_that_are_gone_end_the_job(folder: JobFolder) -> None:
    ray = StandIn(folder.path, cpus=0.0)
    ray.is_busy = True
    with pytest.raises(OptionError, match="room for 0 workers"):
        answer(ray, folder)


def test_shards_that_are_not_in_this_folder_are_an_error(folder: JobFolder, tmp_path: Path) -> None:
    with pytest.raises(EdgeseqError, match=r"lacks part-00000\.jsonl"):
        answer(StandIn(tmp_path), folder)
