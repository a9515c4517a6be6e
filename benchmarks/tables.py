"""Render the tables of measured figures in the documentation from ``benchmarks/results``.

    python -m benchmarks.tables
    python -m benchmarks.tables --check

A page marks the place of a table by two lines, and everything between them is rendered:

    <!-- table: NAME -->
    <!-- end of table -->

``NAME`` is a key of ``TABLES``. The first command rewrites ``README.md`` and the pages in ``docs``.
``--check`` changes nothing, and exits with status 1 if a table is out of date.

In a comparison the best other program is the one with the best median. A ratio is the quotient of
the two rounded medians that its row shows; above 1 edgeseq is better.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.compare.peers import OURS, REPOSITORY
from benchmarks.compare.summary import (
    COLD,
    FIRST,
    LOAD,
    PEAK,
    SPEED,
    TOTAL,
    Metric,
    Summary,
    is_ours,
    read_lines,
    summarize,
)
from benchmarks.compare.table import title
from benchmarks.compare.workloads import Bits
from edgeseq.runtime.comparison.columns import columns_of

RESULTS = REPOSITORY / "benchmarks" / "results"
REGION = re.compile(r"<!-- table: (\S+) -->\n(.*?)<!-- end of table -->", re.DOTALL)
SPEED_COLUMNS = {
    *("size, MB", "load, s", "first token, ms", "pp128, tokens/s", "pp512, tokens/s"),
    *("tg128, tokens/s", "bandwidth", "peak, MB"),
}
RECIPES_OF = ("demo-gpt2", "demo-t5", "gpt2", "t5-small", "bart-base")
MODELS = {"gpt2": "GPT-2 124M", "t5-small": "t5-small", "bart-base": "bart-base"}
MILLION_BY_HOUR = 1_000_000 / 3600
BEGIN, END = "<!-- table:", "<!-- end of table -->"
COMMAND = "python -m benchmarks.tables"
NEEDED_BY_ONNXRUNTIME = ("numpy", "onnxruntime", "flatbuffers", "packaging", "protobuf")

Values = Mapping[int, float]  # a figure by round
Entries = Mapping[str, Mapping[Metric, Values]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite the pages, or with ``--check`` compare them."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Render the tables of results.")
    parser.add_argument("--check", action="store_true", help="only compare; status 1 if outdated")
    only_check = parser.parse_args(arguments).check
    outdated = []
    for page in pages(REPOSITORY):
        text = page.read_text(encoding="utf-8")
        try:
            rendered = filled(text)
        except ValueError as error:
            sys.exit(f"{page.relative_to(REPOSITORY)}: {error}")
        if rendered != text and only_check:
            outdated.append(str(page.relative_to(REPOSITORY)))
        elif rendered != text:
            page.write_text(rendered, encoding="utf-8")
            print(f"wrote {page.relative_to(REPOSITORY)}")
    if outdated:
        sys.exit(f"The tables of {', '.join(outdated)} are out of date: run `{COMMAND}`.")


def pages(root: Path) -> list[Path]:
    """Return the pages that may hold tables."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def filled(text: str) -> str:
    """Return the text of a page with all of its tables rendered.

    Raises ``ValueError`` for an unknown table or for markers that do not match.
    """
    if not text.count(BEGIN) == text.count(END) == len(REGION.findall(text)):
        raise ValueError(f"each line `{BEGIN} NAME -->` needs a line `{END}` after it.")
    return REGION.sub(_region, text)


def _region(found: re.Match[str]) -> str:
    name = found[1]
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}: use one of {', '.join(TABLES)}.")
    return f"{BEGIN} {name} -->\n\n{TABLES[name]()}\n\n{END}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(value: float, digits: int = 3) -> str:
    """Return ``value`` with at least ``digits`` significant digits, without an exponent."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{places}f}"


def between(low: float, high: float) -> str:
    """Return two figures as a spread."""
    return f"{figure(low)}–{figure(high)}"


def share(value: float, digits: int) -> str:
    """Return a share as a percentage with ``digits`` decimals."""
    return f"{value:.{digits}%}".replace("%", " %")


def results(name: str) -> Any:
    """Return the content of a JSON file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


# Comparison with other programs


