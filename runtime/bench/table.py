"""The report of ``edgeseq bench`` as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOT_AVAILABLE = "not available"
DIGITS = 3
LABEL_WIDTH = 42
# The rows in order: a figure's key, its label, and the factor of its numbers.
ROWS = {
    "load_s": ("load time, s", 1.0),
    "first_token_ms": ("time to first token, {} tokens, ms", 1.0),
    "prefill_tokens_per_s": ("prefill speed, {} tokens, tokens/s", 1.0),
    "tokens_per_s": ("decode speed at {} tokens, tokens/s", 1.0),
    "speed_to_first_context": ("decode speed at {} vs {first} tokens, %", 100.0),
    "gb_per_s": ("weights read at {} tokens, GB/s", 1.0),
    "share_of_read_bandwidth": ("share of read bandwidth at {} tokens, %", 100.0),
    "loop_overhead_ms": ("loop overhead at {} tokens, ms/token", 1.0),
    "peak_memory_mb": ("peak memory, MB", 1.0),
}


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the table: each figure of each bundle with its spread."""
    yield from _head(report)
    bundles = report["bundles"]
    ratios = [{}, *report["ratios_to_first"]]
    width = max(6, *(len(bundle["name"]) for bundle in bundles))
    title = f"{'':{LABEL_WIDTH}}{'bundle':{width}} {'median':>9} {'min':>9} {'max':>9}"
    yield title + (f" {'vs first':>9}" if len(bundles) > 1 else "")
    first = next((context for bundle in bundles for context in bundle["tokens_per_s"]), "")
    for key, (label, factor) in ROWS.items():
        for length in _lengths(bundles, key):
            shown = label.format(length, first=first)
            for bundle, ratio in zip(bundles, ratios, strict=True):
                if length is not None and length not in bundle[key]:
                    continue
                figure = _figure(bundle, key, length)
                line = f"{shown:{LABEL_WIDTH}}{bundle['name']:{width}} {_columns(figure, factor)}"
                yield line + _ratio(_figure(ratio, key, length))
                shown = ""
    yield from remarks(report)


def remarks(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each bundle that other programs disturbed, and for each left out."""
    for bundle in report["bundles"]:
        if bundle["disturbed_rounds"]:
            yield (
                f"{bundle['name']}: other programs disturbed {bundle['disturbed_rounds']} of "
                f"{report['rounds']} rounds: close them and measure again."
            )
        yield from bundle["left_out"]


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    yield from machine_lines(report)
    yield f"rounds: {report['rounds']}"
    for bundle in report["bundles"]:
        others = bundle["other_cpu_share"]
        yield (
            f"{bundle['name']}: {bundle['recipe']} on {bundle['device']}, {bundle['kv_cache']} KV "
            f"cache, {bundle['kernels']} kernels, threads: {bundle['threads']}, "
            f"{number(bundle['size_mb'])} MB; a decode step reads "
            f"{number(bundle['weights_per_token_mb'])} MB of weights; read bandwidth "
            f"{number(bundle['read_gb_per_s']['median'])} GB/s; CPU use of other programs: "
            + (NOT_AVAILABLE if others is None else f"{100 * others['median']:.0f} %")
        )
    yield ""


def machine_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines that describe the machine, the versions and the other programs."""
    machine, others = report["machine"], report["other_programs"]
    yield (
        f"{machine['processor']}, {machine['physical_cores']} cores "
        f"({machine['logical_cores']} logical), {number(machine['memory_gb'])} GB, "
        f"{machine['system']}"
    )
    yield f"instructions: {machine['instructions'] or NOT_AVAILABLE}"
    yield (
        f"edgeseq {machine['edgeseq']}, Python {machine['python']}, onnxruntime "
        f"{machine['onnxruntime']}, numpy {machine['numpy']}"
    )
    if others:
        used = ", ".join(f"{name} ({cores:.2f} cores)" for name, cores in others.items())
        yield f"other programs: {used}"


def _lengths(bundles: Any, key: str) -> list[str | None]:
    """Return the lengths for which a bundle has a figure; [None] for a figure without lengths."""
    figures = [bundle[key] for bundle in bundles]
    if any(figure is None or "median" in figure for figure in figures):
        return [None]
    return sorted({length for figure in figures for length in figure}, key=int)


def _figure(item: Mapping[str, Any], key: str, length: str | None) -> Any:
    figure = item.get(key)
    return figure if figure is None or length is None else figure.get(length)


def _columns(figure: Mapping[str, float] | None, factor: float) -> str:
    if figure is None:
        return f"{NOT_AVAILABLE:>29}"
    return " ".join(f"{number(factor * figure[n]):>9}" for n in ("median", "min", "max"))


def _ratio(figure: Mapping[str, float] | None) -> str:
    return "" if figure is None else f" {figure['median']:>8.2f}×"


def number(value: float) -> str:
    """Format with three significant digits, but with all digits of the integer part."""
    return f"{value:.0f}" if abs(value) >= 10**DIGITS else f"{value:#.{DIGITS}g}".rstrip(".")
