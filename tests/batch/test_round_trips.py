"""Any rows: every form of an output holds them, and is known again as the answers to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseq.batch.answering import Answer
from edgeseq.batch.columns import Columns
from edgeseq.batch.files import Window, answer_file
from edgeseq.batch.forms import form_of
from edgeseq.batch.job import Job
from edgeseq.batch.source import source_of
from edgeseq.batch.values import as_text
from edgeseq.runtime.bundle.demo_bundles import demo_bundle
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.tables.table import open_table
from edgeseq.runtime.tasks.templates import read_template

NAMES = ["id", "output", "input_output", "error", "line", "input", 'a,"\t\n', "ä", "x", "question"]
TEXTS = st.text(
    st.sampled_from('ab ,;"\t\n\r\u2028\ufeff{}äß😀\ud800') | st.characters(), max_size=8
)
TEXTS = TEXTS.filter(lambda text: "\0" not in text)  # a file with zero bytes is no text
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
ROWS = st.lists(
    st.fixed_dictionaries({"text": TEXTS | VALUES}, optional=dict.fromkeys(NAMES, VALUES)),
    min_size=1,
    max_size=5,
)
OUTPUTS = ("out.jsonl", "out.jsonl.gz", "out.csv", "out.tsv.gz", "out.parquet")
COLUMNS = Columns(read_template("closed-book-question-answering"), text_column="text")
JOB = Job(
    open_bundle(demo_bundle("t5")).manifest,
    read_template("closed-book-question-answering"),
    COLUMNS,
    {"choices": ["a", "b"]},
)


def answers(windows: Iterable[Window]) -> Iterator[tuple[Window, list[Answer]]]:
    """Answer texts with themselves and labels, and anything else with an error."""
    for window in windows:
        found = []
        for fields in window.inputs:
            text = fields.get("question")
            is_text = isinstance(text, str) and "\ud800" not in text and text.isprintable()
            answer = Answer(f"{text}\r\n,", {"b": 0.75, "a": 0.25})
            found.append(answer if is_text else Answer("", None, f"no text: {text!r:.20}"))
        yield window, found


@pytest.mark.parametrize("out", OUTPUTS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_outputs_hold_any_rows(out: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    source, path = tmp_path / "in.jsonl", tmp_path / out
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path.unlink(missing_ok=True)
    read = source_of(source, COLUMNS)
    assert answer_file(JOB, read, answers, path, form_of(path)).rows == len(rows)
    whole = path.read_bytes()
    done = answer_file(JOB, read, answers, path, form_of(path))
    assert (done.rows, done.before) == (len(rows), len(rows))
    assert path.read_bytes() == whole
    retried = answer_file(JOB, read, answers, path, form_of(path), retry_errors=True)
    assert retried.before == len(rows) - done.failed
    assert path.read_bytes() == whole
    with open_table(path) as table:
        found = [dict(row.values) for row in table]
    for row, values in zip(rows, found, strict=True):
        given_id = as_text(row.get("id"))
        assert as_text(values.get("id")) == given_id
