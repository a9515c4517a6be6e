"""Public calls as a user writes them. Never run: mypy checks it (`python .ci/check_types.py`).

`assert_type` holds the types that a user's editor shows.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import assert_type

import numpy as np

from edgeseq.batch import Predictor
from edgeseq.runtime import (
    AsyncTextStream,
    EdgeseqError,
    GenerationResult,
    Model,
    OptionError,
    TextStream,
    Timings,
    load,
    pipeline,
)


def load_from_text_or_path(folder: Path) -> tuple[Model, Model]:
    return load(str(folder)), load(folder)


def load_a_demo() -> tuple[Model, Model]:
    return load(), load(demo="t5")


def generate_one(model: Model) -> str:
    results = model.generate("Once upon a time,", max_new_tokens=20)
    assert_type(results, list[GenerationResult])
    return results[0].text


def generate_several(model: Model, prompts: tuple[str, ...]) -> list[str]:
    return [result.text for result in model.generate(prompts, num_beams=2)]


def translate(model: Model) -> str:
    translations = model.translate(["One.", "Two."], target_language="French", num_beams=2)
    assert_type(translations, list[str])
    translation = model.translate("A text.", source_language="en", target_language="fr")
    assert_type(translation, str)
    return translation


def generate_after_a_start(model: Model) -> list[GenerationResult]:
    return model.generate(["spell: K AE1 T"], decoder_input_ids=[3, 4], decoder_start_token_id=0)


def stream(model: Model) -> str:
    pieces = model.stream("Once upon a time,", max_new_tokens=20)
    assert_type(pieces, TextStream)
    return "".join(pieces)


async def astream(model: Model) -> str:
    pieces = model.astream("Once upon a time,", max_new_tokens=20)
    assert_type(pieces, AsyncTextStream)
    return "".join([piece async for piece in pieces])


def close(folder: Path) -> str:
    with load(folder, max_concurrent=4) as model:
        return model.generate("Once upon a time,")[0].text


def make_a_pipeline(model: Model, folder: Path) -> list[dict[str, str]]:
    summarize = pipeline("summarization", folder, threads=2, num_beams=2)
    found: list[dict[str, str]] = summarize(["A text."], max_new_tokens=20)
    found += pipeline("text-generation", model)("Once")
    return found


def generate_ids(model: Model) -> list[tuple[int, ...]]:
    results = model.generate_ids([[1, 2, 3], [4]], max_new_tokens=4)
    assert_type(results, list[GenerationResult])
    return [result.token_ids for result in results]


def read_result(result: GenerationResult) -> dict[str, str | int | float]:
    assert_type(result.text, str)
    assert_type(result.token_ids, tuple[int, ...])
    assert_type(result.prompt_tokens, int)
    assert_type(result.generated_tokens, int)
    assert_type(result.timings, Timings)
    assert_type(result.timings.first_token_s, float)
    assert_type(result.timings.total_s, float)
    finish_reason: str = result.finish_reason
    return {"text": result.text, "finish_reason": finish_reason}


def read_hypotheses(model: Model) -> list[tuple[str, float]]:
    results = model.generate("Once", num_beams=4, num_return_sequences=2, logprobs=1)
    for result in results:
        assert_type(result.sequence_score, float | None)
        assert_type(result.logprobs, tuple[float, ...] | None)
    return [(result.text, result.sequence_score or 0.0) for result in results]


def choose(model: Model) -> dict[str, float]:
    [result] = model.generate("Once", choices=[" a", " the"])
    return {choice.text: choice.probability for choice in result.choices or ()}


def advance(model: Model, stop: threading.Event) -> str:
    with model.session(max_cache_bytes=2**20) as session:
        [result] = session.generate("Once", cancel=stop, stop_strings=["."])
        with session.fork() as other:
            return result.text + "".join(other.stream("Once" + result.text))


def process(tokens: np.ndarray, logits: np.ndarray) -> np.ndarray:
    logits[0] = -np.inf
    return logits


def steer(model: Model) -> list[GenerationResult]:
    return model.generate("Once", logits_processor=[process], regex="[a-z ]{1,20}")


def predict_columns() -> list[str]:
    predict = Predictor("my-bundle", "summarization", threads=1, max_new_tokens=20)
    columns = predict({"text": ["A long text."]})
    assert_type(columns, dict[str, list[str]])
    return columns["output"]


def catch(model: Model) -> list[GenerationResult]:
    try:
        return model.generate("Once upon a time,", temperature=0.7, seed=1)
    except OptionError as error:
        raise SystemExit(str(error)) from error
    except (EdgeseqError, ValueError):
        return []