@cache
def compared(name: str) -> Summary:
    """Return the summary of a comparison, ``compare``, ``compare_all`` or ``compare_blocks``."""
    return summarize(read_lines([RESULTS / f"{name}.jsonl"]))


@dataclass(frozen=True)
class Question:
    """A row of a comparison: one figure of one workload."""

    text: str
    workload: str
    bits: Bits
    metric: Metric
    form: str = ""  # the form of edgeseq's bundle; empty: the recipe with this name of bits

    @property
    def ours(self) -> str:
        """The name of edgeseq's entry."""
        return f"{OURS}/{self.form or self.bits}"

    def entries(self, summary: Summary) -> Entries:
        """Return the figures of all programs."""
        return summary.values.get((self.workload, self.bits), {})


DECODE_INT8 = Question("GPT-2 124M `int8`, decode after 32 tokens", "gpt2/decode", "int8", SPEED)
DECODE_WEIGHTS = replace(
    DECODE_INT8, text=DECODE_INT8.text.replace("int8", "int8-weights"), form="int8-weights"
)
DECODE_INT4 = Question("GPT-2 124M `int4`, decode after 32 tokens", "gpt2/decode", "int4", SPEED)
DECODE_INT4_128 = replace(DECODE_INT4, text=f"{DECODE_INT4.text}, blocks of 128", form="int4-128")
AFTER_512 = Question("GPT-2 124M `int8`, decode after 512 tokens", "gpt2/after-512", "int8", SPEED)
AFTER_512_INT4 = replace(AFTER_512, text=AFTER_512.text.replace("int8", "int4"), bits="int4")
BATCH = Question("GPT-2 124M `int8`, decode of a batch of 8", "gpt2/batch-8", "int8", SPEED)
BEAMS = Question("GPT-2 124M `int8`, decode with 4 beams", "gpt2/beam-4", "int8", SPEED)
T5_GREEDY = Question("t5-small `int8`, 64 tokens to 64, greedy", "t5-small/greedy", "int8", TOTAL)
T5_BEAMS = Question("t5-small `int8`, 64 tokens to 64, 4 beams", "t5-small/beam-4", "int8", TOTAL)
T5_BASE_BEAMS = Question(
    "t5-base `int8`, 256 tokens to 64, 4 beams", "t5-base/beam-4", "int8", TOTAL
)
PROMPT = Question(
    "GPT-2 124M `int8`, time to first token of a 512-token prompt", "gpt2/after-512", "int8", FIRST
)
PROMPT_INT4 = replace(PROMPT, text=PROMPT.text.replace("int8", "int4"), bits="int4")
LOADED = Question("GPT-2 124M `int8`, import to ready", "gpt2/start", "int8", LOAD)
START = Question("GPT-2 124M `int8`, process start to first token", "gpt2/start", "int8", COLD)

