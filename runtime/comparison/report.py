"""The report of ``edgeseq compare``: what was measured of each bundle, in one object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..bench.case import names_of
from ..evaluation.answers import Answers
from ..evaluation.data import Data, read_data
from ..evaluation.metrics import METRICS
from ..evaluation.quality import Quality, Readings, difference_of, quality, read_all
from ..loading import load
from ..model import Model

FIRST_TOKEN = 32  # tokens of the prompt before the time to the first token
CONTEXT = 1  # tokens in front of those whose decode speed is measured, as in llama-bench


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The quality of a bundle."""

    folder: Path
    described: Mapping[str, Any]
    readings: Readings
    quality: Quality
    remarks: Sequence[str]


def evaluate_all(
    folders: Sequence[Path],
    reference: int,
    path: Path,
    metrics: Callable[[Data], Sequence[str]],
    given: Mapping[str, Any],
    loading: Mapping[str, Any],
    max_new_tokens: int | None = None,
) -> tuple[list[Evaluated], Data]:
    """Return the quality of each bundle, and the data as the reference reads it.

    ``reference``: index of the bundle that the others are compared with. ``metrics``: the function
    from the data to the names of their metrics. ``given``: arguments of
    ``read_data``; ``loading``: arguments of ``load``. Besides the reference, one bundle is loaded
    at a time.
    """
    names, kv_cache = names_of(folders), loading.get("kv_cache")
    with load(folders[reference], **loading) as other:
        data = read_data(path, other, **given)
        chosen = metrics(data)
        readings = read_all(other, data, max_new_tokens=max_new_tokens)
        found = {
            reference: _evaluated(
                names[reference], other, data, readings, chosen, None, [], kv_cache
            )
        }
        for place, folder in enumerate(folders):
            if place == reference:
                continue
            with load(folder, **loading) as model:
                remarks = []
                what = difference_of(model.bundle.manifest, other.bundle.manifest)
                if what is not None:
                    remarks.append(
                        f"{names[place]}: its {what} differs from the reference's, so perplexities "
                        "per token are not comparable and there is no KL divergence: compare the "
                        "bits per byte."
                    )
                own = read_data(path, model, **given)
                beside = other if what is None else None
                read = read_all(model, own, beside, max_new_tokens=max_new_tokens)
                found[place] = _evaluated(
                    names[place], model, own, read, chosen, readings.answers, remarks, kv_cache
                )
    return [found[place] for place in range(len(folders))], data


def _evaluated(
    name: str,
    model: Model,
    data: Data,
    readings: Readings,
    metrics: Sequence[str],
    reference: Answers | None,
    remarks: list[str],
    kv_cache: str | None,
) -> Evaluated:
    manifest = model.bundle.manifest
    if readings.answers is not None and readings.answers.cut:
        limit = readings.answers.limit
        where = "their limit" if limit is None else f"{limit} new tokens"
        remarks.append(
            f"{name}: {readings.answers.cut} of {len(data.examples)} answers were cut off at "
            f"{where}: use --max-new-tokens for longer ones."
        )
    return Evaluated(
        folder=model.bundle.folder,
        described={
            "name": name,
            "architecture": manifest.architecture,
            "recipe": manifest.quantization.recipe,
            "kv_cache": kv_cache or manifest.kv_cache.dtype,
            "kernels": model.kernels,
            "size_mb": sum(file.size_bytes for file in manifest.files.values()) / 1e6,
        },
        readings=readings,
        quality=quality(readings, data, metrics, reference),
        remarks=remarks,
    )


def compare_report(
    evaluated: Sequence[Evaluated],
    reference: int,
    speed: Mapping[str, Any] | None,
    machine: Mapping[str, Any],
    told: Mapping[str, Any],
    prompts: Sequence[int],
    new_tokens: int,
) -> dict[str, Any]:
    """Return all figures, ready for JSON.

    ``speed``: the report of ``edgeseq bench`` on the same bundles; None without speeds. ``told``:
    what the data are. ``prompts``: lengths of the prompts whose prefill speed is shown.
    """
    measured = [{}] * len(evaluated) if speed is None else speed["bundles"]
    return {
        "machine": dict(machine),
        "other_programs": {} if speed is None else speed["other_programs"],
        "rounds": 0 if speed is None else speed["rounds"],
        "data": dict(told),
        "reference": evaluated[reference].described["name"],
        "prompts": list(prompts) if speed is not None else [],
        "new_tokens": new_tokens,
        "metrics": {
            name: {"title": metric.title, "is_better_high": metric.is_better_high}
            | {"is_share": metric.is_share}
            for name, metric in METRICS.items()
            if name in evaluated[reference].quality.metrics
        },
        "bundles": [
            {
                **bundle.described,
                "is_reference": place == reference,
                **_speeds(found, new_tokens),
                **_qualities(bundle),
            }
            for place, (bundle, found) in enumerate(zip(evaluated, measured, strict=True))
        ],
    }


def _speeds(found: Mapping[str, Any], new_tokens: int) -> dict[str, Any]:
    """Return the speeds and the memory of a bundle from its entry in the report of ``bench``."""
    if not found:
        return {"remarks_of_speed": [], "disturbed_rounds": 0}
    context = str(CONTEXT)
    remarks = list(found["left_out"])
    counted = found["new_tokens"].get(context)
    if counted is not None and counted < new_tokens:
        remarks.append(
            f"{found['name']}: the decode speed is that of {counted} new tokens, because the model "
            "has no more positions."
        )
    return {
        "load_s": found["load_s"],
        "first_token_ms": found["first_token_ms"].get(str(FIRST_TOKEN)),
        "prefill_tokens_per_s": found["prefill_tokens_per_s"],
        "decode_tokens_per_s": found["tokens_per_s"].get(context),
        "share_of_read_bandwidth": found["share_of_read_bandwidth"].get(context),
        "peak_memory_mb": found["peak_memory_mb"],
        "threads": found["threads"],
        "other_cpu_share": found["other_cpu_share"],
        "disturbed_rounds": found["disturbed_rounds"],
        "remarks_of_speed": remarks,
    }


def _qualities(bundle: Evaluated) -> dict[str, Any]:
    found, readings = bundle.quality, bundle.readings
    return {
        "tokens": readings.loss.tokens,
        "cross_entropy": readings.loss.cross_entropy,
        "perplexity": asdict(found.perplexity),
        "bits_per_byte": readings.bits_per_byte,
        "kl_divergence": None if found.kl_divergence is None else asdict(found.kl_divergence),
        "top1_agreement": None if found.top1_agreement is None else asdict(found.top1_agreement),
        "metrics": {name: asdict(figure) for name, figure in found.metrics.items()},
        "confusion": None if readings.confusion is None else asdict(readings.confusion),
        "cut_off": None if readings.answers is None else readings.answers.cut,
        "remarks": list(bundle.remarks),
    }
