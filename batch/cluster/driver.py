"""The process that gives the workers of a Ray cluster their shards; needs the extra ``ray``.

Workers are plain actors, each with a model, and a shard is one call. Ray Data's ``map_batches``
would decide by itself which rows are in a file, so that files of an interrupted job could not be
told from complete ones.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.errors import EdgeseqError, MissingPackageError, OptionError, reason
from ...runtime.progress import Progress
from .folder import JobFolder
from .shards import Shard
from .worker import Computing, Done, Work, Worker

MOST_ENDS = 3  # times that workers may end over one shard, or before they have loaded the model
ASK_S = 5.0  # seconds without news after which the cluster is asked for its machines
REACHED_S = 10.0  # seconds that the cluster has to answer
LONGEST_REASON = 200  # characters
QUIET = {  # environment variables of Ray
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns about a later version
}


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect this process to a Ray cluster in the block, unless it is; yield the module ``ray``.

    ``address``: such as ``10.0.0.1:6379``; None for the one that ``RAY_ADDRESS`` names or that runs
    on this machine, or else a new one of this machine alone. Raises ``MissingPackageError`` without
    Ray, ``EdgeseqError`` if there is no such cluster.
    """
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(
            "--ray needs Ray: install the extra 'ray' on all machines of the cluster "
            '(python -m pip install "edgeseq[cpu,ray]").'
        ) from error
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_reachable(address)
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = f"at {address}" if address else "on this machine"
        raise EdgeseqError(
            f"No Ray cluster answers {where} ({reason(error)}): start it with `ray start --head`, "
            "or give its address."
        ) from error
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stdout(nothing):
            yield ray  # Ray prints there what workers and machines that ended had to say
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise ``OSError`` unless something listens at HOST:PORT; Ray would try for many minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_S).close()