BART_GREEDY = Question(
    "BART-base `int8`, 256 tokens to 64, greedy", "bart-base/greedy", "int8", TOTAL
)
README_ROWS = (DECODE_INT8, DECODE_INT4, T5_GREEDY, BART_GREEDY, PROMPT, START)
GPT2_ROWS = (
    DECODE_INT8,
    DECODE_WEIGHTS,
    DECODE_INT4,
    Question("GPT-2 124M `fp32`, decode after 32 tokens", "gpt2/decode", "fp32", SPEED),
    AFTER_512,
    AFTER_512_INT4,
    Question("GPT-2 124M `fp32`, decode after 512 tokens", "gpt2/after-512", "fp32", SPEED),
    PROMPT,
    replace(PROMPT, text=f"{PROMPT.text}, float32 KV cache", form="int8-float32-cache"),
    PROMPT_INT4,
    replace(PROMPT, text=PROMPT.text.replace("int8", "fp32"), bits="fp32"),
    BATCH,
    BEAMS,
)
T5_ROWS = (
    T5_GREEDY,
    Question("t5-small `fp32`, 64 tokens to 64, greedy", "t5-small/greedy", "fp32", TOTAL),
    T5_BEAMS,
    Question("t5-small `fp32`, 64 tokens to 64, 4 beams", "t5-small/beam-4", "fp32", TOTAL),
    T5_BASE_BEAMS,
)
PEAKS = (
    Question("GPT-2 124M `int8`, peak memory", "gpt2/decode", "int8", PEAK),
    Question("GPT-2 124M `int4`, peak memory", "gpt2/decode", "int4", PEAK),
)
AVX2_ROWS = (
    DECODE_INT8,
    DECODE_WEIGHTS,
    DECODE_INT4,
    DECODE_INT4_128,
    AFTER_512,
    AFTER_512_INT4,
    PROMPT,
    PROMPT_INT4,
    BATCH,
    BEAMS,
    T5_GREEDY,
    T5_BEAMS,
    T5_BASE_BEAMS,
    BART_GREEDY,
    Question("BART-base `int8`, 256 tokens to 64, 4 beams", "bart-base/beam-4", "int8", TOTAL),
    Question("Marian `int8`, 32 tokens to 64, greedy", "marian/greedy", "int8", TOTAL),
    Question("Marian `int8`, 32 tokens to 64, 4 beams", "marian/beam-4", "int8", TOTAL),
    LOADED,
    START,
    *PEAKS,
)
START_ROWS = (
    LOADED,
    Question(
        "GPT-2 124M `int8`, import to ready, files not in the page cache",
        "gpt2/start-cold",
        "int8",
        LOAD,
    ),
    START,
    *PEAKS,
    Question("GPT-2 124M `fp32`, peak memory", "gpt2/decode", "fp32", PEAK),
)
BLOCK_ROWS = (
    DECODE_INT8,
    DECODE_WEIGHTS,
    replace(DECODE_WEIGHTS, text=f"{DECODE_WEIGHTS.text}, blocks of 128", form="int8-weights-128"),
    DECODE_INT4,
    DECODE_INT4_128,
)


def comparison_table(name: str, questions: Sequence[Question], *, spreads: bool = True) -> str:
    """Return edgeseq's figures beside those of the best other program, one row per question."""
    summary = compared(name)
    rows = [_beside(question, summary, spreads=spreads) for question in questions]
    return table(["", "edgeseq", "best other program", "ratio"], rows)


def others_table() -> str:
    """Return the questions in which a program that only ``compare_all`` has is the best other."""
    summary = compared("compare_all")
    entries = compared("compare").values.values()
    known = {entry.split("/")[0] for found in entries for entry in found}
    questions = [
        question
        for question in (*GPT2_ROWS, *T5_ROWS, *START_ROWS)
        if best_other(question.entries(summary), question.metric).split("/")[0] not in known
    ]
    return comparison_table("compare_all", questions, spreads=False)


def best_other(entries: Entries, metric: Metric) -> str:
    """Return the entry of another program with the best median, the first if equal."""
    sign = -1 if metric.more_is_better else 1
    found = {
        entry: sign * median(metrics[metric].values())
        for entry, metrics in sorted(entries.items())
        if not is_ours(entry) and metric in metrics
    }
    return min(found, key=found.__getitem__)


def _beside(question: Question, summary: Summary, *, spreads: bool) -> list[str]:
    entries, metric = question.entries(summary), question.metric
    other = best_other(entries, metric)
    ours, theirs = entries[question.ours][metric], entries[other][metric]
    name = title(other.split("/")[0])
    cells = [_measured(values, metric, spreads=spreads) for values in (ours, theirs)]
    return [question.text, cells[0], f"{name} {cells[1]}", _ratio(ours, theirs, metric)]


def _measured(values: Values, metric: Metric, *, spreads: bool) -> str:
    found = f"{figure(median(values.values()))} {metric.unit}"
    return f"{found} ({between(min(values.values()), max(values.values()))})" if spreads else found


def _ratio(ours: Values, theirs: Values, metric: Metric) -> str:
    mine, other = (float(figure(median(v.values())).replace(",", "")) for v in (ours, theirs))
    above, below = (mine, other) if metric.more_is_better else (other, mine)
    return f"{above / below:.2f}" if below else ""


def installed_table() -> str:
    """Return the installed size of every program, smallest first."""
    sizes = sorted(compared("compare_all").installed_mb.items(), key=lambda item: item[1])
    return table(["program", "installed, MB"], [[title(name), f"{mb:.0f}"] for name, mb in sizes])


# edgeseq alone


