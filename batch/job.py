"""A task on the rows of an input: what identifies it, and its answers as lines of JSON.

An answer is a line of JSON, whatever the form of the output:

    {"line": 2, "task": "…", "run": "…", other columns, "input": {fields}, "output": "…"}

All before the answer identifies the row and the run. To continue an output, each of its lines is
compared with the beginning that the row's answer must have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from types import MappingProxyType
from typing import Any, NamedTuple

from ..runtime.bundle.manifest import Manifest
from ..runtime.tables.row import Row
from ..runtime.tasks.templates import Template
from .answering import Answer
from .columns import ERROR, INPUT, LINE, PROBABILITIES, RUN, TASK, TRUNCATED, Columns
from .values import is_missing, plain


class Item(NamedTuple):
    """A row of the input, as a job sees it."""

    line: int  # where it begins in the input, from 1
    begin: bytes  # the beginning of its answer
    fields: Mapping[str, Any]  # the task's fields, which may be missing or no strings
    fault: str | None  # why the row cannot be read


class Job:
    """A task on rows with ``columns``, by a model with this manifest.

    ``options`` override the template's. ``loading``: the arguments of ``load`` that change answers.
    Raises ``OptionError`` for a template that is not for this kind of model.
    """

    def __init__(
        self,
        manifest: Manifest,
        template: Template,
        columns: Columns,
        options: Mapping[str, Any],
        loading: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        form = template.form(manifest.kind)
        files = {name: file.sha256 for name, file in manifest.files.items()}
        defaults = [dict(template.defaults), manifest.generation]
        told = [files, asdict(form), defaults, dict(options), dict(loading)]
        known = json.dumps(told, sort_keys=True, default=repr).encode()
        self.name = template.name
        self.run = sha256(known).hexdigest()[:12]  # all that answers depend on, but the input
        self.columns = columns
        self.has_probabilities = bool(form.labels) or options.get("choices") is not None
        self._answer = b", " + encoded(columns.output) + b": "
        self._error = b", " + encoded(ERROR) + b": "

    def item(self, row: Row) -> Item:
        """Return a row of the input as this job's."""
        fault = f"Line {row.line}: {row.fault}." if row.fault else None
        fields, others = self.columns.split(row.values)
        others = {name: None if is_missing(value) else value for name, value in others.items()}
        head = {LINE: row.line, TASK: self.name, RUN: self.run}
        begin = encoded({**head, **others, INPUT: fields}).removesuffix(b"}")
        return Item(row.line, begin, fields, fault)

    def head(self, item: Item) -> bytes:
        """Return the part of an item's beginning that does not depend on its columns."""
        return encoded({LINE: item.line, TASK: self.name, RUN: self.run}).removesuffix(b"}")

    def written(self, item: Item, answer: Answer) -> bytes:
        """Return the line of an answer."""
        if answer.error is not None:
            return item.begin + self._error + encoded(answer.error) + b"}\n"
        line = item.begin + self._answer + encoded(answer.text)
        if answer.probabilities is not None:
            line += b", " + encoded(PROBABILITIES) + b": " + encoded(dict(answer.probabilities))
        if answer.truncated_tokens:
            line += b", " + encoded(TRUNCATED) + b": " + encoded(answer.truncated_tokens)
        return line + b"}\n"

    def is_answer(self, line: bytes, item: Item) -> bool:
        """Return whether ``line`` is an answer to ``item``, complete or cut off."""
        begin = item.begin
        whole = any(line.startswith(begin + key) for key in (self._answer, self._error))
        if line.endswith(b"\n"):
            return whole and line.endswith(b"}\n")
        return whole or any((begin + key).startswith(line) for key in (self._answer, self._error))

    def is_error(self, line: bytes, item: Item) -> bool:
        """Return whether ``line``, an answer to ``item``, is an error."""
        return line.startswith(item.begin + self._error)

    def is_beginning(self, line: bytes, item: Item) -> bool:
        """Return whether ``line`` is cut off, and may be of this line of the input."""
        head = self.head(item)
        return not line.endswith(b"\n") and (line.startswith(head) or head.startswith(line))

    def was_error(self, line: bytes, item: Item) -> bool:
        """Return whether ``line`` is an error for this line of the input, whose row may differ."""
        if not line.startswith(self.head(item) + b", ") or not line.endswith(b"}\n"):
            return False
        try:
            return ERROR in json.loads(line)
        except ValueError:
            return False


def changing(kv_cache: str | None, device: str, kernels: str) -> dict[str, Any]:
    """Return what changes answers among the arguments of ``load``, for ``loading`` of a job."""
    form = "stock" if kernels == "stock" else "native"
    loading = {"kv_cache": kv_cache, "device": device, "kernels": form}
    others = {"kv_cache": None, "device": "cpu", "kernels": "stock"}
    return dict(loading.items() - others.items())


def encoded(value: Any) -> bytes:
    """Return a value as JSON, in UTF-8; lone surrogates are escaped."""
    text = json.dumps(value, ensure_ascii=False, default=plain)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, default=plain).encode()
