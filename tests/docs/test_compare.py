"""The benchmark against other programs: its measurements and its report."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import measuring, models, preparing, running
from benchmarks.compare.__main__ import main
from benchmarks.compare.commands import SetupError, run_command
from benchmarks.compare.compiling import cmake_options, compiled_folder
from benchmarks.compare.machine import describe_machine, family_and_model
from benchmarks.compare.measuring import Entry, command, last_line, measure_once, variables
from benchmarks.compare.models import Workplace, complete
from benchmarks.compare.overview import overview
from benchmarks.compare.peers import FOLDER, OURS, Compiled, Environment, Peer, read_peers
from benchmarks.compare.preparing import Failure, entries, prepare
from benchmarks.compare.summary import (
    FIRST,
    LOAD,
    PEAK,
    SPEED,
    TOTAL,
    by_machine,
    comparison,
    figures,
    read_lines,
    summarize,
)
from benchmarks.compare.table import DESCRIPTIONS, GROWTHS, METRICS, markdown
from benchmarks.compare.workloads import VOCABULARY, WORKLOADS, Shape, Workload
from edgeseq.runtime.ort.cpu import known_flags

HARNESS = Path("benchmarks/compare/harness.py").resolve()
PEERS = read_peers()

# It puts the clocks on instead of working.
ADAPTER = """
import time
worked = 0.0
def work(seconds):
    global worked
    worked += seconds
def with_work(clock):
    return lambda: clock() + worked
time.perf_counter, time.time = with_work(time.perf_counter), with_work(time.time)
{top}
class Peer:
    PACKAGES = ("no-such-package",)
    def __init__(self, job):
        work(50)
        self.job = job
    def generate(self, prompts, new_tokens, beams):
        work(20 + new_tokens)
        return [[0] * {length} for _ in prompts]