def machine_table() -> str:
    """Return when and on what the main files of results were measured."""
    rows = []
    for name in ("compare", "compare_all", "compare_blocks", "compare_avx2"):
        summary = compared(name)
        version, rates = summary.versions[OURS]["onnxruntime"], summary.bandwidths
        rate = f"{figure(median(rates))} ({between(min(rates), max(rates))})"
        rows.append([f"`{name}.jsonl`", version, rate])
    return table(["result", "onnxruntime", "memory read at, GB/s (lowest–highest)"], rows)


def recipes_table(model: str) -> str:
    """Return the table of `edgeseq compare` of a model's recipes.

    The quality of models with random weights says nothing, and is left out.
    """
    report = results(f"recipes_{model}")
    _, *columns = columns_of(report)
    if not model.startswith("demo"):
        columns = [column for column in columns if column.head in SPEED_COLUMNS]
    rows = []
    for bundle in report["bundles"]:
        recipe = f"`{bundle['name'].removeprefix(model)[1:]}`"
        rows.append([recipe, *(column.cell(bundle) for column in columns)])
    return table(["recipe", *(column.head for column in columns)], rows)


def _quartiles(found: Mapping[str, float], digits: int = 0, unit: str = "") -> str:
    low, high = found["quartile_1"], found["quartile_3"]
    return f"{found['median']:.{digits}f}{unit} ({low:.{digits}f}–{high:.{digits}f})"


def quality_table() -> str:
    """Return what each recipe loses on the demo GPT-2's held-out text."""
    recipes = ("int8", "int8-weights", "int4")
    evaluated = [
        results(f"eval_gpt2_{recipe}_{dtype}")
        for recipe in recipes
        for dtype in ("int8", "float32")
    ]
    rows = [["`fp32`", "float32", f"{evaluated[0]['reference']['perplexity']:.2f}", "", "", ""]]
    for found in evaluated:
        rows.append([*_bundle(found), f"{found['perplexity']:.2f}", *_loss(found, 2, 4, 1)])
    head = ["recipe", "KV cache", "perplexity", *LOSS_HEAD]
    return table(head, rows)


def t5_quality_table() -> str:
    """Return what `int8` loses on the demo T5's held-out pairs."""
    rows = []
    for name in ("eval_t5_fp32", "eval_t5_int8_int8", "eval_t5_int8_float32"):
        found = results(name)
        loss = _loss(found, 3, 6, 2) if "reference" in found else [""] * 3
        rows.append([*_bundle(found), share(found["exact_match"], 2), *loss])
    return table(["recipe", "KV cache", "exact match", *LOSS_HEAD], rows)


LOSS_HEAD = ("rise of perplexity", "KL divergence, nats", "top-1 agreement")


def _bundle(found: Mapping[str, Any]) -> list[str]:
    return [f"`{found['recipe']}`", found["kv_cache"].replace("int8", "INT8")]


def _loss(found: Mapping[str, Any], rise: int, divergence: int, agreement: int) -> list[str]:
    """Return rise of perplexity, KL divergence and top-1 agreement, with these decimals."""
    reference = found["reference"]
    return [
        share(reference["perplexity_rise"], rise),
        f"{reference['kl_divergence']:.{divergence}f}",
        share(reference["top1_agreement"], agreement),
    ]


def beam_table() -> str:
    """Return the cost of beam search beside greedy search."""
    found = results("beam_search_gpt2")
    rows = [
        ["steps/s, relative to greedy search", _tenths(found["beam_steps_over_greedy"], 2)],
        ["share of a step outside ONNX Runtime", _tenths(found["beams_outside_percent"], 1, " %")],
        ["the same, greedy search", _tenths(found["greedy_outside_percent"], 1, " %")],
    ]
    return table(["GPT-2 124M `int8`, 4 beams", "median (10–90 %)"], rows)


def _tenths(found: Mapping[str, float], digits: int, unit: str = "") -> str:
    low, high = found["p10"], found["p90"]
    return f"{found['median']:.{digits}f}{unit} ({low:.{digits}f}–{high:.{digits}f})"


