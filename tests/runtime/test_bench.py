"""The command ``edgeseq bench``: measurements of two small bundles, and errors."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import Model
from edgeseq.runtime.bench import rounds
from edgeseq.runtime.bundle.demo_bundles import DEMO_BUNDLES
from edgeseq.runtime.bundle.manifest import MANIFEST_NAME
from edgeseq.runtime.bundle.reading import open_bundle
from tests.support.commands import COMMAND, Captured, failure, succeed, wrong_usage
from tests.support.files import forge
from tests.support.processes import poll

SMALL = ["--threads", "1", "--repeats", "1", "--new-tokens", "16", "--retries", "0"]
LENGTHS = ["--prompt-lengths", "8,40", "--contexts", "8,60"]
STATISTICS = {"median", "min", "max", "quartile_1", "quartile_3", "plus_minus"}
BENCH = ["bench", *SMALL]


def bench(capsys: Captured, *arguments: object) -> dict[str, Any]:
    """Return what ``edgeseq bench --json`` prints."""
    result: dict[str, Any] = json.loads(succeed(capsys, *BENCH, *arguments, "--json"))
    return result


def statistics_in(value: Any) -> Iterator[dict[str, float]]:
    if isinstance(value, dict) and "median" in value:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from statistics_in(item)


def test_the_report_of_two_bundles(bundle: Path, t5_model: Model, capsys: Captured) -> None:
    t5 = t5_model.bundle.folder
    result = bench(capsys, str(bundle), str(t5), "--rounds", "2", *LENGTHS)
    assert set(result) == {
        "machine",
        "rounds",
        "read_gb_per_s",
        "other_cpu_share",
        "other_programs",
        "bundles",
        "ratios_to_first",
        "raw",
    }
    assert result["rounds"] == 2
    assert result["machine"]["threads"] == 1
    assert [item["threads"] for item in result["bundles"]] == [1, 1]
    assert [item["name"] for item in result["bundles"]] == ["gpt2", "t5"]
    assert [item["architecture"] for item in result["bundles"]] == ["gpt2", "t5"]
    for item, ratios in zip(result["bundles"], [None, *result["ratios_to_first"]], strict=True):
        check_bundle(item)
        if ratios is not None:
            assert set(ratios["tokens_per_s"]) == {"8", "60"}
    assert_positive(statistics_in(result["ratios_to_first"]))
    raw = result["raw"]
    assert [len(rounds) for rounds in raw["bundles"]] == [2, 2]
    speeds = [item["tokens_per_s"]["8"] for item in raw["bundles"][1]]
    assert result["bundles"][1]["tokens_per_s"]["8"]["max"] == max(speeds)


def check_bundle(item: dict[str, Any]) -> None:
    for key in ("load_s", "import_ms", "peak_memory_mb", "resident_after_load_mb"):
        if key.endswith("_mb") and sys.platform != "linux":
            continue
        assert set(item[key]) == STATISTICS
    assert item["new_tokens"] == {"8": 16, "60": 16}
    for key in ("tokens_per_s", "gb_per_s", "share_of_read_bandwidth", "loop_overhead_ms"):
        assert set(item[key]) == {"8", "60"}
    assert set(item["first_token_ms"]) == {"8", "40"}
    assert set(item["speed_to_first_context"]) == {"60"}
    assert item["left_out"] == []
    assert (item["recipe"], item["kv_cache"]) == ("fp32", "float32")
    figures = list(statistics_in({**item, "other_cpu_share": None}))
    assert figures != []
    assert_positive(figures)


def assert_positive(figures: Iterable[dict[str, float]]) -> None:
    for figure in figures:
        values = {name: value for name, value in figure.items() if name != "plus_minus"}
        assert all(0 < value < math.inf for value in values.values())


def test_bandwidth_follows_from_the_manifests_weights_per_token(
    bundle: Path, capsys: Captured
) -> None:
    result = bench(capsys, str(bundle), "--rounds", "1", "--contexts", "8")
    [item] = result["bundles"]
    weights = open_bundle(bundle).manifest.weights_per_token_bytes
    speed = item["tokens_per_s"]["8"]["median"]
    assert item["gb_per_s"]["8"]["median"] == pytest.approx(weights * speed / 1e9, rel=1e-4)
    share = item["gb_per_s"]["8"]["median"] / item["read_gb_per_s"]["max"]
    assert item["share_of_read_bandwidth"]["8"]["median"] == pytest.approx(share, rel=1e-4)
    assert result["ratios_to_first"] == []


def test_lengths_beyond_the_positions_are_left_out_and_reported(
    bundle: Path, capsys: Captured
) -> None:
    lengths = ["--prompt-lengths", "96,97", "--contexts", "81,82", "--new-tokens", "64"]
    [item] = bench(capsys, str(bundle), "--rounds", "1", *lengths)["bundles"]
    assert set(item["first_token_ms"]) == {"96"}
    assert item["new_tokens"] == {"81": 16}
    assert item["left_out"] == [
        "gpt2: the prompt length 97 is left out, because the model has only 96 positions: use "
        "--prompt up to 96.",
        "gpt2: the context 82 is left out, because the model has only 96 positions and a "
        "measurement needs 16 new tokens: use --contexts up to 81.",
    ]


def test_no_length_fits_the_positions(bundle: Path, capsys: Captured) -> None:
    lengths = ["--prompt-lengths", "500", "--contexts", "500"]
    printed = succeed(capsys, *BENCH, bundle, "--rounds", "1", *lengths)
    assert "peak memory" in printed
    assert "tokens/s" not in printed


def test_the_table_shows_speeds_and_ratios(bundle: Path, capsys: Captured) -> None:
    printed = succeed(capsys, *BENCH, bundle, bundle, "--rounds", "1", *LENGTHS)
    assert "decode speed at 60 tokens" in printed
    assert "gpt2 #1" in printed
    assert "gpt2 #2" in printed
    assert "×" in printed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give the folder of a bundle, or --demo NAME"),
        (["b", "--rounds", "0"], "'0' is not an integer from 1 to 1048576"),
        (["b", "--repeats", "two"], "'two' is not an integer from 1 to 1048576"),
        (["b", "--threads", "1025"], "'1025' is not an integer from 1 to 1024"),
        (["b", "--new-tokens", "15"], "'15' is not an integer from 16 to 1048576"),
        (["b", "--contexts", "32,"], "'' is not an integer from 1 to 1048576"),
        (["b", "--prompt-lengths", "-1"], "'-1' is not an integer from 1 to 1048576"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str, capsys: Captured) -> None:
    assert complaint in wrong_usage(capsys, "bench", *arguments)


def test_a_missing_bundle_is_an_error(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    missing = tmp_path / "nothing"
    message = failure(capsys, *BENCH, bundle, missing)
    assert message.startswith(f"There is no folder {missing}")


def test_an_unavailable_cache_is_an_error(bundle: Path, capsys: Captured) -> None:
    for dtype, message in (
        ("int4", "gpt2: kv_cache is 'int4'"),
        ("int8", "gpt2: kv_cache is 'int8', but the bundle has no"),
    ):
        assert failure(capsys, *BENCH, bundle, "--kv-cache", dtype).startswith(message)


def test_a_cache_given_twice_is_measured_once(bundle: Path, capsys: Captured) -> None:
    arguments = ["--rounds", "1", *LENGTHS, "--kv-cache", "float32", "--kv-cache", "float32"]
    [item] = bench(capsys, str(bundle), *arguments)["bundles"]
    assert (item["name"], item["kv_cache"]) == ("gpt2 (float32 KV cache)", "float32")


def test_a_sweep_measures_every_combination(bundle: Path, capsys: Captured) -> None:
    sweep = ["--threads", "1", "--batch", "1,2", "--beams", "1,3", "--prompt", "8"]
    sweep += ["--contexts", "8", "--kv-cache", "float32,float32", "--rounds", "1"]
    result = bench(capsys, str(bundle), *sweep)
    assert [(item["rows"], item["beams"]) for item in result["bundles"]] == [
        *((1, 1), (1, 3), (2, 1), (2, 3))
    ]
    for item in result["bundles"]:
        assert_positive([item["tokens_per_s"]["8"], item["prefill_tokens_per_s"]["8"]])
    printed = succeed(capsys, *BENCH, bundle, "--rounds", "1", *LENGTHS, "-o", "md")
    assert printed.startswith("| bundle | recipe |")


def test_a_device_given_twice_is_measured_once(bundle: Path, capsys: Captured) -> None:
    arguments = ["--rounds", "1", *LENGTHS, "--device", "cpu", "--device", "cpu"]
    [item] = bench(capsys, str(bundle), *arguments)["bundles"]
    assert (item["name"], item["device"]) == ("gpt2", "cpu")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--device", "gpu"], "There is no device 'gpu'"),
        (["--device", "auto"], "The device 'auto' cannot be measured"),
        (
            ["--device", "cuda"],
            "gpt2: The device 'cuda' is not available, because the installed ONNX",
        ),
        (["--provider-option", "a=1"], "provider_options has no effect on the CPU"),
        (
            ["--device", "XnnpackExecutionProvider", "--provider-option", "a"],
            "--provider-option 'a': give NAME=",
        ),
        (
            ["--device", "cpu", "--device", "CoreMLExecutionProvider"],
            "gpt2: The device 'CoreMLExecutionProvider' is not",
        ),
    ],
)
def test_unavailable_devices_are_errors(
    arguments: list[str], complaint: str, bundle: Path, capsys: Captured
) -> None:
    assert failure(capsys, *BENCH, bundle, "--rounds", "1", *arguments).startswith(complaint)


def test_a_bundle_that_does_not_load_is_an_error(
    bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    graph = broken / "decoder.onnx"
    graph.write_bytes(b"\0" * graph.stat().st_size)
    forge(broken)
    message = failure(capsys, *BENCH, broken)
    assert message.startswith("broken: ONNX Runtime")
    assert "cannot load" in message


def test_a_worker_that_dies_is_an_error(
    bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "WORKER", "edgeseq.runtime.nothing")
    message = failure(capsys, *BENCH, bundle)
    assert message.startswith("The process that measured gpt2 ended with status 1 (")
    assert message.endswith(f"check that `edgeseq generate --bundle {bundle}` works.")


def test_what_measures_is_not_in_the_measured_process() -> None:
    """A worker has psutil nowhere: it would count as edgeseq's import time and memory."""
    code = "import sys; from edgeseq.runtime.bench.worker import *"
    code += "; measure(Workload(folder=sys.argv[1], load_options={}, prompt_lengths=[8],"
    code += " new_tokens=[(8, 4)], repeats=1), lambda: None); assert 'psutil' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, DEMO_BUNDLES / "gpt2"], check=True)
    assert done.returncode == 0


