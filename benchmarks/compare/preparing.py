"""What is there before anything is measured: programs, models and who takes part in what."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.compare.commands import SetupError
from benchmarks.compare.measuring import Entry
from benchmarks.compare.models import Workplace
from benchmarks.compare.peers import Peer
from benchmarks.compare.workloads import Bits, Workload

Turn = tuple[Workload, Bits, list[Entry]]


@dataclass(frozen=True)
class Failure:
    """A program, or one form of a model, that could not be set up."""

    entry: str  # a program, or a program and its form
    model: str  # "": all models
    reason: str  # a sentence

    @property
    def title(self) -> str:
        """What is left out."""
        return f"{self.entry} ({self.model})" if self.model else self.entry


@dataclass
class Setup:
    """The steps of setting up: each is timed, and one that fails does not end the others."""

    place: Workplace
    failures: list[Failure] = field(default_factory=list)

    @contextmanager
    def step(self, entry: str, model: str = "") -> Iterator[None]:
        """Note a ``SetupError`` in the block as a failure of ``entry``, and print its sentence."""
        start = time.monotonic()
        try:
            yield
        except SetupError as error:
            reason = f"{str(error)[:1].upper()}{str(error)[1:]}".rstrip(".") + "."
            self.failures.append(Failure(entry, model, reason))
            log = self.place.folder / "failures.log"
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{reason}\n{error.output}\n\n")
            print(f"  {self.failures[-1].title}: {reason} More is in {log}.", flush=True)
        passed = time.monotonic() - start
        if passed > 1:
            print(f"  {passed:.0f} s", flush=True)


def prepare(
    peers: Sequence[Peer], workloads: Sequence[Workload], place: Workplace, bits: Sequence[Bits]
) -> tuple[list[Turn], list[Failure]]:
    """Install the programs and convert the models; who takes part in what, and what failed.

    What is there is kept, so that an interrupted set-up is given again to continue.
    """
    setup = Setup(place)
    place.folder.mkdir(parents=True, exist_ok=True)
    for peer in peers:
        with setup.step(peer.name):
            place.install(peer)
    failed = {failure.entry for failure in setup.failures}
    installed = [peer for peer in peers if peer.name not in failed]
    turns = [(w, b, entries(installed, w, b)) for w in workloads for b in w.bits if b in bits]
    models = {(entry.name, w.model): entry for w, _, them in turns for entry in them}
    for (name, model), entry in models.items():
        with setup.step(name, model):
            place.model(entry.peer, model, entry.form)
    missing = {(failure.entry, failure.model) for failure in setup.failures}
    kept = [
        (w, b, [entry for entry in them if (entry.name, w.model) not in missing])
        for w, b, them in turns
    ]
    return kept, setup.failures


def entries(peers: Sequence[Peer], workload: Workload, bits: Bits) -> list[Entry]:
    """Who takes part in ``workload`` at ``bits``."""
    return [
        Entry(peer, form)
        for peer in peers
        if peer.obstacle(workload, bits) is None
        for form in peer.formats_of(workload, bits)
    ]