def copies_table() -> str:
    """Return the bytes of KV cache that a step of beam search copies."""
    rows = []
    for name, model in (
        ("beam_copies_demo_gpt2", "demo GPT-2, beginnings of tales"),
        ("beam_copies_demo_t5", "demo T5, 300 words"),
        ("beam_search_gpt2", "GPT-2 124M, random weights"),
    ):
        found = results(name)
        whole, changed = found["full_reorder_bytes_a_step"], found["changed_rows_bytes_a_step"]
        rows.append(
            [
                model,
                figure(found["copied_bytes_a_step"] / 1e3),
                f"{figure(whole / 1e3)} ({figure(found['fewer_than_full_reorder'])} times)",
                f"{figure(changed / 1e3)} ({figure(found['fewer_than_changed_rows'])} times)",
            ]
        )
    return table(
        ["kB per step, 4 beams", "edgeseq copies", "all rows whole", "changed rows whole"], rows
    )


def session_table() -> str:
    """Return the time to first token of a prompt that grew, in a session and in a fresh call."""
    found = results("session_reuse_gpt2")
    tokens = found["prompt_tokens"]
    head = ["time to first token", "session", "fresh call"]
    label = f"GPT-2 124M `int8`, a {tokens}-token prompt that grew by 5"
    times = [found["session_first_token_ms"], found["fresh_first_token_ms"]]
    return table(head, [[label, *(f"{figure(time)} ms" for time in times)]])


def lookup_table() -> str:
    """Return the speed-up of prompt lookup over greedy search."""
    rows = []
    for name, text in (
        ("prompt_lookup_copying_int8", "quotes and corrections, copying model, `int8`"),
        ("prompt_lookup_copying_fp32", "quotes and corrections, copying model, `fp32`"),
        ("prompt_lookup_gpt2_forced", "forced quotes, GPT-2 124M, `int8`"),
        ("prompt_lookup_tales", "tales, demo GPT-2"),
        ("prompt_lookup_nothing_repeats", "tales without a repeated pair of tokens, demo GPT-2"),
    ):
        found = results(name)
        lowest = f"{found['lowest_speed_up']:.2f}"
        rows.append([text, str(found["prompts"]), _tenths(found["speed_up"], 2), lowest])
    return table(["output", "prompts", "speed-up, median (10–90 %)", "lowest"], rows)


def footprint_table() -> str:
    """Return the import time and the installed size of the runtime."""
    found = results("footprint")
    over, alone = found["import_over_onnxruntime_ms"], found["import_ms"]["onnxruntime"]
    sizes = found["distributions_mb"]
    runtime = sum(sizes[name] for name in NEEDED_BY_ONNXRUNTIME)
    import_row = f"import of the runtime, added to `import onnxruntime` ({alone['median']:.0f} ms)"
    rows = [
        [import_row, _quartiles(over, unit=" ms")],
        ['`pip install ".[cpu]"`', f"{found['installed_mb']:.0f} MB"],
        ["of that `onnxruntime`, `numpy` and what they need", f"{runtime:.0f} MB"],
        ["without `huggingface_hub` and what only it needs", f"{found['needed_mb']:.0f} MB"],
    ]
    return table(["", "median (quartiles)"], rows)


def overhead_table() -> str:
    """Return the time of a decode step outside ONNX Runtime, and how its inside grows."""
    rows = []
    for name, model in (
        ("loop_overhead_gpt2", "GPT-2 124M"),
        ("loop_overhead_t5_small", "t5-small"),
    ):
        found = results(name)
        steps = found["by_context"]
        runs = [step["run_ms"] for step in steps]
        rows.append(
            [
                f"{model} `fp32`",
                f"{found['generate_ids_overhead_ms']:.2f}",
                f"{found['stream_overhead_ms']:.2f}",
                f"{steps[0]['context']} to {steps[-1]['context']}",
                f"{min(runs):.1f} to {max(runs):.1f}",
                f"{steps[0]['attention_ms']:.1f} to {steps[-1]['attention_ms']:.1f}",
            ]
        )
    head = [
        "ms per token",
        "edgeseq, `generate_ids`",
        "edgeseq, `stream`",
        "context, tokens",
        "ONNX Runtime",
        "of that attention",
    ]
    return table(head, rows)


def long_source_table() -> str:
    """Return the cost of reading a long source."""
    found = results("long_source_t5_small")
    row = [
        f"t5-small `fp32`, {found['source_tokens']:,} tokens",
        f"{figure(found['first_token_s'], 2)} s",
        f"{found['peak_mb']:.0f} MB",
        f"{found['peak_mb_loaded']:.0f} MB",
    ]
    return table(["source", "time to first token", "peak memory", "after loading"], [row])