@pytest.mark.parametrize("line", ["loaded", ""])
def test_a_worker_that_dies_after_its_load(
    line: str, bundle: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "dying_worker.py"
    module.write_text(f"import os; print({line!r}, flush=True); os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(rounds, "WORKER", "dying_worker")
    message = failure(capsys, *BENCH, bundle)
    assert message.startswith(
        "The process that measured gpt2 ended with status 3 (without an error"
    )


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_interruption_ends_the_measuring_process_too(bundle: Path) -> None:
    command = [*COMMAND, "bench", str(bundle), *SMALL]
    process = subprocess.Popen(
        [*command, "--repeats", "1000000"], stderr=subprocess.PIPE, start_new_session=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers: list[Path] = []

    def has_loaded() -> bool:
        assert process.poll() is None
        for child in children.read_text(encoding="utf-8").split():
            started = "bench.worker" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8")
            if started and "onnxruntime" in Path(f"/proc/{child}/maps").read_text(encoding="utf-8"):
                workers.append(Path(f"/proc/{child}"))
        return workers != []

    poll(has_loaded)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == b"\n"
    assert not any(worker.exists() for worker in workers)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
def test_a_worker_ends_when_its_parent_is_gone() -> None:
    worker = "import sys, threading; from edgeseq.runtime.bench.worker import end_with"
    worker += "; end_with(int(sys.argv[1])); threading.Event().wait()"
    parent = "import os, subprocess, sys; command = [sys.executable, '-c', sys.argv[1]]"
    parent += "; print(subprocess.Popen([*command, str(os.getpid())]).pid)"
    command = [sys.executable, "-c", parent, worker]
    # The worker holds the pipe open: reading to its end waits for both.
    assert subprocess.run(command, stdout=subprocess.PIPE, timeout=120, check=True).stdout


def test_a_folder_without_a_manifest_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert MANIFEST_NAME in failure(capsys, *BENCH, tmp_path)
