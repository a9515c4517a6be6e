"""The model card of a trained bundle: its data, template and held-out figures, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...runtime.bundle.manifest import Manifest
from ..data import FileFacts
from ..template import Template, to_toml
from .loss_table import COLUMNS, Figures, markdown_table

PIPELINES = {"decoder-only": "text-generation", "encoder-decoder": "text2text-generation"}
METRICS = ("perplexity", "exact_match", "word_error_rate", "character_error_rate")
TRAINERS = ("edgeseq", "torch", "transformers", "accelerate", "peft")


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a card says of a run besides its template."""

    base: str | None  # name or Hub id of the base checkpoint; None: from scratch
    files: Sequence[FileFacts]
    held_out_files: Sequence[FileFacts] = ()  # empty: a share of `files` was held out
    training_examples: int
    held_out_examples: int
    figures: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # of the run


def model_card(
    name: str,
    template: Template,
    facts: RunFacts,
    manifest: Manifest,
    stages: Mapping[str, Figures],
    measured_on: str,
) -> str:
    """Return the text of the card.

    ``stages``: figures of the checkpoint and of each bundle, the last one of this bundle.
    ``measured_on``: what the figures are of, such as "200 held-out pairs".
    """
    base = facts.base and _name_of(facts.base)
    origin = f"fine-tuned from `{base}`" if base else "trained from scratch"
    recipe = manifest.quantization.recipe
    stored = "in float32" if recipe == "fp32" else f"quantized with the recipe `{recipe}`"
    lines = [
        *_front_matter(name, facts, manifest, [*stages.values()][-1]),
        f"# {name}",
        "",
        f"A {manifest.architecture} model, {origin} with `edgeseq train`, template "
        f"`{template.name}`. This folder is a bundle of edgeseq, {stored}.",
        "",
        "## Data",
        "",
        *_data(template, facts),
        "",
        "## Held-out figures",
        "",
        f"On {measured_on}, which were not trained on. The loss is in nats per token.",
        "",
        *markdown_table(stages),
        "",
        *_gate(manifest),
        "## Training",
        "",
        *_figures_of_run(facts.figures),
        "",
        f"Made with {', '.join(_versions())}. All settings:",
        "",
        "```toml",
        *to_toml(_without_paths(template)).splitlines(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _front_matter(name: str, facts: RunFacts, manifest: Manifest, figures: Figures) -> list[str]:
    pipeline = PIPELINES[manifest.kind]
    lines = ["---", "library_name: edgeseq", f"pipeline_tag: {pipeline}", "tags: [edgeseq, onnx]"]
    if facts.base and not Path(facts.base).is_dir():
        lines.append(f"base_model: {json.dumps(facts.base, ensure_ascii=False)}")
    held_out = ", ".join(f.name for f in facts.held_out_files or facts.files)
    lines += [
        "model-index:",
        f"- name: {json.dumps(name, ensure_ascii=False)}",
        "  results:",
        f"  - task: {{type: {pipeline}}}",
        f"    dataset: {{name: {json.dumps(held_out, ensure_ascii=False)}, type: held-out}}",
        "    metrics:",
    ]
    lines += [
        f"    - {{type: {metric}, value: {figures[metric]:.6g}}}"
        for metric in METRICS
        if metric in figures
    ]
    return [*lines, "---", ""]


def _data(template: Template, facts: RunFacts) -> list[str]:
    held_out = (
        "from files of their own"
        if facts.held_out_files
        else f"chosen at random with seed {template.data.seed}"
    )
    rows = [("training", item) for item in facts.files]
    rows += [("held-out", item) for item in facts.held_out_files]
    return [
        "| file | use | rows | bytes | SHA-256 |",
        "|---|---|--:|--:|---|",
        *(
            f"| `{item.name}` | {use} | {item.rows:,} | {item.bytes:,} | `{item.sha256}` |"
            for use, item in rows
        ),
        "",
        f"{facts.training_examples:,} examples for training, {facts.held_out_examples:,} held out "
        f"({held_out}).",
    ]


def _gate(manifest: Manifest) -> list[str]:
    quality = manifest.quantization.quality
    if quality is None:
        return []
    return [
        f"One half of `{quality.text}` calibrated the quantization. On the other half "
        f"({quality.tokens:,} tokens), the perplexity differs from the float32 bundle's by "
        f"{quality.perplexity_rise:+.2%} (limit {quality.perplexity_rise_limit:+.2%}), and the "
        f"most probable token is the same at {quality.top1_agreement:.1%} of the positions.",
        "",
    ]


def _figures_of_run(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures that the table of stages does not have."""
    return [
        f"- {name.replace('_', ' ')}: {value:.6g}"
        if isinstance(value, float)
        else f"- {name.replace('_', ' ')}: {value}"
        for name, value in figures.items()
        if isinstance(value, str | int | float) and name not in {*COLUMNS, "loss"}
    ]


def _name_of(place: str) -> str:
    """Return the name of a folder, whose path says nothing to others; else a Hub id as it is."""
    return Path(place).name if Path(place).is_dir() else place


def _without_paths(template: Template) -> Template:
    groups = ({**template.model}, {**template.tokenizer})
    for group, key in zip(groups, ("base", "path"), strict=True):
        if key in group:
            group[key] = _name_of(group[key])
    return replace(template, model=groups[0], tokenizer=groups[1])


def _versions() -> list[str]:
    found = []
    for package in TRAINERS:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found