def idle_table() -> str:
    """Return what a loaded model that waits costs a program."""
    rows = []
    for name, model in (("manners_gpt2", "GPT-2 124M `int8`"), ("manners_demo_gpt2", "demo GPT-2")):
        found = results(name)
        ratio = found["ratio"]
        beside = f"{ratio['median']:.3f} ({ratio['min']:.3f}–{ratio['max']:.3f})"
        rows.append([model, f"{found['idle_percent_of_a_core']:.2f} %", beside])
    head = ["loaded model that waits", "CPU, of one core", "time of a numpy product beside it"]
    return table(head, rows)


def event_loop_table() -> str:
    """Return how late an event loop wakes, alone and beside a stream."""
    found = results("embedding_demo_gpt2")["loop"]
    rows = []
    for text, delays, step in (
        ("no stream", found["delay_alone_ms"], ""),
        ("one stream, demo GPT-2", found["delay_streaming_ms"], f"{found['step_ms']:.2f}"),
    ):
        largest = f"{delays['max']:.1f}"
        rows.append([text, f"{delays['p50']:.2f}", f"{delays['p99']:.2f}", largest, step])
    head = ["delay of a wake-up, ms", "median", "99th percentile", "largest", "decode step"]
    return table(head, rows)


def streams_table() -> str:
    """Return the throughput of many streams, and what they leave behind."""
    found = results("embedding_demo_gpt2")
    streams, requests = found["streams"], found["requests"]
    before, after = requests["before"], requests["after"]
    rows = [
        [f"{streams['streams']} streams at once", _speed(streams["tokens_per_s_together"])],
        ["the same streams one after the other", _speed(streams["tokens_per_s_one_by_one"])],
        [f"resident memory before {requests['requests']:,} streams", f"{before['resident_mb']} MB"],
        ["resident memory after them", f"{after['resident_mb']} MB"],
    ]
    return table(["demo GPT-2", ""], rows)


def many_streams_table() -> str:
    """Return the throughput of calls at the same time and one after the other."""
    rows = []
    for name, row in results("many_streams_gpt2").items():
        if name.endswith("_streams"):
            together, alone = (
                round(row["together_tokens_per_s"]),
                round(row["one_by_one_tokens_per_s"]),
            )
            speeds = [_speed(together), _speed(alone), f"{together / alone:.2f}"]
            rows.append([name.removesuffix("_streams"), *speeds])
    return table(["calls", "at the same time", "one by one", "ratio"], rows)


def servers_table() -> str:
    """Return the figures of servers beside each other."""
    found = results("servers_gpt2")
    servers = {name: row for name, row in found.items() if isinstance(row, dict)}
    names = {
        "1 at once": "one request, tokens/s",
        "4 at once": "4 at the same time, tokens/s",
        "16 at once": "16 at the same time, tokens/s",
        "one by one": "16 one by one, tokens/s",
        "first token, ms": "time to first token, ms",
        "beside 900 tokens, ms": "the same beside a prompt of 900 tokens, ms",
    }
    rows = [
        [title, *(_range(server[name], 0) for server in servers.values())]
        for name, title in names.items()
    ]
    return table(["", *servers], rows)


def _range(figure: Mapping[str, float], digits: int) -> str:
    low, middle, high = (f"{figure[key]:,.{digits}f}" for key in ("min", "median", "max"))
    return f"{middle} ({low}–{high})"


def soak_table() -> str:
    """Return what a server was like during and after many requests of all kinds."""
    found = results("server_soak")
    memory, statuses = found["resident_mb"], found["statuses"]
    rows = [
        ["requests, clients", f"{found['requests']:,}, {found['clients']}"],
        ["time", f"{found['seconds'] / 60:.0f} minutes"],
        ["generated tokens", f"{found['generated_tokens']:,}"],
        ["requests that the server cancelled", f"{found['cancelled']:,}"],
        ["answers by status", ", ".join(f"{n:,} of {code}" for code, n in statuses.items())],
        ["greedy texts that differ from before", str(found["texts_that_differ"])],
        [
            "resident memory, MB: before, and after each tenth",
            ", ".join(f"{m:.0f}" for m in memory),
        ],
        ["threads, the same", ", ".join(map(str, found["threads"]))],
        [
            "running, waiting and connected at the end",
            ", ".join(
                str(found[f"{key}_at_the_end"]) for key in ("running", "waiting", "connections")
            ),
        ],
        ["tracebacks in the log", str(found["tracebacks_in_the_log"])],
    ]
    return table(["", ""], rows)