def room_for(cpus: Sequence[float], threads: int, workers: int | None) -> int:
    """Return the number of workers: ``workers``, or as many as fit on machines with ``cpus``.

    A worker needs ``threads`` CPUs of one machine. Raises ``OptionError`` for numbers below 1, and
    if they do not fit: Ray would wait for more machines without an end.
    """
    for name, number in (("threads", threads), ("workers", workers)):
        if number is not None and number < 1:
            raise OptionError(f"--{name} is {number}; it must be at least 1.")
    room = sum(int(count // threads) for count in cpus)
    if room and (workers is None or workers <= room):
        return workers or room
    machines = ", ".join(f"{count:g}" for count in cpus) or "no"
    raise OptionError(
        f"The cluster has room for {room} worker{'s' * (room != 1)} with --threads {threads} "
        f"(its machines have {machines} CPUs) and not for {workers or 1}: use fewer --threads or "
        "--workers, or add machines."
    )


def cpus_of(ray: Any) -> list[float]:
    """Return the CPUs of each machine of the cluster."""
    return [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]


def answer_shards(
    ray: Any,
    work: Work,
    folder: JobFolder,
    *,
    workers: int,
    threads: int,
    say: Callable[[str], None],
) -> None:
    """Answer all shards of ``folder`` that are missing, with ``workers`` workers.

    ``threads``: the threads of each. ``say``: is told when a worker is replaced. Raises the errors
    of a worker, and ``EdgeseqError`` if workers end again and again.
    """
    missing = folder.missing()
    pool = _Pool(ray, work, folder, missing, threads, say)
    try:
        for _ in range(min(workers, len(missing))):
            pool.start()
        rows = sum(shard.rows for shard in missing)
        with Progress(work.template.name, rows, unit="rows") as progress:
            for done in pool.answered():
                progress(done.rows)
    except KeyboardInterrupt as interrupt:
        finished = len(folder.shards) - len(folder.missing())
        raise KeyboardInterrupt(
            f"{folder.path} has {finished} of {len(folder.shards)} shards: run the same command "
            "again to continue."
        ) from interrupt
    finally:
        pool.end()
    if lost := folder.missing():
        raise EdgeseqError(
            f"{folder.path} lacks {lost[0].name(folder.format)}, which a worker has written: "
            "--output must be in a folder that all machines of the cluster share."
        )


@dataclass
class _Started:
    """A worker, and the shard it answers; None while it loads the model."""

    actor: Any
    shard: Shard | None = None


class _Pool:
    """The workers of a job. A worker that ends is replaced, and its shard is answered again."""

    def __init__(
        self,
        ray: Any,
        work: Work,
        folder: JobFolder,
        shards: Sequence[Shard],
        threads: int,
        say: Callable[[str], None],
    ) -> None:
        self._ray, self._folder, self._threads, self._say = ray, folder, threads, say
        self._actors = ray.remote(Worker).options(num_cpus=threads, max_restarts=0)
        self._work = ray.put(work)
        self._queue = deque(shards)
        self._left = len(shards)
        self._busy: dict[Any, _Started] = {}  # by the result that is awaited
        self._ends: dict[int | None, int] = {}  # by the shard's number; None: before any shard
        self._first: Computing | None = None

    def start(self) -> None:
        """Start a worker."""
        actor = self._actors.remote(self._work)
        self._busy[actor.ready.remote()] = _Started(actor)

    def answered(self) -> Iterator[Done]:
        """Yield the numbers of each shard once it is finished."""
        while self._left:
            ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=ASK_S)
            if not ready:
                self._check_room()
            for reference in ready:
                worker = self._busy.pop(reference)
                try:
                    result = self._ray.get(reference)
                except self._ray.exceptions.RayTaskError as error:
                    raise EdgeseqError(f"A worker failed ({_told(error)}).") from error
                except self._ray.exceptions.RayError as error:
                    self._replace(worker, error)
                    continue
                if isinstance(result, EdgeseqError):
                    raise result
                if isinstance(result, Computing):
                    self._compare(result)
                else:
                    self._left -= 1
                    yield result
                if self._queue:
                    worker.shard = self._queue.popleft()
                    self._busy[worker.actor.answer.remote(worker.shard)] = worker
                else:
                    self._ray.kill(worker.actor)

    def _compare(self, computing: Computing) -> None:
        """Raise ``EdgeseqError`` for a worker that computes other bits than the first one."""
        self._ends.pop(None, None)
        if self._first is None:
            self._first = computing
            self._folder.begin(computing.told)
        first = self._first
        for name, value in computing.told.items():
            if value != first.told[name]:
                raise EdgeseqError(
                    f"{computing.machine} has other {name} ({value}) than {first.machine} "
                    f"({first.told[name]}): install the same versions on all machines, or choose "
                    "--kernels stock."
                )

    def _replace(self, worker: _Started, error: Exception) -> None:
        """Start another worker for one that has ended; its shard is answered again."""
        self.kill(worker)
        number = worker.shard.number if worker.shard is not None else None
        self._ends[number] = self._ends.get(number, 0) + 1
        if self._ends[number] == MOST_ENDS:
            what = "before it was ready" if number is None else "over the same shard"
            raise EdgeseqError(
                f"A worker ended {what} for the {MOST_ENDS}rd time ({_told(error)}): if memory is "
                "short, use fewer --workers; run the same command again to continue."
            )
        self._say(f"a worker ended ({_told(error)}): another one is started")
        if worker.shard is not None:
            self._queue.appendleft(worker.shard)
        self.start()

    def _check_room(self) -> None:
        """Raise ``OptionError`` if no worker runs, and the machines left have no room for one."""
        if all(worker.shard is None for worker in self._busy.values()):
            room_for(cpus_of(self._ray), self._threads, None)

    def kill(self, worker: _Started) -> None:
        """End a worker, if it still runs."""
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(worker.actor)

    def end(self) -> None:
        """End all workers."""
        for worker in self._busy.values():
            self.kill(worker)
        self._busy = {}


def _told(error: Exception) -> str:
    """Return the reason in an error of Ray, as a part of a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = (lines[-1] if lines else type(error).__name__).rpartition("exit detail: ")[2]
    return last.partition(". ")[0].rstrip(".")[:LONGEST_REASON]
