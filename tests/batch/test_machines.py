"""A Ray cluster of two machines, and one of them is cut off from the network.

The machines are network namespaces with addresses and host names of their own, on one bridge. They
need root and the program `ip`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.commands import COMMAND
from tests.support.processes import poll

pytestmark = pytest.mark.nightly
pytest.importorskip("ray")

IP = shutil.which("ip")
TASK = ("closed-book-question-answering", "--demo", "t5")
WORDS = ("fox", "algorithm", "a", "extraordinary", "house", "home", "clever", "night", "so", "go")
ROWS = 1200
SHARD_ROWS = 20
CPUS = 2  # of each machine
ENVIRONMENT = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
START = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
START += ["--num-cpus", str(CPUS), "--object-store-memory", str(80 << 20)]


def ip(*arguments: str) -> None:
    assert IP is not None
    subprocess.run([IP, *arguments], check=True, capture_output=True)


class Machines:
    """Two network namespaces on one bridge."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._id = f"{os.getpid() % 100_000}"
        bridge = f"eb{self._id}"
        self._made("link", "add", bridge, "type", "bridge", undo=("link", "del", bridge))
        ip("link", "set", bridge, "up")
        for number in (1, 2):
            name, cable = self._name(number), self._cable(number)
            self._made("netns", "add", name, undo=("netns", "del", name))
            pair = ("type", "veth", "peer", "name", "eth0", "netns", name)
            self._made("link", "add", cable, *pair, undo=("link", "del", cable))
            ip("link", "set", cable, "master", bridge, "up")
            ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                ip("-n", name, "link", "set", device, "up")

    def _made(self, *arguments: str, undo: tuple[str, ...]) -> None:
        ip(*arguments)
        self._stack.callback(ip, *undo)

    def _name(self, number: int) -> str:
        return f"edgeseq-{self._id}-{number}"

    def _cable(self, number: int) -> str:
        return f"ev{number}x{self._id}"

    def address(self, number: int) -> str:
        return f"10.77.{int(self._id) % 256}.{number}"

    def within(self, number: int, *command: object) -> list[str]:
        """Return a command that runs on a machine."""
        named = 'hostname "$0" && exec "$@"'
        shell = ["unshare", "--uts", "sh", "-c", named, f"machine{number}", *map(str, command)]
        assert IP is not None
        return [IP, "netns", "exec", self._name(number), *shell]

    def cut_off(self, number: int) -> None:
        ip("link", "set", self._cable(number), "down")

    def end_processes(self) -> None:
        for number in (1, 2):
            assert IP is not None
            found = subprocess.run(
                [IP, "netns", "pids", self._name(number)],
                check=True,
                capture_output=True,
                text=True,
            )
            for process in found.stdout.split():
                subprocess.run(["kill", "-9", process], check=False, capture_output=True)

    def close(self) -> None:
        self.end_processes()
        self._stack.close()


@pytest.fixture
def machines() -> Iterator[Machines]:
    if IP is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the program `ip`")
    try:
        found = Machines()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield found
    found.close()


@pytest.fixture
def address(machines: Machines) -> Iterator[str]:
    """The address of a Ray cluster on both machines."""
    address = f"{machines.address(1)}:6379"
    head = ["--head", "--port", 6379, "--include-dashboard=false"]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        at = "--node-ip-address"
        commands = [
            machines.within(1, *START, *head, at, machines.address(1), "--temp-dir", folder),
            machines.within(2, *START, "--address", address, at, machines.address(2)),
        ]
        started = []
        for command in commands:
            log = Path(folder) / f"start{len(started)}.log"
            with log.open("w") as output:
                started.append(
                    subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output)
                )
            poll(lambda log=log: "runtime started" in log.read_text())  # type: ignore[misc]
        yield address
        machines.end_processes()
        for process in started:
            process.wait(60)


def test_rows_of_a_machine_that_is_cut_off_are_answered_elsewhere(
    machines: Machines, address: str, tmp_path: Path
) -> None:
    rows = [
        {"id": f"q{i}", "question": f"pronounce: {WORDS[i % 10]} {WORDS[i % 7]}"}
        for i in range(ROWS)
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    single, out = tmp_path / "single.jsonl", tmp_path / "out"
    job = [*COMMAND, "run", *TASK, "--num-beams", "2", "--input", str(source)]
    subprocess.run([*job, "--output", str(single)], check=True, env=ENVIRONMENT, timeout=300)

    ray = ["--ray", address, "--threads", 1, "--shard-rows", SHARD_ROWS, "--output", out]
    driver = subprocess.Popen(
        machines.within(1, *job, *ray, "--id-column", "id", "--output-format", "jsonl"),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    poll(lambda: len(list(out.glob("part-*"))) >= 8, 120)
    machines.cut_off(2)
    _, said = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert said.count("another one is started") == CPUS
    parts = sorted(out.glob("part-*"))
    assert len(parts) == ROWS // SHARD_ROWS
    assert b"".join(part.read_bytes() for part in parts) == single.read_bytes()