def file_workers_table() -> str:
    """Return the rows per second of files with one process and with two, and their memory."""
    bundles = results("file_runs_short")["bundles"]
    rows = []
    for name, found in bundles.items():
        one, two = (found["workers"][count] for count in ("1", "2"))
        speeds = [
            f"{each['rows_per_s']:.1f} ({each['lowest']:.1f} to {each['highest']:.1f})"
            for each in (one, two)
        ]
        model = _recipe_of(name)
        rows.append([*model, *speeds, f"{one['own_mb']:.0f}", f"{two['own_mb']:.0f}"])
    head = ["one process, rows/s", "two processes, rows/s"]
    return table(["model", "recipe", *head, "own memory, MB", "of each of two, MB"], rows)


def million_rows_table() -> str:
    """Return the hours that a million rows take, short ones and long ones."""
    short, long = results("file_runs_short"), results("file_runs_long")
    rows = []
    for name, found in short["bundles"].items():
        hours = [
            f"{MILLION_BY_HOUR / each['workers']['1']['rows_per_s']:,.1f}"
            for each in (found, long["bundles"][name])
        ]
        peak = long["bundles"][name]["workers"]["1"]["peak_mb"]
        rows.append([*_recipe_of(name), *hours, f"{peak:,.0f}"])
    head = [f"{_row_size(each)}, hours" for each in (short, long)]
    return table(["model", "recipe", *head, "peak memory, MB"], rows)


def _recipe_of(bundle: str) -> list[str]:
    """Return the model and the recipe in the name of a bundle's folder."""
    model = next(name for name in MODELS if bundle.startswith(name))
    return [MODELS[model], f"`{bundle.removeprefix(model)[1:]}`"]


def _row_size(found: Mapping[str, Any]) -> str:
    """Return the mean tokens of a prompt, and the new tokens."""
    mean = median(each["prompt_tokens"] for each in found["bundles"].values())
    return f"{mean:.0f} tokens in, {found['new_tokens']} out"


def _speed(value: float) -> str:
    return f"{value:,.0f} tokens/s"


def linear_forms_table() -> str:
    """Return the speed of each form of quantized linear layers in the same graph."""
    rows = [
        [name, _quartiles(form["token_ms"], 2), _quartiles(form["prompt_in_chunks_ms"])]
        for name, form in results("linear_forms_gpt2").items()
    ]
    return table(["", "token after 32, ms", "prompt of 512, ms"], rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "readme": partial(comparison_table, "compare_avx2", README_ROWS, spreads=False),
    "gpt2": partial(comparison_table, "compare", GPT2_ROWS),
    "t5": partial(comparison_table, "compare", T5_ROWS),
    "start": partial(comparison_table, "compare", START_ROWS),
    "all-programs": others_table,
    "blocks": partial(comparison_table, "compare_blocks", BLOCK_ROWS),
    "avx2": partial(comparison_table, "compare_avx2", AVX2_ROWS),
    "installed": installed_table,
    "machine": machine_table,
    **{f"recipes-{model}": partial(recipes_table, model) for model in RECIPES_OF},
    "quality-gpt2": quality_table,
    "quality-t5": t5_quality_table,
    "beams": beam_table,
    "copies": copies_table,
    "session": session_table,
    "prompt-lookup": lookup_table,
    "footprint": footprint_table,
    "overhead": overhead_table,
    "long-source": long_source_table,
    "idle": idle_table,
    "event-loop": event_loop_table,
    "streams": streams_table,
    "many-streams": many_streams_table,
    "servers": servers_table,
    "file-workers": file_workers_table,
    "million-rows": million_rows_table,
    "soak": soak_table,
    "linear-forms": linear_forms_table,
}


if __name__ == "__main__":
    main()
