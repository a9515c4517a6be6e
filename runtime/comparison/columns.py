"""The report of ``edgeseq compare`` as a table: a row for each bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..bench.formats import DISTURBED, NONE, as_csv, as_json_lines, as_markdown, with_interval
from ..bench.table import machine_lines, number

Bundle = Mapping[str, Any]
DESCRIBED = ("name", "architecture", "recipe", "kv_cache", "kernels", "size_mb")
NOTES = (
    "± is half of the 95 % confidence interval over the rounds. In brackets: the 95 % confidence "
    "interval by a paired bootstrap; for other bundles than the reference, that of the difference "
    "to it.",
    "pp: prefill (tokens of the prompt by the time to the first token); tg: decoding after one "
    "token; bandwidth: the share of what the machine reads per second from memory or caches.",
)


class Column(NamedTuple):
    """A column of the table for people."""

    head: str
    cell: Callable[[Bundle], str]


def columns_of(report: Mapping[str, Any]) -> list[Column]:
    """Return the columns for which a bundle has a figure."""
    columns = [
        Column("bundle", lambda b: b["name"] + " (reference)" * b["is_reference"]),
        Column("size, MB", lambda b: number(b["size_mb"])),
    ]
    if report["rounds"]:
        columns += [
            Column("load, s", _speed("load_s")),
            Column("first token, ms", _speed("first_token_ms")),
            *(Column(f"pp{n}, tokens/s", _prefill(n)) for n in report["prompts"]),
            Column(f"tg{report['new_tokens']}, tokens/s", _speed("decode_tokens_per_s")),
            Column("bandwidth", _share),
            Column("peak, MB", _speed("peak_memory_mb")),
        ]
    columns.append(Column("perplexity", lambda b: estimated(b["perplexity"], plain)))
    columns.append(Column("bits per byte", lambda b: f"{b['bits_per_byte']:.4f}"))
    for name, metric in report["metrics"].items():
        columns.append(
            Column(metric["title"], _metric(name, percent if metric["is_share"] else plain))
        )
    if any(bundle["kl_divergence"] is not None for bundle in report["bundles"]):
        columns.append(Column("KL, nats", lambda b: estimated(b["kl_divergence"], tiny)))
        columns.append(Column("top-1", lambda b: estimated(b["top1_agreement"], percent)))
    return columns


def _speed(key: str) -> Callable[[Bundle], str]:
    return lambda bundle: _marked(bundle, bundle[key])


def _prefill(length: int) -> Callable[[Bundle], str]:
    return lambda bundle: _marked(bundle, bundle["prefill_tokens_per_s"].get(str(length)))


def _marked(bundle: Bundle, figure: Mapping[str, Any] | None) -> str:
    shown = with_interval(figure)
    return shown + DISTURBED * (figure is not None and bundle["disturbed_rounds"] > 0)


def _share(bundle: Bundle) -> str:
    figure = bundle["share_of_read_bandwidth"]
    return NONE if figure is None else f"{100 * figure['median']:.0f} %"


def _metric(name: str, form: Callable[[float], str]) -> Callable[[Bundle], str]:
    return lambda bundle: estimated(bundle["metrics"].get(name), form)


def estimated(figure: Mapping[str, Any] | None, form: Callable[[float], str]) -> str:
    """Return a score with its interval, or with its difference to the reference's score."""
    if figure is None:
        return NONE
    score, difference = figure["score"], figure["difference"]
    if difference is None:
        return f"{form(score['value'])} [{form(score['low'])}, {form(score['high'])}]"
    low, middle, high = (signed(difference[name], form) for name in ("low", "value", "high"))
    return f"{form(score['value'])} ({middle} [{low}, {high}])"


def plain(value: float) -> str:
    """Return a number with three decimals, or at least two and at most four significant digits.

    The integer part has all of its digits.
    """
    if abs(value) < 1:
        return f"{value:.2g}" if abs(value) < 0.01 else f"{value:.3f}"
    return f"{value:.0f}" if abs(value) >= 1e3 else f"{value:#.4g}"


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.1f} %"


