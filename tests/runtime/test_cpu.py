"""The default number of threads: the physical cores that the process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseq.runtime import load
from edgeseq.runtime.ort import cpu
from edgeseq.runtime.ort.cpu import physical_cores, usable_cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight logical processors on four cores, all of which may be used.

    Core ids repeat, as those of ARM's clusters do.
    """
    for number in range(8):
        topology = tmp_path / "cpus" / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(f"{number % 2}\n")
        (topology / "physical_package_id").write_text("0\n")
        (topology / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    (tmp_path / "cpus" / "cpufreq").mkdir()
    monkeypatch.setattr(cpu, "CPUS", tmp_path / "cpus")
    monkeypatch.setattr(cpu, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cpu, "GROUP_FILES", tmp_path / "groups")
    allow(monkeypatch, set(range(8)))
    return tmp_path


def allow(monkeypatch: pytest.MonkeyPatch, cpus: set[int]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus, raising=False)


def test_cores_are_counted_once(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (physical_cores(), usable_cores()) == (4, 4)
    monkeypatch.setattr(cpu, "CPUS", machine / "nothing")
    assert physical_cores() == os.cpu_count()


@pytest.mark.parametrize(("cpus", "expected"), [({0}, 1), ({0, 4}, 1), ({0, 1, 4}, 2), ({6, 7}, 2)])
@pytest.mark.usefixtures("machine")
def test_only_cores_of_the_affinity_mask_are_counted(
    cpus: set[int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(monkeypatch, cpus)
    assert usable_cores() == expected


def test_without_a_topology_every_cpu_counts(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "CPUS", machine / "nothing")
    allow(monkeypatch, {1, 2, 5})
    assert usable_cores() == 3


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max", 4), ("200000", 2), ("250000", 2), ("50000", 1), ("900000", 4), ("100000", 1)],
)
def test_a_quota_limits_the_cores(quota: str, expected: int, machine: Path) -> None:
    (machine / "cgroup").write_text("0::/\n")
    (machine / "groups").mkdir()
    (machine / "groups" / "cpu.max").write_text(f"{quota} 100000\n")
    assert usable_cores() == expected


def test_the_smallest_quota_of_all_parent_groups_counts(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/user.slice/app\n")
    app = machine / "groups" / "user.slice" / "app"
    app.mkdir(parents=True)
    (app / "cpu.max").write_text("max 100000\n")
    (app.parent / "cpu.max").write_text("20000 10000\n")
    assert usable_cores() == 2
    (app / "cpu.max").write_text("10000 10000\n")
    assert usable_cores() == 1


@pytest.mark.parametrize("name", ["/docker/3f9", "/../../docker/3f9"])
def test_the_name_of_a_group_may_be_that_of_the_host(name: str, machine: Path) -> None:
    (machine / "cgroup").write_text(f"0::{name}\n")
    (machine / "groups").mkdir()
    (machine / "groups" / "cpu.max").write_text("150000 50000\n")
    assert usable_cores() == 3


@pytest.mark.parametrize(("quota", "expected"), [("-1", 4), ("300000", 3)])
@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_the_first_version_of_control_groups(
    quota: str, expected: int, folder: str, machine: Path
) -> None:
    (machine / "cgroup").write_text("4:memory:/\n3:cpuset:/\n2:cpu,cpuacct:/app\n0::/\n")
    app = machine / "groups" / folder / "app"
    app.mkdir(parents=True)
    (app / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (app / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == expected


def test_files_that_cannot_be_read_set_no_limit(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/\n\nodd\n")
    (machine / "groups").mkdir()
    (machine / "groups" / "cpu.max").write_text("odd\n")
    assert usable_cores() == 4
    (machine / "groups" / "cpu.max").unlink()
    (machine / "groups" / "cpu.max").mkdir()
    assert usable_cores() == 4


@pytest.mark.usefixtures("machine")
def test_a_model_has_as_many_threads(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    from edgeseq.runtime.ort.graph_session import session_options

    allow(monkeypatch, {0, 1, 2})
    assert session_options(None).intra_op_num_threads == 3
    assert session_options(2).intra_op_num_threads == 2
    assert load(bundle).generate("A fox", max_new_tokens=1)
