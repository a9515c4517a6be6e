"""Results as rows: Markdown, CSV and JSON Lines, with a row for each speed of each case."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .table import machine_lines, number, remarks

FORMATS = ("md", "csv", "json", "jsonl")
NONE = "–"  # a figure that there is not
DISTURBED = "\\*"  # marks a figure of rounds that other programs disturbed
DESCRIBED = ("recipe", "size_mb", "device", "kv_cache", "kernels", "threads", "rows", "beams")
HEAD = ("bundle", "recipe", "size, MB", "KV cache", "kernels", "threads", "rows", "beams", "test")


def bench_output(report: Mapping[str, Any], kind: str) -> str:
    """Return the report of ``edgeseq bench`` in one of ``FORMATS``."""
    if kind == "json":
        return json.dumps(report)
    rows = list(bench_rows(report))
    if kind == "csv":
        return as_csv(rows)
    if kind == "jsonl":
        return as_json_lines({**row, "machine": report["machine"]} for row in rows)
    cells = []
    for row in rows:
        described = [row["bundle"], row["recipe"], number(row["size_mb"])]
        described += [row[name] for name in ("kv_cache", "kernels", "threads", "rows", "beams")]
        speed = with_interval({"median": row["tokens_per_s"], "plus_minus": row["plus_minus"]})
        cells.append([*described, row["test"], speed + DISTURBED * bool(row["disturbed_rounds"])])
    notes = [*machine_lines(report), *remarks(report)]
    return "\n".join([as_markdown([*HEAD, "tokens/s"], cells), "", *(f"- {x}" for x in notes)])


def bench_rows(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each prefill speed and each decode speed of each case.

    A test is named as in llama-bench: ``pp128`` is the prefill of 128 tokens, ``tg64@32`` the
    decoding of 64 tokens after 32.
    """
    for bundle in report["bundles"]:
        tests = {f"pp{n}": figure for n, figure in bundle["prefill_tokens_per_s"].items()}
        for context, figure in bundle["tokens_per_s"].items():
            tests[f"tg{bundle['new_tokens'][context]}@{context}"] = figure
        for test, figure in tests.items():
            peak = bundle["peak_memory_mb"]
            yield {
                "bundle": bundle["name"],
                **{name: bundle[name] for name in DESCRIBED},
                "load_s": bundle["load_s"]["median"],
                "peak_memory_mb": None if peak is None else peak["median"],
                "test": test,
                "tokens_per_s": figure["median"],
                **{name: figure[name] for name in ("plus_minus", "min", "max")},
                "rounds": report["rounds"],
                "disturbed_rounds": bundle["disturbed_rounds"],
            }


def with_interval(figure: Mapping[str, Any] | None) -> str:
    """Return the median with its interval, such as "123 ± 4"; a dash if there is no figure."""
    if figure is None:
        return NONE
    interval = figure["plus_minus"]
    shown = number(figure["median"])
    if interval is None:
        return shown
    digits = len(shown.partition(".")[2])
    return f"{shown} ± {interval:.{digits}f}"


def as_markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown, with numbers to the right but for the first column."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV (RFC 4180, but lines end in LF); the first row has all columns."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().removesuffix("\n")


def as_json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a JSON object for each row, each on a line of its own."""
    return "\n".join(json.dumps(row) for row in rows)