"""


def measure(tmp_path: Path, *, length: str = "new_tokens", top: str = "", **changes: Any) -> Any:
    adapter = tmp_path / "adapter.py"
    adapter.write_text(ADAPTER.format(length=length, top=top))
    workload = {"name": "a/b", "model": "a", "repeats": 2, "idle": False}
    workload["shapes"] = [{"rows": 2, "prompt": 3, "new": 21, "beams": 1}]
    job = {"workload": {**workload, **changes}, "vocabulary": 1000, "threads": 1}
    job["started"] = time.time()
    done = subprocess.run(
        [sys.executable, "-P", str(HARNESS), str(adapter), json.dumps(job)],
        check=False,
        capture_output=True,
        text=True,
    )
    return last_line(done), done.returncode


def test_a_measurement_times_what_it_says(tmp_path: Path) -> None:
    found, status = measure(tmp_path)
    assert status == 0
    assert found["load_s"] >= 50
    assert found["cold_start_s"] >= found["load_s"] + 21
    [case] = found["cases"]
    assert (case["rows"], case["prompt"], case["new"]) == (2, 3, 21)
    assert [len(case["first_token_s"]), len(case["total_s"])] == [2, 2]
    assert min(case["first_token_s"]) >= 21
    assert min(case["total_s"]) >= 41
    assert found["versions"]["no-such-package"] == "missing"


def test_without_repetitions_only_the_start_is_measured(tmp_path: Path) -> None:
    found, _ = measure(tmp_path, repeats=0)
    assert found["cases"][0]["total_s"] == []
    assert found["cold_start_s"] > 70


@pytest.mark.parametrize("length", ["(new_tokens - 1)", "(new_tokens + 1)"])
def test_another_number_of_tokens_is_an_error(tmp_path: Path, length: str) -> None:
    found, status = measure(tmp_path, length=length)
    assert status == 1
    assert found["error"].startswith("ValueError: asked for 1 tokens after each of 2, got")


def test_what_a_program_raises_is_its_result(tmp_path: Path) -> None:
    found, status = measure(tmp_path, top="raise RuntimeError('no\\n luck')")
    assert (status, found) == (1, {"error": "RuntimeError: no luck"})


def test_a_process_that_dies_is_an_error() -> None:
    code = "import sys; print('1'); sys.stderr.write('out of luck'); sys.exit(3)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert last_line(done) == {"error": "ended with status 3: out of luck"}


def all_of(peer: Peer) -> list[Environment]:
    return [peer.environment, *peer.tools.values()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_process_that_a_signal_ends_is_an_error() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert last_line(done) == {"error": "ended by SIGILL: "}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_described_completely(name: str) -> None:
    peer = PEERS[name]
    tools = {tool for other in PEERS.values() for tool in other.tools}
    assert peer.title
    assert (peer.folder / ("adapter.mjs" if peer.runner == "node" else "adapter.py")).is_file()
    assert bool(peer.environment.packages) != bool(peer.environment.npm)
    pinned = [*peer.environment.packages, *peer.environment.npm]
    assert all("==" in p or "{compiled}" in p or "@" in p[1:] for p in pinned)
    assert all(("{compiled}" in " ".join(e.packages)) == bool(e.compiled) for e in all_of(peer))
    for form in peer.formats.values():
        if form.model_of:
            assert form.model_of in peer.formats
            continue
        assert form.tools in tools
        used = " ".join(part for line in form.commands for part in line)
        assert "{checkpoint}" in used
        assert "{model}" in used
    names = [f"{workload.name}/{bits}" for workload in WORKLOADS for bits in workload.bits]
    assert peer.obstacle(WORKLOADS[0], "int8") is None or name != OURS
    for reason in peer.cannot.values():
        assert reason.endswith(".")
    assert names


def test_edgeseq_comes_first_and_does_everything() -> None:
    ours = next(iter(PEERS.values()))
    assert ours.name == OURS
    assert not [w.name for w in WORKLOADS for bits in w.bits if ours.obstacle(w, bits)]


def test_a_format_takes_part_in_the_workloads_it_names() -> None:
    ours = PEERS[OURS]
    by_name = {w.name: {form.name for form in ours.formats_of(w, "int8")} for w in WORKLOADS}
    assert by_name["t5-base/beam-4"] == by_name["gpt2/idle"] == {"int8"}
    assert by_name["gpt2/start"] == by_name["gpt2/start-cold"] == {"int8", "int8-prepacked"}
    assert "int8-weights" in by_name["gpt2/decode"]
    known = {w.name for w in WORKLOADS}
    for peer in PEERS.values():
        for form in peer.formats.values():
            for pattern in form.workloads:
                assert fnmatch.filter(known, pattern), (peer.name, form.name, pattern)


def test_an_obstacle_has_a_reason() -> None:
    peer = PEERS["ctranslate2"]
    workload = WORKLOADS[0]
    assert peer.obstacle(workload, "int8") is None
    assert "4-bit" in str(peer.obstacle(workload, "int4"))
    beams = {w.name: w for w in WORKLOADS}["gpt2/beams"]
    assert "no beam search" in str(PEERS["llama_cpp"].obstacle(beams, "int8"))


def test_a_process_is_told_the_threads_and_stays_offline(tmp_path: Path) -> None:
    found = variables(tmp_path, tmp_path / "work", 3)
    assert (found["OMP_NUM_THREADS"], found["HF_HUB_OFFLINE"]) == ("3", "1")
    assert found["XDG_CACHE_HOME"] == str(tmp_path / "work" / "cache")
    peer = PEERS[OURS]
    line = command(peer, tmp_path, "{}")
    assert line[1:3] == ["-P", str(HARNESS)]
    assert Entry(peer, peer.formats["int8"]).name == "edgeseq/int8"


def test_workloads_have_names_of_their_own_and_known_models() -> None:
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)
    assert {workload.model for workload in WORKLOADS} == set(VOCABULARY)
    assert {w.name for w in WORKLOADS} == set(METRICS) | set(GROWTHS)
    assert set(DESCRIPTIONS) == set(METRICS)


def line(entry: str, number: int, first: float, total: float, **more: Any) -> dict[str, Any]:
    memory = {"peak_mb": 200.0, "resident_mb": 190.0, "anonymous_mb": 150.0}
    case = {"rows": 2, "prompt": 32, "new": 11, "first_token_s": [first], "total_s": [total]}
    return {
        "kind": "measurement",
        "entry": entry,
        "workload": "gpt2/decode",
        "bits": "int8",
        "round": number,
        "load_s": 0.5,
        "cold_start_s": 0.7,
        "cases": [case],
        "after_load": memory,
        "after_runs": memory,
        "versions": {"python": "3"},
        **more,
    }


RUN = {"kind": "run", "machine": {"processor": "x"}, "system": "s", "threads": 2, "at": "now"}


def test_figures_of_a_measurement() -> None:
    found = figures(line("edgeseq/int8", 0, 0.1, 0.6))
    assert found[FIRST] == pytest.approx(100)
    assert found[SPEED] == pytest.approx(2 * 10 / 0.5)
    assert found[TOTAL] == pytest.approx(2 * 11 / 0.6)
    assert (found[LOAD], found[PEAK]) == (0.5, 200.0)


def test_the_strongest_peer_counts_by_pairs_of_the_same_round() -> None:
    lines = [RUN]
    for number, factor in enumerate((1.0, 2.0, 1.0)):  # a slow round hits all alike
        lines.append(line("edgeseq/int8", number, 0.1 * factor, 0.6 * factor))
        lines.append(line("weak/int8", number, 0.2 * factor, 1.2 * factor))
        lines.append(line("strong/int8", number, 0.1 * factor, 0.7 * factor))
    found = summarize(lines).values["gpt2/decode", "int8"]
    against = comparison(found, "edgeseq/int8", SPEED)
    assert against is not None
    assert (against.peer, against.rounds) == ("strong/int8", 3)
    assert against.ratio == pytest.approx(0.6 / 0.5)
    faster = comparison(found, "edgeseq/int8", FIRST)  # less is better
    assert faster is not None
    assert faster.ratio == pytest.approx(1.0)


def test_entries_of_different_runs_are_compared_by_their_medians() -> None:
    lines = [RUN, line("edgeseq/int8", 0, 0.1, 0.6), line("strong/int8", 1, 0.1, 0.7)]
    summary = summarize(lines)
    against = comparison(summary.values["gpt2/decode", "int8"], "edgeseq/int8", SPEED)
    assert against is not None
    assert against.rounds == 0
    assert against.ratio == pytest.approx(0.6 / 0.5)
    assert "1.20 × strong int8, the best of the others (quotient of" in markdown(summary)


def test_disturbed_measurements_and_errors_do_not_count() -> None:
    lines = [
        RUN,
        line("edgeseq/int8", 0, 0.1, 0.6),
        line("edgeseq/int8", 1, 9.0, 99.0, disturbed=True),
        line("edgeseq/int8", 2, 9.0, 99.0, error="it broke"),
    ]
    summary = summarize(lines)
    assert summary.disturbed == 1
    assert summary.errors == ["edgeseq/int8, gpt2/decode int8: it broke"]
    assert list(summary.values["gpt2/decode", "int8"]["edgeseq/int8"][SPEED]) == [0]


def test_rounds_of_a_second_run_count_on(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    one = [RUN, line("edgeseq/int8", 0, 0.1, 0.6), line("edgeseq/int8", 1, 0.1, 0.6)]
    path.write_text("".join(json.dumps(item) + "\n" for item in one))
    rounds = [item["round"] for item in read_lines([path, path]) if "round" in item]
    assert rounds == [0, 1, 2, 3]


def test_machines_stay_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    newer = {**RUN, "machine": {"processor": "x", "instructions": "avx2"}}
    lines = [
        RUN,
        line("edgeseq/int8", 0, 0.1, 0.6),
        newer,
        line("edgeseq/int8", 0, 0.1, 1.1),
        RUN,
        line("edgeseq/int8", 0, 0.1, 0.6),
    ]
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    first, second = map(summarize, by_machine(read_lines([path])))
    task = "gpt2/decode", "int8"
    assert list(first.values[task]["edgeseq/int8"][SPEED].values()) == pytest.approx([40, 40])
    assert list(second.values[task]["edgeseq/int8"][SPEED].values()) == pytest.approx([20])
    report(path)
    text = capsys.readouterr().out
    assert text.index("## Machine 1") < text.index("40.0") < text.index("## Machine 2")
    assert "processor: x, instructions: avx2; s; 2 threads; now." in text


def report(*paths: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["compare", "report", *map(str, paths)])
        main()


def test_a_later_run_may_have_what_an_earlier_one_lacked() -> None:
    which = {"kind": "cannot", "workload": "gpt2/decode", "bits": "int8"}
    lines = [
        RUN,
        {**which, "entry": "ctranslate2", "reason": "It was not there."},
        {**which, "entry": "llama_cpp", "reason": "It will not."},
        line("ctranslate2/int8", 0, 0.1, 0.6),
    ]
    reasons = summarize(lines).cannot["gpt2/decode", "int8"]
    assert reasons == {"llama_cpp": "It will not."}


def test_the_growth_of_the_cost_has_a_table_for_each_metric() -> None:
    seconds = {1: 0.6, 4: 1.1}
    cases = [
        {"rows": 1, "prompt": 32, "new": 11, "first_token_s": [0.1], "total_s": [s], "beams": b}
        for b, s in seconds.items()
    ]
    lines = [
        RUN,
        line("edgeseq/int8", 0, 0, 0, workload="gpt2/beams", cases=cases),
        line("ctranslate2/int8", 0, 0, 0, workload="gpt2/beams", cases=cases[:1] * 2),
        {
            "kind": "cannot",
            "entry": "llama_cpp",
            "workload": "gpt2/beams",
            "bits": "int8",
            "reason": "It has none.",
        },
    ]
    text = markdown(summarize(lines))
    assert "### GPT-2 by beams, int8: tokens/s after the first, tokens/s\n\n| | 1 | 4 |" in text
    assert "| **edgeseq int8** | 20 | 10 |\n| CTranslate2 int8 | 20 |  |" in text
    assert "| llama.cpp | It has none. | |" in text


def test_figures_without_beams_are_of_an_older_version() -> None:
    case = {"rows": 1, "prompt": 32, "new": 11, "first_token_s": [0.1], "total_s": [0.6]}
    older = line("edgeseq/int8", 0, 0, 0, workload="gpt2/context", cases=[case, case])
    [found] = summarize([RUN, older]).growth["gpt2/context", "int8"]["edgeseq/int8"][SPEED].items()
    assert found == (Shape(1, 32, 11, 1), pytest.approx([20, 20]))


def test_the_table_shows_figures_ratios_and_reasons() -> None:
    lines = [
        RUN,
        line("edgeseq/int8", 0, 0.1, 0.6),
        line("ctranslate2/int8", 0, 0.1, 1.1),
        {
            "kind": "cannot",
            "entry": "llama_cpp",
            "workload": "gpt2/decode",
            "bits": "int8",
            "reason": "It will not.",
        },
        {"kind": "installed", "entry": "edgeseq", "mb": 171.0},
        *({"kind": "bandwidth", "round": 0, "gb_per_s": value} for value in (21.04, 19.0, 25.0)),
    ]
    text = markdown(summarize(lines))
    assert "| **edgeseq int8** | 40.0 (40.0–40.0) |" in text
    assert text.index("**edgeseq int8**") < text.index("| CTranslate2 int8 | 20.0")
    assert "- tokens/s after the first, edgeseq int8: 2.00 × CTranslate2 int8, the best" in text
    assert "| It will not. |" in text
    assert "| edgeseq | 171 |" in text
    assert "Memory was read at 21.0 GB/s (19.0 to 25.0)." in text


def test_the_overview_names_the_strongest_and_our_better_form() -> None:
    lines = [
        RUN,
        line("edgeseq/int8", 0, 0.1, 0.6),
        line("edgeseq/int8-weights", 0, 0.1, 0.5),
        line("edgeseq/int8-prepacked", 0, 0.1, 0.9),
        line("ctranslate2/int8", 0, 0.1, 1.1),
        line("llama_cpp/q8_0", 0, 0.1, 0.7),
    ]
    rows = overview(summarize(lines)).splitlines()
    assert len({row.count("|") for row in rows}) == 1
    [speed] = [row for row in rows if "tokens/s after the first" in row]
    assert "| **40.0 (40.0–40.0)** tokens/s | llama.cpp q8_0 33.3 (33.3–33.3) | 1.20 |" in speed
    assert speed.endswith("| `int8-weights`: 50.0 (50.0–50.0), 1.50 |")
    [memory] = [row for row in rows if "peak memory" in row]
    assert memory.endswith("| 1.00 |  |")
    assert len(rows) == 4  # two of head


def test_a_program_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(command: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(measuring.subprocess, "run", hang)
    monkeypatch.setattr(Workplace, "model", lambda *_: tmp_path)
    peer = PEERS["edgeseq"]
    entry = Entry(peer, next(iter(peer.formats.values())))
    found = measure_once(entry, WORKLOADS[0], Workplace(tmp_path, {}, {}), 2)
    assert found == {"error": "not done after 600 s"}


def test_files_for_the_next_start_are_written_once_a_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def measure_once(entry: Entry, workload: Workload, *_: Any) -> dict[str, Any]:
        made.append((entry.name, workload.model))
        return {"error": "no room"}

    monkeypatch.setattr(running, "measure_once", measure_once)
    turns = [(w, b, entries([PEERS["edgeseq"]], w, b)) for w in WORKLOADS for b in w.bits]
    running.fill_caches(turns, Workplace(tmp_path, {}, {}), 2)
    assert made == [("edgeseq/int8-prepacked", "gpt2")]
    assert "edgeseq/int8-prepacked, gpt2: no room" in capsys.readouterr().out


def test_every_peer_has_a_folder() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} >= set(PEERS)
    assert all(isinstance(peer, Peer) for peer in PEERS.values())


def test_a_machine_is_described_by_what_kernels_choose_by(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n")
    assert family_and_model(path) == "25/1"
    assert family_and_model(tmp_path / "none") == ""
    assert known_flags("sse2 avx2 avx512_vnni amx_tile popcnt") == [
        "avx2",
        "avx512_vnni",
        "amx_tile",
    ]
    assert set(describe_machine()) >= {"processor", "cores", "instructions"}


def test_cmake_options_follow_from_the_flags_of_the_system() -> None:
    options = {"GGML_NATIVE": "never", "GGML_AVX2": "avx2", "GGML_AMX_INT8": "amx_tile amx_int8"}
    found = cmake_options(options, ["sse2", "avx2", "amx_int8"])
    assert found == ["-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_AMX_INT8=OFF"]
    assert cmake_options(options, ["asimd"]) == []


def test_a_package_is_compiled_again_if_its_variables_change(tmp_path: Path) -> None:
    one = Compiled(package="a==1", folder=tmp_path, variables={"CFLAGS": "-O3"})
    moved = Compiled(package="a==1", folder=tmp_path / "b", variables={"CFLAGS": "-O3"})
    other = Compiled(package="a==1", folder=tmp_path, variables={"CFLAGS": "-O2"})
    assert compiled_folder(one, tmp_path) == compiled_folder(moved, tmp_path)
    assert compiled_folder(one, tmp_path) != compiled_folder(other, tmp_path)
    assert compiled_folder(one, tmp_path).name.startswith("a==1-")


def test_a_failed_command_gives_its_last_line() -> None:
    code = "import sys; print('first'); print('no luck', file=sys.stderr); sys.exit(3)"
    with pytest.raises(SetupError, match=r"^could not start: no luck$") as caught:
        run_command([sys.executable, "-c", code], "could not start", {})
    assert caught.value.output == "first\nno luck"


def test_what_is_unfinished_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "a"
    with pytest.raises(SetupError), complete(folder) as part:
        part.mkdir()
        raise SetupError("no luck")
    assert not list(folder.parent.iterdir())
    (tmp_path / "models" / "a.part" / "model").mkdir(parents=True)  # left by a killed process
    with complete(folder) as part:
        part.mkdir()
        (part.parent / "beside").mkdir()
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


def test_only_random_weights_have_no_quality_gate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = []

    def run_command(command: list[str], *_: Any) -> None:
        commands.append(command)
        Path(command[3]).mkdir()

    monkeypatch.setattr(models, "run_command", run_command)
    monkeypatch.setattr(models, "make_environment", lambda *_: None)
    ours = PEERS[OURS]
    (tmp_path / "work" / "checkpoints" / "gpt2").mkdir(parents=True)
    for checkpoints in ({}, {"gpt2": tmp_path / "mine"}):
        place = Workplace(tmp_path / "work", ours.tools, checkpoints)
        place.model(ours, "gpt2", ours.formats["int8"])
    assert [command[-3:] for command in commands] == [
        ["--allow-loss", "--max-loss", "1000"],
        [commands[1][3], "--precision", "int8"],
    ]
    assert commands[1][2] == str(tmp_path / "mine")


def test_a_program_that_fails_does_not_end_set_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def install(_: Workplace, peer: Peer) -> None:
        if peer.name == "llama_cpp":
            raise SetupError("could not compile it: no compiler", "the log")

    def model(_: Workplace, peer: Peer, model: str, form: Any) -> None:
        if (peer.name, form.name) == ("ctranslate2", "int8"):
            raise SetupError("could not convert gpt2 to int8")

    monkeypatch.setattr(Workplace, "install", install)
    monkeypatch.setattr(Workplace, "model", model)
    place = Workplace(tmp_path / "work", {}, {})
    peers = [PEERS[name] for name in (OURS, "ctranslate2", "llama_cpp")]
    decode = [w for w in WORKLOADS if w.name == "gpt2/decode"]
    turns, failures = prepare(peers, decode, place, ["int8", "fp32"])
    names = {bits: {entry.name for entry in them} for _, bits, them in turns}
    assert names["fp32"] == {"edgeseq/fp32", "ctranslate2/fp32"}
    assert not [name for name in names["int8"] if not name.startswith("edgeseq/")]
    assert failures == [
        Failure("llama_cpp", "", "Could not compile it: no compiler."),
        Failure("ctranslate2/int8", "gpt2", "Could not convert gpt2 to int8."),
    ]
    assert "llama_cpp: Could not compile it: no compiler." in capsys.readouterr().out
    assert "the log" in (tmp_path / "work" / "failures.log").read_text()

    monkeypatch.setattr(running, "installed_mb", lambda _: 1.0)
    lines = list(running.fixed_lines(peers, turns, failures, place))
    found = [(x["entry"], x["bits"], x["reason"]) for x in lines if x["kind"] == "cannot"]
    assert found == [
        ("ctranslate2/int8", "int8", "Could not convert gpt2 to int8."),
        ("llama_cpp", "int8", "Could not compile it: no compiler."),
        ("llama_cpp", "fp32", "Could not compile it: no compiler."),
    ]


def test_set_up_ends_with_the_names_of_what_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failures = [Failure("llama_cpp", "", "No."), Failure("ctranslate2/int8", "gpt2", "No.")]
    monkeypatch.setattr(preparing, "prepare", lambda *_: ([], failures))
    monkeypatch.setattr(sys, "argv", ["compare", "setup", "--work", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == "Not set up: llama_cpp, ctranslate2/int8 (gpt2). All else is."


def test_an_unfinished_tool_is_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = []

    def make_environment(folder: Path, *_: Any) -> None:
        tried.append(folder.name)
        raise SetupError("no room")

    monkeypatch.setattr(models, "make_environment", make_environment)
    place = Workplace(tmp_path, {"tool": Environment()}, {})
    for _ in range(2):
        with pytest.raises(SetupError, match="no room"):
            place.tool("tool")
    assert tried == ["tool"]
