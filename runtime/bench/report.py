"""The report of ``edgeseq bench``: medians and spread over rounds, and ratios within rounds.

A share of the read bandwidth refers to the bandwidth that the same round measured: on a shared
machine the bandwidth changes from minute to minute.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from ..ort.cpu import logical_cores, physical_cores, processor, system
from ..ort.devices import CPU
from .case import Case
from .rounds import Measurement, Round

COMPARED = ("load_s", "first_token_ms", "tokens_per_s", "loop_overhead_ms", "peak_memory_mb")
NO_FIGURES = {"versions", "kernels"}  # items of a measurement that are texts
DIGITS = 6  # significant digits of each figure


def report(cases: Sequence[Case], rounds: Sequence[Round], threads: int) -> dict[str, Any]:
    """Return all figures, ready for JSON.

    ``threads``: how many threads measured the read bandwidth. A figure is the result of
    ``statistics_of`` over all rounds, or None if the system does not provide it.
    """
    read = [item.read_bytes_per_s / 1e9 for item in rounds]
    by_case = [
        [
            _completed(item.measurements[place], case, gb_per_s)
            for item, gb_per_s in zip(rounds, read, strict=True)
        ]
        for place, case in enumerate(cases)
    ]
    others = [item.other_cpu_share for item in rounds]
    return {
        "machine": _machine(rounds[0].measurements[0]["versions"], threads),
        "rounds": len(rounds),
        "read_gb_per_s": statistics_of(read),
        "other_cpu_share": over(statistics_of, others),
        "bundles": [
            {
                **_described(case),
                "kernels": rounds[0].measurements[place]["kernels"],
                **over(statistics_of, measurements),
            }
            for place, (case, measurements) in enumerate(zip(cases, by_case, strict=True))
        ],
        "ratios_to_first": [
            {"name": case.name, **over(statistics_of, _ratios(measurements, by_case[0]))}
            for case, measurements in zip(cases[1:], by_case[1:], strict=True)
        ],
        "raw": {
            "read_gb_per_s": [_rounded(value) for value in read],
            "other_cpu_share": [over(lambda values: _rounded(values[0]), [s]) for s in others],
            "bundles": [
                [over(lambda values: _rounded(values[0]), [m]) for m in measurements]
                for measurements in by_case
            ],
        },
    }


def statistics_of(values: Sequence[float]) -> dict[str, float]:
    """Return median, extremes and quartiles."""
    quartile_1, _, quartile_3 = (
        quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    )
    figures = {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "quartile_1": quartile_1,
        "quartile_3": quartile_3,
    }
    return {name: _rounded(value) for name, value in figures.items()}


def over(function: Callable[[Sequence[float]], Any], values: Sequence[Any]) -> Any:
    """Apply ``function`` to each figure across ``values``.

    ``values``: numbers, or nested mappings of numbers. The result is nested in the same way. It is
    None where one value is None, and has no key that a value lacks.
    """
    first = values[0]
    if any(value is None for value in values):
        return None
    if isinstance(first, Mapping):
        keys = [key for key in first if all(key in value for value in values)]
        return {key: over(function, [value[key] for value in values]) for key in keys}
    return function(values)


def _completed(measurement: Measurement, case: Case, read_gb_per_s: float) -> Measurement:
    """Return a measurement's figures, and figures derived from them.

    Devices other than the CPU have no share of the read bandwidth: they read their own memory.
    """
    speeds: dict[str, float] = measurement["tokens_per_s"]
    weights_gb = case.manifest.weights_per_token_bytes / 1e9
    gb_per_s = {context: weights_gb * speed for context, speed in speeds.items()}
    shares = {context: value / read_gb_per_s for context, value in gb_per_s.items()}
    contexts = list(speeds)
    return {
        **{name: value for name, value in measurement.items() if name not in NO_FIGURES},
        "gb_per_s": gb_per_s,
        "share_of_read_bandwidth": shares if case.device.provider == CPU else {},
        "speed_to_first_context": {c: speeds[c] / speeds[contexts[0]] for c in contexts[1:]},
    }


def _ratios(measurements: Sequence[Any], first: Sequence[Any]) -> list[Any]:
    """Return the figures of ``measurements`` divided by the figures of ``first``, by round."""
    return [
        over(lambda pair: pair[0] / pair[1], [{n: item[n] for n in COMPARED} for item in pair])
        for pair in zip(measurements, first, strict=True)
    ]


def _described(case: Case) -> dict[str, Any]:
    manifest = case.manifest
    return {
        "name": case.name,
        "architecture": manifest.architecture,
        "device": case.device.name,
        "recipe": manifest.quantization.recipe,
        "kv_cache": manifest.kv_cache.dtype,
        "size_mb": _rounded(sum(file.size_bytes for file in manifest.files.values()) / 1e6),
        "weights_per_token_mb": _rounded(manifest.weights_per_token_bytes / 1e6),
        "repeats": case.workload.repeats,
        "new_tokens": {str(context): count for context, count in case.workload.new_tokens},
        "left_out": list(case.left_out),
    }


def _machine(versions: Mapping[str, str], threads: int) -> dict[str, Any]:
    return {
        "system": system(),
        "processor": processor(),
        "physical_cores": physical_cores(),
        "logical_cores": logical_cores(),
        "threads": threads,
        "python": platform.python_version(),
        **versions,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
