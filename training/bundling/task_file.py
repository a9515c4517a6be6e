"""The task template of a trained model, so that ``edgeseq run`` writes prompts as in training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.bundle.manifest import Kind
from ...runtime.tasks.templates import FIELD
from ..template import Template

TASK_FILE = "task.toml"


def write_task(
    out: Path,
    template: Template,
    kind: Kind,
    *,
    max_new_tokens: int | None = None,
    labels: Sequence[str] = (),
) -> Path:
    """Write ``out/task.toml`` for a model that was trained on pairs; return its path.

    ``max_new_tokens``: the limit of an answer; None for the bundle's default. ``labels``: the
    targets, if they are labels to choose from; generation options then have no effect.
    """
    settings = template.data
    # The prefix may have what looks like a field in braces, so such a text becomes a field.
    parts = {"prefix": settings.source_prefix, "text": "{text}", "separator": settings.separator}
    if kind == "encoder-decoder":
        del parts["separator"]
    fixed = {name: text for name, text in parts.items() if name != "text" and FIELD.search(text)}
    prompt = "".join(f"{{{name}}}" if name in fixed else text for name, text in parts.items())
    form: dict[str, Any] = {"prompt": prompt}
    options: dict[str, Any] = {}
    if len(labels) > 1:
        form["labels"] = {label: label for label in labels}
    else:
        options["do_sample"] = False
        if max_new_tokens is not None:
            options["max_new_tokens"] = max_new_tokens
    lines = [
        "# The prompts of the training, for: edgeseq run task.toml --bundle bundle TEXT",
        f"title = {_toml(template.title)}",
        f"fields = {_toml(['text', *fixed])}",
    ]
    if fixed:
        lines.append(f"defaults = {_toml(fixed)}")
    lines += ["", f"[{kind}]", *(f"{name} = {_toml(value)}" for name, value in form.items())]
    if options:
        lines += ["", f"[{kind}.options]"]
        lines += [f"{name} = {_toml(value)}" for name, value in options.items()]
    path = out / TASK_FILE
    path.write_text("\n".join([*lines, ""]), encoding="utf-8", newline="\n")
    return path


def _toml(value: Any) -> str:
    """Return a value of TOML, whose strings are those of JSON."""
    if isinstance(value, Mapping):
        items = (f"{_toml(name)} = {_toml(item)}" for name, item in value.items())
        return f"{{ {', '.join(items)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
