"""A task on batches of columns: dicts, Arrow tables and data frames."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseq.batch import Predictor
from edgeseq.runtime import BundleError, OptionError, PromptError
from tests.support.errors import refusal
from tests.support.processes import python

TASK = "closed-book-question-answering"
QUESTIONS = ["pronounce: fox", None, "spell: K AE1 T", 7]
ANSWERS = ["F AA1 K S", None, "cat", None]
IDS = [4, 4, None, 9]


@pytest.fixture(scope="module")
def predict() -> Predictor:
    return Predictor(None, TASK, 1, loading={"demo": "t5"})


def check(found: dict[str, Any]) -> None:
    assert list(found) == ["id", "question", "output", "error"]
    assert found["id"] == IDS
    assert found["output"] == ANSWERS
    errors = found["error"]
    assert errors[0] is errors[2] is None
    assert errors[1].startswith("question is None; the task")
    assert errors[3].startswith("question is 7; the task")


def test_a_dict_of_lists(predict: Predictor) -> None:
    batch = {"id": IDS, "question": QUESTIONS}
    check(predict(batch))
    assert list(batch) == ["id", "question"]
    assert predict({"id": [], "question": []}) == {
        "id": [],
        "question": [],
        "output": [],
        "error": [],
    }


def test_a_dict_of_arrays(predict: Predictor) -> None:
    batch = {"id": np.array(IDS), "question": np.array(QUESTIONS, object)}
    found = predict(batch)
    assert {type(values) for values in found.values()} == {np.ndarray}
    check({name: values.tolist() for name, values in found.items()})
    texts = predict({"question": np.array(["pronounce: fox"])})
    assert texts["output"].tolist() == ANSWERS[:1]


def test_arrow(predict: Predictor) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    ids = pyarrow.array(IDS, pyarrow.int16())
    questions = ["pronounce: fox", None, "spell: K AE1 T", None]
    for kind in (pyarrow.Table, pyarrow.RecordBatch):
        batch = kind.from_arrays([ids, questions], ["id", "question"])
        found = predict(batch)
        assert type(found) is kind
        assert found.schema.field("id").type == pyarrow.int16()
        assert found.column("output").to_pylist() == ANSWERS
        assert [error is None for error in found.column("error").to_pylist()] == [
            *(True, False),
            *(True, False),
        ]
        empty = predict(batch.slice(0, 0))
        assert empty.schema == found.schema
        assert empty.num_rows == 0


def test_a_data_frame(predict: Predictor) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": IDS, "question": QUESTIONS}, index=[3, 1, 2, 1], dtype=object)
    found = predict(frame)
    assert isinstance(found, pandas.DataFrame)
    assert found.index.tolist() == [3, 1, 2, 1]
    check({name: found[name].tolist() for name in found.columns})
    assert list(frame.columns) == ["id", "question"]
    missing = predict(pandas.DataFrame({"question": [float("nan")]}))
    assert missing["error"].tolist()[0].startswith("question is nan")


def test_probabilities() -> None:
    predict = Predictor(None, "classification", 1)
    found = predict({"text": ["A fine tale.", None]})
    first, second = found["probabilities"]
    assert set(first) == {"positive", "negative"}
    assert sum(first.values()) == pytest.approx(1)
    assert found["output"] == [next(iter(first)), None]
    assert second is None
    pyarrow = pytest.importorskip("pyarrow")
    table = predict(pyarrow.table({"text": ["A fine tale."]}))
    assert dict(table.column("probabilities").to_pylist()[0]) == first


def test_columns_with_the_names_of_new_ones_are_renamed(predict: Predictor) -> None:
    batch = {"question": ["pronounce: fox"], "output": ["a"], "input_output": ["b"], "line": ["c"]}
    found = predict(batch)
    assert found["input_input_output"] == ["a"]
    assert found["input_output"] == ["b"]
    assert found["line"] == ["c"]
    assert found["output"] == ANSWERS[:1]
    pandas = pytest.importorskip("pandas")
    named = Predictor(
        None,
        TASK,
        1,
        text_column="output",
        output_column="sounds",
        loading={"demo": "t5"},
        max_new_tokens=2,
    )
    found = named(pandas.DataFrame({"output": ["pronounce: fox"]}))
    assert list(found.columns) == ["output", "sounds", "error"]
    assert found["sounds"].tolist() != ANSWERS[:1]


def test_the_order_of_a_large_batch_is_kept(predict: Predictor) -> None:
    questions = [f"pronounce: {'fox ' * (i % 7 + 1)}" for i in range(1100)]
    found = predict({"question": questions})
    few = predict({"question": questions[:7]})["output"]
    assert found["output"] == [few[i % 7] for i in range(1100)]


def test_fields(tmp_path: Path) -> None:
    template = tmp_path / "mine.toml"
    template.write_text(
        'fields = ["word", "what"]\n["encoder-decoder"]\nprompt = "{what}: {word}"\n'
    )
    predict = Predictor(None, template, 1, fields={"what": "pronounce"}, loading={"demo": "t5"})
    template.unlink()  # it is read once
    assert predict({"word": ["fox"]})["output"] == ["F AA1 K S"]
    assert predict({"word": ["K AE1 T"], "what": ["spell"]})["output"] == ["cat"]
    same = Predictor(None, TASK, 1, fields={"question": "pronounce: fox"}, loading={"demo": "t5"})
    assert same({"id": [1, 2]})["output"] == ["F AA1 K S"] * 2
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([["a", "b"]], columns=["question", "question"])
    message = refusal(PromptError, lambda: same(frame))
    assert message == "The batch has several columns 'question': give each its own name."
    with pytest.raises(OptionError, match="fields has 'other'"):
        Predictor(None, TASK, fields={"other": "x"})


def test_a_copy_loads_its_own_model(predict: Predictor) -> None:
    predict({"question": ["pronounce: fox"]})
    copy = pickle.loads(pickle.dumps(predict))
    predict.close()
    for one in (copy, predict):
        assert one({"question": ["pronounce: fox"]})["output"] == ANSWERS[:1]


def test_other_processes_use_it(predict: Predictor) -> None:
    batches = [{"question": [question]} for question in ("pronounce: fox", "spell: K AE1 T")]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.map(predict, batches)
    assert [one["output"] for one in found] == [["F AA1 K S"], ["cat"]]


def test_nothing_is_loaded_before_the_first_call() -> None:
    code = """
import sys
from edgeseq.batch import Predictor
predict = Predictor("no-bundle", "summarization", max_new_tokens=2)
print(sorted({"numpy", "onnxruntime", "pandas", "pyarrow"} & set(sys.modules)))
"""
    assert python(code) == "[]\n"


@pytest.mark.parametrize("batch", ["text", ["text"], None, 3])
def test_other_types_are_refused(batch: Any, predict: Predictor) -> None:
    assert "must be a dict" in refusal(OptionError, lambda: predict(batch))


def test_wrong_batches_and_arguments(predict: Predictor) -> None:
    message = refusal(PromptError, lambda: predict({"id": [1]}))
    assert message.startswith("The batch has no column 'question' (it has 'id'): ")
    refusal(PromptError, lambda: predict({"id": [1], "question": []}))
    refusal(OptionError, lambda: Predictor(None, "nothing"))
    refusal(OptionError, lambda: Predictor(None, TASK, output_column="error"))
    broken = Predictor(None, TASK, num_beams=0)
    refusal(OptionError, lambda: broken({"question": ["a"]}), match="num_beams")
    missing = Predictor("no-bundle", TASK)
    with pytest.raises(BundleError):
        missing({"question": ["a"]})
