"""The report of ``edgeseq bench``: medians and spread over rounds, and ratios within rounds.

A share of the read bandwidth refers to the bandwidth that the same round measured with as many
bytes as a decode step reads: on a shared machine the bandwidth changes from minute to minute. What
the decode steps themselves read per second is a lower limit of it, so no share is above 1.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from statistics import median, quantiles, stdev
from typing import Any

import numpy as np

from ..ort.cpu import (
    instructions,
    known_flags,
    logical_cores,
    physical_cores,
    processor,
    system,
)
from ..ort.devices import CPU
from ..ort.import_onnxruntime import onnxruntime
from .case import Case
from .machine import memory_bytes
from .rounds import Measurement, Round, is_disturbed

COMPARED = ("load_s", "first_token_ms", "tokens_per_s", "loop_overhead_ms", "peak_memory_mb")
NO_FIGURES = {"versions", "kernels"}  # items of a measurement that are texts
DIGITS = 6  # significant digits of each figure
# 0.975 quantiles of Student's t distribution for 1, 2, 3 and more degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16)


def report(cases: Sequence[Case], rounds: Sequence[Round]) -> dict[str, Any]:
    """Return all figures, ready for JSON.

    A figure is the result of ``statistics_of`` over all rounds, or None if the system does not
    provide it.
    """
    by_case = [
        [_completed(item, place, case) for item in rounds] for place, case in enumerate(cases)
    ]
    largest = max(range(len(cases)), key=lambda place: cases[place].reads[1])
    shares = [max((s for s in r.other_cpu_shares if s is not None), default=None) for r in rounds]
    machine = describe_machine(rounds[0].measurements[0]["versions"])
    return {
        "machine": {**machine, "threads": cases[0].threads},
        "rounds": len(rounds),
        # With the case that reads most, and beside the case that was disturbed most.
        "read_gb_per_s": statistics_of([r.read_bytes_per_s[largest] / 1e9 for r in rounds]),
        "other_cpu_share": over(statistics_of, shares),
        "other_programs": _busiest(rounds),
        "bundles": [
            {
                **_described(case),
                "kernels": rounds[0].measurements[place]["kernels"],
                "disturbed_rounds": sum(is_disturbed(r.other_cpu_shares[place]) for r in rounds),
                **over(statistics_of, measurements),
            }
            for place, (case, measurements) in enumerate(zip(cases, by_case, strict=True))
        ],
        "ratios_to_first": [
            {"name": case.name, **over(statistics_of, _ratios(measurements, by_case[0]))}
            for case, measurements in zip(cases[1:], by_case[1:], strict=True)
        ],
        "raw": {
            "bundles": [
                [over(lambda values: _rounded(values[0]), [m]) for m in measurements]
                for measurements in by_case
            ],
        },
    }


def _busiest(rounds: Sequence[Round]) -> dict[str, float]:
    """Return the programs that used the processors most, with the mean number of cores."""
    names = {name for item in rounds for name in item.busiest}
    cores = {n: sum(item.busiest.get(n, 0.0) for item in rounds) / len(rounds) for n in names}
    return {name: _rounded(cores[name]) for name in sorted(cores, key=lambda n: (-cores[n], n))[:3]}


def interval_of(values: Sequence[float]) -> float | None:
    """Return half the width of the 95 % confidence interval of the values' mean.

    None for one value. Source: Student's t distribution; its quantiles by degrees of freedom.
    """
    if len(values) < 2:
        return None
    quantile = T_975[min(len(values) - 2, len(T_975) - 1)]
    return _rounded(quantile * stdev(values) / math.sqrt(len(values)))


def statistics_of(values: Sequence[float]) -> dict[str, Any]:
    """Return median, extremes and quartiles, and the interval of ``interval_of``."""
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
    rounded: dict[str, Any] = {name: _rounded(value) for name, value in figures.items()}
    return {**rounded, "plus_minus": interval_of(values)}


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


def _completed(item: Round, place: int, case: Case) -> Measurement:
    """Return the figures of a case in a round, and figures derived from them.

    Devices other than the CPU have no share of the read bandwidth: they read their own memory.
    """
    measurement, read_gb_per_s = item.measurements[place], item.read_bytes_per_s[place] / 1e9
    speeds: dict[str, float] = measurement["tokens_per_s"]
    first_ms: dict[str, float] = measurement["first_token_ms"]
    # A step reads the weights once for all rows.
    gb_per_token = case.manifest.weights_per_token_bytes / 1e9 / case.workload.rows
    gb_per_s = {context: gb_per_token * speed for context, speed in speeds.items()}
    limit = max(read_gb_per_s, *gb_per_s.values(), 0.0)
    shares = {context: value / limit for context, value in gb_per_s.items()}
    contexts, rows = list(speeds), case.workload.rows
    return {
        **{name: value for name, value in measurement.items() if name not in NO_FIGURES},
        "prefill_tokens_per_s": {n: 1e3 * rows * int(n) / ms for n, ms in first_ms.items()},
        "read_gb_per_s": read_gb_per_s,
        "gb_per_s": gb_per_s,
        "share_of_read_bandwidth": shares if case.device.provider == CPU else {},
        "speed_to_first_context": {c: speeds[c] / speeds[contexts[0]] for c in contexts[1:]},
        "other_cpu_share": item.other_cpu_shares[place],
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
        "threads": case.threads,
        "rows": case.workload.rows,
        "beams": case.workload.beams,
        "repeats": case.workload.repeats,
        "new_tokens": {str(context): count for context, count in case.workload.new_tokens},
        "left_out": list(case.left_out),
    }


def describe_machine(versions: Mapping[str, str]) -> dict[str, Any]:
    """Return the system, the processor, the memory and the versions of packages."""
    return {
        "system": system(),
        "processor": processor(),
        "instructions": " ".join(known_flags(instructions())),
        "physical_cores": physical_cores(),
        "logical_cores": logical_cores(),
        "memory_gb": _rounded(memory_bytes() / 1e9),
        "edgeseq": version("edgeseq"),
        "python": platform.python_version(),
        **versions,
    }


def package_versions() -> dict[str, str]:
    """Return the versions of the ONNX Runtime and the numpy that compute."""
    return {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