def tiny(value: float) -> str:
    """Return a number that may be very small."""
    return "0" if value == 0 else f"{value:.2g}"


def signed(value: float, form: Callable[[float], str]) -> str:
    """Return a difference with its sign; no difference is "0"."""
    if value == 0:
        return "0"
    return f"{'+' if value > 0 else '−'}{form(abs(value))}"


def compare_output(report: Mapping[str, Any], kind: str) -> str:
    """Return the report as Markdown ("md"), "csv", "json" or "jsonl"."""
    if kind == "json":
        return json.dumps(report)
    if kind == "csv":
        return as_csv([flat(report, bundle) for bundle in report["bundles"]])
    if kind == "jsonl":
        rest = {name: report[name] for name in ("machine", "data", "rounds")}
        return as_json_lines({**flat(report, b), **rest} for b in report["bundles"])
    columns = columns_of(report)
    rows = [[column.cell(bundle) for column in columns] for bundle in report["bundles"]]
    table = as_markdown([column.head for column in columns], rows)
    return "\n".join([table, "", *(f"- {line}" for line in lines_below(report))])


def lines_below(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a reader of the table needs to know: data, remarks, machine, legend."""
    yield described_data(report["data"])
    for bundle in report["bundles"]:
        if bundle["disturbed_rounds"]:
            yield (
                f"{bundle['name']} ({DISTURBED}): other programs disturbed "
                f"{bundle['disturbed_rounds']} of {report['rounds']} rounds: close them and "
                "measure again."
            )
        yield from bundle["remarks"]
        yield from bundle["remarks_of_speed"]
    yield from machine_lines(report)
    if report["rounds"]:
        yield f"rounds: {report['rounds']}, threads: {report['bundles'][0]['threads']}"
    yield from NOTES if report["rounds"] else ()


def described_data(data: Mapping[str, Any]) -> str:
    """Return a line about the data."""
    task = "" if data["task"] is None else f", task {data['task']}"
    if data["examples"]:
        return f"data: {data['file']}{task}, {data['examples']:,} examples"
    return (
        f"data: {data['file']}, {data['bytes']:,} bytes, windows of {data['context']} tokens, "
        f"{data['stride']} tokens apart"
    )


def flat(report: Mapping[str, Any], bundle: Bundle) -> dict[str, Any]:
    """Return the figures of a bundle as one row of plain values."""
    row: dict[str, Any] = {name: bundle[name] for name in DESCRIBED}
    row["is_reference"] = bundle["is_reference"]
    if report["rounds"]:
        speeds = {name: bundle[name] for name in ("load_s", "first_token_ms")}
        for length in report["prompts"]:
            speeds[f"pp{length}"] = bundle["prefill_tokens_per_s"].get(str(length))
        speeds[f"tg{report['new_tokens']}"] = bundle["decode_tokens_per_s"]
        speeds |= {name: bundle[name] for name in ("share_of_read_bandwidth", "peak_memory_mb")}
        for name, figure in speeds.items():
            row[name] = None if figure is None else figure["median"]
            row[f"{name}_plus_minus"] = None if figure is None else figure["plus_minus"]
        row["threads"] = bundle["threads"]
    row["disturbed_rounds"] = bundle["disturbed_rounds"]
    row["bits_per_byte"] = bundle["bits_per_byte"]
    scores = {name: bundle[name] for name in ("perplexity", "kl_divergence", "top1_agreement")}
    for name, estimate in {**scores, **bundle["metrics"]}.items():
        score = None if estimate is None else estimate["score"]
        difference = None if estimate is None else estimate["difference"]
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            row[f"{name}{suffix}"] = None if score is None else score[part]
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
            value = None if difference is None else difference[part]
            row[f"{name}_difference{suffix}"] = value
    row["cut_off"] = bundle["cut_off"]
    return row
