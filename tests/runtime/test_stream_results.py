"""The result of a stream, once its pieces are read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from edgeseq.runtime import GenerationResult, Model

OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
PROMPT = "Once upon a time,"


def without_times(result: GenerationResult | None) -> GenerationResult:
    assert result is not None
    assert 0 < result.timings.first_token_s <= result.timings.total_s
    return replace(result, timings=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"stop_strings": [" great"]},
        {"do_sample": True, "seed": 5},
        {"prompt_lookup_num_tokens": 3},
        {"truncation": "left"},
    ],
    ids=str,
)
def test_a_stream_ends_with_the_result_of_generate(
    demo_gpt2: Model, options: dict[str, Any]
) -> None:
    stream = demo_gpt2.stream(PROMPT, **{**OPTIONS, **options})
    assert stream.result is None
    first = next(stream)
    assert stream.result is None
    text = first + "".join(stream)
    [expected] = demo_gpt2.generate(PROMPT, **{**OPTIONS, **options})
    assert without_times(stream.result) == without_times(expected)
    assert text == expected.text
    assert next(stream, None) is None  # as any iterator
    assert stream.result is not None


def test_an_encoder_decoders_stream(demo_t5: Model) -> None:
    stream = demo_t5.stream("pronounce: winter")
    assert "".join(stream) == "W IH1 N T ER0"
    assert stream.result is not None
    assert (stream.result.finish_reason, stream.result.text) == ("eos", "W IH1 N T ER0")


def test_a_stream_that_is_cancelled_or_closed(demo_gpt2: Model) -> None:
    steps = iter(range(100))
    stream = demo_gpt2.stream(PROMPT, **OPTIONS, cancel=lambda: next(steps) > 4)
    "".join(stream)
    assert stream.result is not None
    assert stream.result.finish_reason == "cancelled"
    stream = demo_gpt2.stream(PROMPT, **OPTIONS)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert stream.result is None


def test_a_sessions_stream(demo_gpt2: Model) -> None:
    with demo_gpt2.session() as session:
        stream = session.stream(PROMPT, **OPTIONS)
        list(stream)
    assert stream.result is not None
    assert stream.result.generated_tokens == 12


def test_an_asynchronous_stream(demo_gpt2: Model) -> None:
    async def read() -> tuple[str, GenerationResult | None, GenerationResult | None]:
        stream = demo_gpt2.astream(PROMPT, **OPTIONS)
        before = stream.result
        return "".join([piece async for piece in stream]), before, stream.result

    text, before, result = asyncio.run(read())
    assert before is None
    assert result is not None
    assert (result.text, result.finish_reason, result.generated_tokens) == (text, "length", 12)
