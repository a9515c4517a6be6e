"""Task templates: TOML files that users can read, copy and change.

A template names the ``fields`` of the prompt. For each kind of model it gives the ``prompt``, and
``options`` of ``generate`` or ``labels`` to choose between. docs/how-to/tasks.md describes each
key.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ..bundle.manifest import Kind
from ..errors import OptionError, PromptError, reason

TEMPLATES = Path(__file__).parent
SUFFIX = ".toml"
FIELD = re.compile(r"\{(\w+)\}")
HEAD_KEYS = {"title", "fields", "defaults", "metrics"}
FORM_KEYS = {"prompt", "labels", "strip", "options", "translates"}


@dataclass(frozen=True, kw_only=True)
class Form:
    """A template's prompt and options for one kind of model."""

    prompt: str  # prompt with fields in braces
    options: Mapping[str, Any]
    labels: Mapping[str, str]  # label -> text that is scored; empty: text is generated
    strip: bool  # whether to remove whitespace around an answer
    translates: bool  # whether the answer is a translation, sentence by sentence


@dataclass(frozen=True, kw_only=True)
class Template:
    """A task template, read from a file."""

    name: str
    title: str
    fields: Sequence[str]
    defaults: Mapping[str, str]
    forms: Mapping[Kind, Form]
    metrics: Sequence[str] = ()  # what an evaluation computes, the most telling one first

    def form(self, kind: Kind) -> Form:
        """Return the form for models of ``kind``; raise ``OptionError`` if there is none."""
        if kind not in self.forms:
            raise OptionError(
                f"The task {self.name} is for {' and '.join(self.forms)} models, but this model is "
                f"{kind}: use another task or model."
            )
        return self.forms[kind]

    def prompt(self, kind: Kind, values: Mapping[str, str]) -> str:
        """Return the prompt for models of ``kind``; raise ``PromptError`` for a missing field."""
        filled = {**self.defaults, **values}
        for name in self.fields:
            if not isinstance(filled.get(name), str):
                found = (
                    f"{name} is {filled[name]!r:.60}" if name in filled else f"{name} is missing"
                )
                raise PromptError(
                    f"{found}; the task {self.name} needs a string for each of "
                    f"{', '.join(self.fields)}."
                )
            check_characters(name, filled[name])
        return FIELD.sub(lambda found: filled[found[1]], self.form(kind).prompt)


def check_characters(name: str, text: str) -> None:
    """Raise ``PromptError`` for a text that cannot be encoded as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{name} has a lone surrogate, which is not a character: remove it from {text!r:.60}."
        ) from error


def template_names() -> list[str]:
    """Return the names of the templates that come with edgeseq."""
    return sorted(path.stem for path in TEMPLATES.glob(f"*{SUFFIX}"))


def template_path(task: str | os.PathLike[str]) -> Path:
    """Return the file of a template, given by its name or by a path that ends in ``.toml``.

    Raises ``OptionError`` if there is none.
    """
    given: Any = task
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
    if text.endswith(SUFFIX):
        if Path(text).is_file():
            return Path(text)
        raise OptionError(f"There is no template file {text}: pass the path of an existing file.")
    if text not in template_names():
        raise OptionError(
            f"There is no task {task!r:.60}: use {', '.join(template_names())}, or the path of "
            f"your own template (NAME{SUFFIX})."
        )
    return TEMPLATES / f"{text}{SUFFIX}"


def read_template(task: str | os.PathLike[str]) -> Template:
    """Return a template, given by its name or by a path; raise ``OptionError`` for a wrong one."""
    path = template_path(task)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # errors of TOML, and text that is not UTF-8
        raise OptionError(f"{path} cannot be read as a template: {reason(error)}.") from error
    kinds = {name: content.pop(name) for name in get_args(Kind) if name in content}
    _check_keys(path, content, HEAD_KEYS)
    names = content.get("fields", ["text"])
    defaults = content.get("defaults", {})
    if not isinstance(names, list) or not names or not all(map(_is_field, names)):
        raise OptionError(f"{path}: fields is {names!r:.60}; it must be a list of words.")
    if not _is_texts(defaults) or not defaults.keys() <= set(names):
        raise OptionError(
            f"{path}: defaults must be a table of strings for some of the fields "
            f"({', '.join(names)})."
        )
    metrics = content.get("metrics", [])
    if not isinstance(metrics, list) or not all(isinstance(name, str) for name in metrics):
        raise OptionError(f"{path}: metrics is {metrics!r:.60}; it must be a list of strings.")
    if not kinds:
        raise OptionError(f"{path} needs a table {' or '.join(get_args(Kind))}: add one of them.")
    return Template(
        name=path.stem,
        title=str(content.get("title", path.stem)),
        fields=names,
        defaults=defaults,
        metrics=metrics,
        forms={kind: _form(path, kind, found, names) for kind, found in kinds.items()},
    )


def _form(path: Path, kind: str, content: Any, names: Sequence[str]) -> Form:
    if not isinstance(content, dict):
        raise OptionError(f"{path}: {kind} must be a table.")
    _check_keys(path, content, FORM_KEYS, f"{kind}.")
    prompt, options = content.get("prompt"), content.get("options", {})
    labels, strip = content.get("labels", {}), content.get("strip", True)
    translates = content.get("translates", False)
    if not isinstance(prompt, str):
        raise OptionError(f"{path}: {kind}.prompt must be a string.")
    for name in FIELD.findall(prompt):
        if name not in names:
            raise OptionError(
                f"{path}: {kind}.prompt has {{{name}}}, but the fields are {', '.join(names)}: add "
                f"{name} to fields."
            )
    if not isinstance(options, dict):
        raise OptionError(f"{path}: {kind}.options must be a table.")
    if not _is_texts(labels) or ("labels" in content and len(labels) < 2):
        raise OptionError(f"{path}: {kind}.labels must be a table of at least two strings.")
    if "" in labels.values() or len({*labels.values()}) < len(labels):
        raise OptionError(f"{path}: {kind}.labels must have different strings, none of them empty.")
    if "choices" in options:
        raise OptionError(f"{path}: {kind}.options has choices: use {kind}.labels instead.")
    if labels and options:
        raise OptionError(f"{path}: {kind}.options has no effect with labels: remove one of them.")
    for name, value in (("strip", strip), ("translates", translates)):
        if not isinstance(value, bool):
            raise OptionError(f"{path}: {kind}.{name} must be true or false.")
    if translates and kind != "encoder-decoder":
        raise OptionError(f"{path}: {kind}.translates has no effect: move it to encoder-decoder.")
    if translates and labels:
        raise OptionError(f"{path}: {kind}.labels has no effect with translates: remove one.")
    return Form(prompt=prompt, options=options, labels=labels, strip=strip, translates=translates)


def _check_keys(path: Path, content: Mapping[str, Any], known: set[str], where: str = "") -> None:
    if unknown := sorted(content.keys() - known):
        raise OptionError(
            f"{path} has the unknown key {where}{unknown[0]}: use {', '.join(sorted(known))}."
        )


def _is_field(value: Any) -> bool:
    return isinstance(value, str) and FIELD.fullmatch(f"{{{value}}}") is not None


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
