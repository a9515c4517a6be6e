"""Training templates: TOML files that users can list, read, copy and change.

A template has five groups. ``model``, ``trainer`` and ``peft`` hold names and values of
Transformers' configurations, of its ``TrainingArguments`` and of peft's ``LoraConfig``;
``tokenizer`` and ``data`` are edgeseq's own. docs/guides/train.md describes each setting.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from ..runtime.errors import OptionError, nearest, reason
from ..runtime.tables.table import FORMATS

TEMPLATES = Path(__file__).parent / "templates"
SUFFIX = ".toml"
GROUPS = ("model", "tokenizer", "data", "trainer", "peft")
HEAD_KEYS = ("name", "title")
ALGORITHMS = ("bpe", "unigram")
TOKENIZER_FLAGS = ("split_digits", "lowercase")
TOKENIZER_KEYS = ("algorithm", "vocab_size", *TOKENIZER_FLAGS, "path")
NAME = re.compile(r"[A-Za-z_]\w*")
Form = Literal["text", "pairs"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How examples are read from files, split and cut; the group ``data`` of a template.

    Raises ``OptionError`` for a value of the wrong type or out of range.
    """

    form: Form  # documents of text, or pairs of a source and a target
    format: str | None = None  # of the files: one of FORMATS; None: by their suffixes
    text_column: str = "text"
    source_column: str = "source"
    target_column: str = "target"
    source_prefix: str = ""  # before each source, such as T5's "translate English to German: "
    labels: bool = False  # whether the targets are labels, of which each answer is one
    separator: str = "\n"  # between source and target, for decoder-only models
    document_separator: str | None = None  # between the documents of a plain text
    held_out: float = 0.1  # share of the rows, or of the text
    held_out_limit: int = 2000  # rows or passages that are held out at most
    seed: int = 0  # of the split
    max_unusable: float = 0.01  # share of the rows that may be unusable
    max_source_length: int | None = None  # tokens; None: as long as the model allows
    max_target_length: int | None = None  # tokens; None: as long as the model allows
    block_size: int | None = None  # tokens of a window of text; None: as the model allows

    def __post_init__(self) -> None:
        for name, kind in _DATA_TYPES.items():
            value = getattr(self, name)
            if float in kind and type(value) is int:
                value = float(value)
                object.__setattr__(self, name, value)
            if type(value) not in kind:
                raise OptionError(f"data.{name} is {value!r:.60}; it must be {_SPOKEN[kind[0]]}.")
        _check_choice("data.form", self.form, get_args(Form))
        if self.format is not None:
            _check_choice("data.format", self.format, FORMATS)
        for name in ("text_column", "source_column", "target_column"):
            if not getattr(self, name):
                raise OptionError(f"data.{name} is empty; it must be the name of a column.")
        if self.source_column == self.target_column:
            raise OptionError(
                f"data.source_column and data.target_column are both {self.source_column!r:.60}: "
                "name two columns."
            )
        if self.document_separator == "":
            raise OptionError("data.document_separator is empty: give a string, or leave it out.")
        if self.form == "pairs" and self.document_separator is not None:
            raise OptionError("data.document_separator has no effect with pairs: leave it out.")
        if self.form == "text" and self.labels:
            raise OptionError("data.labels has no effect with text: leave it out.")
        if not 0 < self.held_out < 1:
            raise OptionError(
                f"data.held_out is {self.held_out}; it must be a share above 0 and below 1."
            )
        if not 0 <= self.max_unusable <= 1:
            raise OptionError(
                f"data.max_unusable is {self.max_unusable}; it must be a share from 0 to 1."
            )
        for name in ("held_out_limit", "max_source_length", "max_target_length", "block_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"data.{name} is {value}; it must be at least 1.")


_SPOKEN: Mapping[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


def _types(hint: Any) -> tuple[type, ...]:
    """Return the types of a setting, its main type first."""
    if hint == Form:
        return (str,)
    return get_args(hint) or (hint,)


_DATA_TYPES = {name: _types(hint) for name, hint in get_type_hints(DataSettings).items()}


@dataclass(frozen=True, kw_only=True)
class Template:
    """A training template: all settings of a run but its files.

    Raises ``OptionError`` for settings that do not belong together.
    """

    name: str
    title: str
    model: Mapping[str, Any]  # `base`: a checkpoint; or `model_type` and keys of its configuration
    tokenizer: Mapping[str, Any]  # `algorithm` and `vocab_size`, or `path`; empty: the base's
    data: DataSettings
    trainer: Mapping[str, Any]  # names of (Seq2Seq)TrainingArguments, and edgeseq's own
    peft: Mapping[str, Any]  # names of LoraConfig; empty: no LoRA

    def __post_init__(self) -> None:
        _check_model(self)
        _check_tokenizer(self)

    @property
    def from_scratch(self) -> bool:
        """Whether the model begins with random weights instead of a base."""
        return "model_type" in self.model


def template_names() -> list[str]:
    """Return the names of the templates that come with edgeseq."""
    return sorted(path.stem for path in TEMPLATES.glob(f"*{SUFFIX}"))


def template_path(template: str | os.PathLike[str]) -> Path:
    """Return the file of a template, given by its name or by a path that ends in ``.toml``.

    Raises ``OptionError`` if there is none.
    """
    given: Any = template
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else ""
    if text.endswith(SUFFIX):
        if Path(text).is_file():
            return Path(text)
        raise OptionError(f"There is no template file {text}: pass the path of an existing file.")
    names = template_names()
    if text not in names:
        close = nearest(text, names)
        hint = f"did you mean {close}" if close else f"use {', '.join(names)}"
        raise OptionError(
            f"There is no template {given!r:.60}: {hint}, or the path of your own (NAME{SUFFIX})."
        )
    return TEMPLATES / f"{text}{SUFFIX}"


def read_template(template: str | os.PathLike[str]) -> Template:
    """Return a template, given by its name or by a path; raise ``OptionError`` for a wrong one."""
    path = template_path(template)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # errors of TOML, and text that is not UTF-8
        raise OptionError(f"{path} cannot be read as a template: {reason(error)}.") from error
    try:
        return _template(content, path.stem)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error


def _template(content: Mapping[str, Any], name: str) -> Template:
    known = (*HEAD_KEYS, *GROUPS)
    for key, value in content.items():
        if key not in known:
            raise OptionError(f"There is no key {key!r:.60} here: {_meant(key, known)}.")
        if key in GROUPS and not isinstance(value, dict):
            raise OptionError(f"{key} must be a table.")
        if key in HEAD_KEYS and not isinstance(value, str):
            raise OptionError(f"{key} is {value!r:.60}; it must be a string.")
    groups = {group: content.get(group, {}) for group in GROUPS}
    for group, values in groups.items():
        for key, value in values.items():
            _check_value(f"{group}.{key}", value)
    return Template(
        name=content.get("name", name),
        title=content.get("title", name),
        data=_data_settings(groups.pop("data")),
        **groups,
    )


def _data_settings(values: Mapping[str, Any]) -> DataSettings:
    for key in values:
        if key not in _DATA_TYPES:
            raise OptionError(f"There is no setting data.{key:.60}: {_meant(key, _DATA_TYPES)}.")
    if "form" not in values:
        raise OptionError("data.form is missing; it must be 'text' or 'pairs'.")
    return DataSettings(**values)


def with_overrides(template: Template, overrides: Mapping[str, str]) -> Template:
    """Return ``template`` with other values, given as ``{"trainer.learning_rate": "3e-4"}``.

    A value is read as a value of TOML, otherwise it is a string; ``True``, ``False`` and ``.5`` are
    what they are in Python. Raises ``OptionError`` for an unknown group or setting, or a value that
    the setting does not allow.
    """
    groups: dict[str, dict[str, Any]] = {
        group: _given(template.data) if group == "data" else dict(getattr(template, group))
        for group in GROUPS
    }
    for place, text in overrides.items():
        group, _, name = place.partition(".")
        if group not in GROUPS or not NAME.fullmatch(name):
            raise OptionError(
                f"There is no setting {place!r:.60}: write GROUP.NAME, where GROUP is "
                f"{', '.join(GROUPS[:-1])} or {GROUPS[-1]}."
            )
        is_text = group == "data" and _DATA_TYPES.get(name, (None,))[0] is str
        value = parse_value(text)
        groups[group][name] = text if is_text and not isinstance(value, str) else value
    content = {"name": template.name, "title": template.title, **groups}
    return _template(content, template.name)


def _given(settings: DataSettings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if value is not None}


def parse_value(text: str) -> Any:
    """Return the value of TOML that ``text`` is, or else ``text`` itself."""
    if text in ("True", "False"):
        return text == "True"
    try:
        value = tomllib.loads(f"value = {text}")
    except ValueError:
        value = {}
    if value.keys() == {"value"} and isinstance(
        value["value"], str | bool | int | float | list | dict
    ):
        return value["value"]
    try:
        return float(text) if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text, re.I) else text
    except ValueError:
        return text


def to_toml(template: Template) -> str:
    """Return all settings as a template's file, which ``read_template`` reads as the same."""
    lines = [f"name = {_toml(template.name)}", f"title = {_toml(template.title)}"]
    for group in GROUPS:
        values = _given(template.data) if group == "data" else getattr(template, group)
        if values:
            lines += ["", f"[{group}]"]
            lines += [f"{_toml_key(name)} = {_toml(value)}" for name, value in values.items()]
    return "\n".join([*lines, ""])


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return f'"{re.sub(_ESCAPED, _escape, value)}"'
        case list() | tuple():
            return f"[{', '.join(map(_toml, value))}]"
    pairs = (f"{_toml_key(name)} = {_toml(item)}" for name, item in value.items())
    return f"{{{', '.join(pairs)}}}"


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


_ESCAPED = re.compile(r'[\x00-\x1f\x7f"\\]')


def _escape(found: re.Match[str]) -> str:
    return {"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\"}.get(
        found[0], f"\\u{ord(found[0]):04x}"
    )


def _check_value(place: str, value: Any) -> None:
    match value:
        case bool() | int() | str():
            return
        case float():
            if not math.isfinite(value):
                raise OptionError(f"{place} is {value}; it must be a finite number.")
        case list():
            for item in value:
                _check_value(place, item)
        case dict():
            for item in value.values():
                _check_value(place, item)
        case _:
            raise OptionError(f"{place} is {value}; it must be a number, a string or a list.")


def _check_model(template: Template) -> None:
    model = template.model
    if ("base" in model) == ("model_type" in model):
        found = "both" if "base" in model else "neither"
        raise OptionError(
            f"The group model has {found} base and model_type: give a base to fine-tune, or a "
            "model_type to train from scratch."
            if found == "both"
            else "The group model needs base, a checkpoint to fine-tune, or model_type, to train "
            "from scratch."
        )
    name = "base" if "base" in model else "model_type"
    if not isinstance(model[name], str) or not model[name]:
        raise OptionError(f"model.{name} is {model[name]!r:.60}; it must be a string.")
    if template.peft and template.from_scratch:
        raise OptionError("The group peft has no effect with model_type: LoRA needs a model.base.")


def _check_tokenizer(template: Template) -> None:
    tokenizer = template.tokenizer
    for key in tokenizer:
        if key not in TOKENIZER_KEYS:
            raise OptionError(
                f"There is no setting tokenizer.{key:.60}: {_meant(key, TOKENIZER_KEYS)}."
            )
    if "path" in tokenizer:
        if len(tokenizer) > 1:
            raise OptionError("The group tokenizer has path and others: give path alone.")
        if not isinstance(tokenizer["path"], str) or not tokenizer["path"]:
            raise OptionError(
                f"tokenizer.path is {tokenizer['path']!r:.60}; it must be the path of a folder."
            )
        return
    if not template.from_scratch:
        if tokenizer:
            raise OptionError(
                f"tokenizer.{next(iter(tokenizer))} has no effect with model.base, which has its "
                "own tokenizer: leave it out."
            )
        return
    _check_choice("tokenizer.algorithm", tokenizer.get("algorithm"), ALGORITHMS)
    size = tokenizer.get("vocab_size")
    if type(size) is not int or size < 1:
        raise OptionError(f"tokenizer.vocab_size is {size!r:.60}; it must be a positive integer.")
    for name in TOKENIZER_FLAGS:
        if not isinstance(tokenizer.get(name, False), bool):
            raise OptionError(f"tokenizer.{name} is {tokenizer[name]!r:.60}; it must be a bool.")


def _check_choice(place: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OptionError(f"{place} is {value!r:.60}; it must be one of {', '.join(allowed)}.")


def _meant(key: str, known: Any) -> str:
    close = nearest(key, known)
    return f"did you mean {close}" if close else f"use {', '.join(known)}"
