"""``Predictor``: a task as a function from a batch of columns to the same batch with answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..runtime.errors import OptionError, PromptError
from ..runtime.tasks.templates import read_template
from .columns import ERROR, OUTPUT, PROBABILITIES, Columns

if TYPE_CHECKING:
    from .answering import Answer, Answering

Batch = TypeVar("Batch")
ADVICE = ("choose the column with text_column", "add it, or choose FIELD with fields")
CHUNK = 1024  # rows that are batched by length at a time


class _Loaded(NamedTuple):
    """A loaded model with its task, and the process that loaded it."""

    answering: Answering
    has_probabilities: bool
    process: int


class Predictor:
    """A task on batches of columns: a dict of lists or arrays, an Arrow table or a data frame.

    The model is loaded at the first call, in the process that makes it. A predictor can be pickled,
    and a copy in another process loads the model there. Rows of similar length are processed
    together. A row that the model cannot process has an error, and the others have their answers.

    Args:
        bundle: The folder of the bundle; None for a demo model.
        task: The name of a task, or the path of a template. It is read at once.
        threads: The number of computing threads; None for one per usable physical core.
        text_column: The column of the task's first field; None for the column of the field's name.
        output_column: The name of the column for the answers.
        fields: Fields of the task that are the same in all rows; a column overrides them.
        loading: Further arguments of ``load``, such as ``{"kv_cache": "int8"}``.
        options: Options of ``generate``, which override the template's.

    Raises:
        OptionError: There is no such task or field, or ``output_column`` is the name of another
            column. Other wrong arguments raise an error at the first call.

    Examples:
        >>> from edgeseq.batch import Predictor
        >>> predict = Predictor(
        ...     None, "closed-book-question-answering", loading={"demo": "t5"}
        ... )
        >>> predict({"id": [1, 2], "question": ["pronounce: fox", "spell: K AE1 T"]})["output"]
        ['F AA1 K S', 'cat']
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None,
        task: str | os.PathLike[str],
        threads: int | None = None,
        *,
        text_column: str | None = None,
        output_column: str = OUTPUT,
        fields: Mapping[str, str] = MappingProxyType({}),
        loading: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        self._bundle = None if bundle is None else os.fspath(bundle)
        self._template = read_template(task)
        for name in fields:
            if name not in self._template.fields:
                raise OptionError(
                    f"fields has {name!r:.60}; the fields of the task {self._template.name} are "
                    f"{', '.join(self._template.fields)}."
                )
        self._columns = Columns(
            self._template,
            text_column=text_column,
            output_column=output_column,
            constants=dict(fields),
            reserved=(PROBABILITIES, ERROR),
        )
        self._loading = {"threads": threads, **loading}
        self._options = options
        self._loaded: _Loaded | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the loaded model."""
        return {**self.__dict__, "_loaded": None, "_lock": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __call__(self, batch: Batch) -> Batch:
        """Return ``batch`` with further columns; its type, rows and other columns are the same.

        The columns are ``output``, or the name that was chosen: the answer, or None;
        ``probabilities``, only in a task with labels: the probability of each label, or None; and
        ``error``: why there is no answer, or None. A column of ``batch`` that has one of these
        names is renamed: ``input_`` is put before it.

        Raises ``PromptError`` for a batch without a column of the task, ``OptionError`` for another
        type and for wrong options, and the errors of ``load``.
        """
        package = type(batch).__module__.partition(".")[0]
        if isinstance(batch, Mapping):
            return self._dict(batch)  # type: ignore[return-value]
        if package == "pyarrow" and hasattr(batch, "schema"):
            return self._arrow(batch)  # type: ignore[no-any-return]
        if package == "pandas" and hasattr(batch, "columns"):
            return self._frame(batch)  # type: ignore[no-any-return]
        raise OptionError(
            f"The batch is a {type(batch).__name__}; it must be a dict of columns, a pyarrow Table "
            "or RecordBatch, or a pandas DataFrame."
        )

    def close(self) -> None:
        """Free the model; the next call loads it again."""
        with self._lock:
            self._loaded = None

    def _dict(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        lengths = {len(values) for values in batch.values()}
        if len(lengths) > 1:
            raise PromptError(
                f"The columns of the batch have {min(lengths)} to {max(lengths)} values: give each "
                "the same number."
            )
        used = {n: _listed(v) for n, v in batch.items() if n in self._columns.field_of}
        answers = self._answers(list(batch), used, max(lengths, default=0))
        if any(type(values).__module__ == "numpy" for values in batch.values()):
            import numpy

            for name, values in answers.items():
                array = numpy.empty(len(values), object)  # numpy.array would look into the values
                array[:] = values
                answers[name] = array
        names = self._columns.renamed_all(batch)
        return {**dict(zip(names, batch.values(), strict=True)), **answers}

    def _arrow(self, batch: Any) -> Any:
        import pyarrow

        found = batch.schema.names
        names = [name for name in self._columns.field_of if found.count(name) == 1]
        used = {name: batch.column(name).to_pylist() for name in names}
        answers = self._answers(found, used, batch.num_rows)
        texts = pyarrow.string()
        types = dict.fromkeys(answers, texts)
        if PROBABILITIES in answers:
            types[PROBABILITIES] = pyarrow.map_(texts, pyarrow.float64())
            rows = answers[PROBABILITIES]
            answers[PROBABILITIES] = [None if row is None else list(row.items()) for row in rows]
        fields = [
            field.with_name(name)
            for field, name in zip(batch.schema, self._columns.renamed_all(found), strict=True)
        ]
        schema = pyarrow.schema([*fields, *types.items()], batch.schema.metadata)
        made = [pyarrow.array(values, types[name]) for name, values in answers.items()]
        return type(batch).from_arrays([*batch.columns, *made], schema=schema)

    def _frame(self, batch: Any) -> Any:
        found = list(batch.columns)
        names = [name for name in self._columns.field_of if found.count(name) == 1]
        answers = self._answers(found, {name: batch[name].tolist() for name in names}, len(batch))
        import pandas

        frame = batch.copy(deep=False)
        frame.columns = self._columns.renamed_all(found)
        made = {n: pandas.Series(v, batch.index, dtype=object) for n, v in answers.items()}
        return frame.assign(**made)

    def _answers(
        self, found: Sequence[str], columns: Mapping[str, Sequence[Any]], count: int
    ) -> dict[str, Any]:
        """Return the new columns for ``count`` rows with the columns ``found``.

        ``columns``: the values of the columns that are fields of the task.
        """
        self._columns.check(found, "The batch", ADVICE)
        loaded = self._load(found)
        used = {self._columns.field_of[name]: values for name, values in columns.items()}
        rows = [
            {**self._columns.constants, **{name: values[i] for name, values in used.items()}}
            for i in range(count)
        ]
        answers: list[Answer] = []
        for start in range(0, count, CHUNK):
            answers += loaded.answering(rows[start : start + CHUNK])
        made: dict[str, Any] = {
            self._columns.output: [None if one.error is not None else one.text for one in answers]
        }
        if loaded.has_probabilities:
            made[PROBABILITIES] = [
                None if one.probabilities is None else dict(one.probabilities) for one in answers
            ]
        return {**made, ERROR: [one.error for one in answers]}

    def _load(self, found: Sequence[str]) -> _Loaded:
        """Return the model, which is loaded once in each process, even after a fork."""
        with self._lock:
            if self._loaded is None or self._loaded.process != os.getpid():
                from ..runtime.loading import load
                from .answering import Answering

                model = load(self._bundle, **self._loading)
                answering = Answering(model, self._template, self._options)
                answering.check(self._columns.constants, found)
                labels = self._template.form(model.bundle.manifest.kind).labels
                has_probabilities = bool(labels) or self._options.get("choices") is not None
                self._loaded = _Loaded(answering, has_probabilities, os.getpid())
            return self._loaded


def _listed(values: Any) -> Sequence[Any]:
    """Return a column as Python's objects."""
    listed: Sequence[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return listed
