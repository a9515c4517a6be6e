"""The data of an evaluation: one text, or examples with the expected output of each.

Examples are the rows of a JSON Lines, CSV, TSV or Parquet file, or lines with tabs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OptionError, PromptError
from ..model import Model
from ..request.passages import Pair, Passages, Window, pair_passages, read_passages
from ..tables.row import RowError
from ..tables.table import format_of, open_table
from ..tasks.runs import check_languages, direction_of
from ..tasks.templates import Form, Template
from ..text.input_lines import decode_utf8

TARGET = "target"  # the field of the expected output
SOURCE = "source"  # the other field, without a task
OWN_FORMS = ("text", "jsonl")  # formats that `read_passages` reads, without a task


@dataclass(frozen=True, kw_only=True)
class Example:
    """An input and its expected output."""

    line: int  # where it begins in the file, from 1
    values: Mapping[str, str]  # of the task's fields; without a task, of `source`
    target: str


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a model is evaluated on."""

    passages: Passages
    examples: Sequence[Example] = ()  # none: the passages are of a text
    template: Template | None = None
    labels: Sequence[str] = field(default=())  # of the task


def read_data(
    path: Path,
    model: Model,
    *,
    template: Template | None = None,
    columns: Mapping[str, str] | None = None,
    context: int | None = None,
    stride: int | None = None,
) -> Data:
    """Return the data of a file for a model.

    With a ``template``, each row has its fields and ``target``; without one, see
    ``read_passages``. A CSV, TSV or Parquet file has a ``source`` and a ``target``. ``columns``:
    names of columns, by field. Raises ``PromptError`` for a file or a row that cannot be used,
    ``OptionError`` for a column of a field that there is not.
    """
    columns = dict(columns or {})
    manifest = model.bundle.manifest
    form = format_of(path)
    if form == "tsv" and template is None and not _has_head(path, columns):
        form = "text"
    if template is None and form in OWN_FORMS and not columns:
        passages = read_passages(path, manifest, model.tokenizer, context=context, stride=stride)
        return data_of(passages)
    for name, value in (("context", context), ("stride", stride)):
        if value is not None:
            raise OptionError(f"{name} has no effect with examples, which are read as a whole.")
    fields = [SOURCE] if template is None else list(template.fields)
    for name in columns:
        if name not in (*fields, TARGET):
            known = ", ".join([*fields, TARGET])
            raise OptionError(f"There is no field {name!r:.60} for a column: use {known}.")
    examples = list(_examples(path, form, fields, template, columns))
    if not examples:
        raise PromptError(f"{path} has no rows: give a file with at least one.")
    if template is None:
        pairs = [(example.values[SOURCE], example.target) for example in examples]
        return Data(passages=pair_passages(pairs, manifest, model.tokenizer), examples=examples)
    labels = template.form(manifest.kind).labels
    _check_labels(path, examples, labels)
    return Data(
        passages=_task_passages(model, template, examples),
        examples=examples,
        template=template,
        labels=list(labels),
    )


def data_of(passages: Passages) -> Data:
    """Return the data of passages; their pairs are examples."""
    examples = [
        Example(line=i, values={SOURCE: source}, target=target)
        for i, (source, target) in enumerate(passages.pairs, 1)
    ]
    return Data(passages=passages, examples=examples)


def _has_head(path: Path, columns: Mapping[str, str]) -> bool:
    """Return whether the first line of a TSV file names the columns."""
    if not path.is_file() or path.suffix != ".tsv":
        return True
    with path.open("rb") as file:
        head = decode_utf8(file.readline(), path).split()
    return {columns.get(name, name) for name in (SOURCE, TARGET)} <= set(head)


def _examples(
    path: Path,
    form: str,
    fields: Sequence[str],
    template: Template | None,
    columns: Mapping[str, str],
) -> Iterator[Example]:
    defaults = {} if template is None else template.defaults
    needed = [name for name in fields if name not in defaults or name in columns]
    taken = {name: columns.get(name, name) for name in (*needed, TARGET)}
    advice = "rename a column, or give --column FIELD=COLUMN"
    with open_table(path, format=form, columns=list(taken.values()), advice=advice) as table:
        # Fields with a default may have a column.
        optional = {name: name for name in fields if name not in taken}
        for row in table:
            where = f"{path}, line {row.line}"
            try:
                values = {name: row.text(column) for name, column in taken.items()}
                values |= {n: row.text(c) for n, c in optional.items() if c in row.values}
            except RowError as error:
                raise PromptError(f"{where}: {error}: correct this row.") from error
            for name in (*needed, TARGET):
                if not values[name].strip():
                    raise PromptError(f"{where}: the {name} is empty; write a text.")
            yield Example(line=row.line, target=values.pop(TARGET), values=values)


def _check_labels(path: Path, examples: Iterable[Example], labels: Mapping[str, str]) -> None:
    for example in examples:
        if labels and example.target not in labels:
            raise PromptError(
                f"{path}, line {example.line}: the target {example.target!r:.60} is not a label of "
                f"the task: use {', '.join(labels)}."
            )


def _task_passages(model: Model, template: Template, examples: Sequence[Example]) -> Passages:
    """Return the windows of the targets after the task's prompts."""
    manifest = model.bundle.manifest
    form = template.form(manifest.kind)
    if not form.translates:
        pairs = [_pair(template, form, model, example) for example in examples]
        return pair_passages(pairs, manifest, model.tokenizer)
    windows: list[Window] = []
    found: list[Pair] = []
    for example in examples:
        check_languages(model, template, example.values)
        way = direction_of(model, template, example.values)
        source = {**template.defaults, **example.values}[template.fields[0]]
        pair = (way.prompt(source), example.target)
        windows += pair_passages([pair], way.model.bundle.manifest, way.model.tokenizer).windows
        found.append(pair)
    size_bytes = sum(len(target.encode()) for _, target in found)
    return Passages(windows=windows, size_bytes=size_bytes, pairs=found)


def _pair(template: Template, form: Form, model: Model, example: Example) -> Pair:
    manifest = model.bundle.manifest
    prompt = template.prompt(manifest.kind, example.values)
    target = form.labels.get(example.target, example.target)
    # After a prompt such as "Q: …\nA:" a text begins with a space, which `strip` removes again.
    if not manifest.has_encoder and form.strip and not form.labels and not prompt[-1:].isspace():
        target = f" {target.lstrip()}"
    return prompt, target
