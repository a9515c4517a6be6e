"""``Model.stream_ids`` and ``Model.score_ids``: events and scores of prompts that are token ids."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from edgeseq.runtime import Model, OptionError, PromptError
from edgeseq.runtime.results import StreamEvent

PROMPTS = ["Once upon a time", "The fox said"]
CALLS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False, "logprobs": 2},
    "sampling": {"seed": 3, "num_return_sequences": 3, "logprobs": 0, "presence_penalty": 1.0},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 3},
    "stop strings": {"seed": 1, "stop_strings": ["e", " th"], "num_return_sequences": 2},
    "groups": {
        "do_sample": False,
        "num_beams": 4,
        "num_beam_groups": 2,
        "diversity_penalty": 1.0,
        "num_return_sequences": 2,
    },
}


def by_text(events: list[StreamEvent]) -> dict[int, list[StreamEvent]]:
    found = defaultdict(list)
    for event in events:
        found[event.index].append(event)
    return found


def encoded(model: Model) -> list[list[int]]:
    return [model.tokenizer.encode(prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_events_join_to_the_results(demo_gpt2: Model, options: dict[str, Any]) -> None:
    prompts = encoded(demo_gpt2)
    results = demo_gpt2.generate_ids(prompts, max_new_tokens=12, **options)
    found = by_text(list(demo_gpt2.stream_ids(prompts, max_new_tokens=12, **options)))
    assert sorted(found) == list(range(len(results)))
    for index, result in enumerate(results):
        events = found[index]
        assert "".join(event.text for event in events) == result.text
        assert [id for event in events for id in event.token_ids] == list(result.token_ids)
        reasons = [event.finish_reason for event in events]
        assert reasons == [*[None] * (len(events) - 1), result.finish_reason]
        if result.logprobs is not None:
            assert [x for event in events for x in event.logprobs or ()] == list(result.logprobs)
            top = [x for event in events for x in event.top_logprobs or ()]
            assert top == list(result.top_logprobs or ())


def test_an_encoder_decoder_streams_too(demo_t5: Model) -> None:
    prompts = [demo_t5.tokenizer.encode(text) for text in ("pronounce: fox", "spell: K AE1 T")]
    found = by_text(list(demo_t5.stream_ids(prompts)))
    results = demo_t5.generate_ids(prompts)
    assert ["".join(event.text for event in found[i]) for i in range(2)] == [
        r.text for r in results
    ]


@pytest.mark.parametrize("steps", [0, 3])
def test_a_cancelled_text_has_a_last_event(demo_gpt2: Model, steps: int) -> None:
    events: list[StreamEvent] = []
    prompts = encoded(demo_gpt2)[:1]
    found = demo_gpt2.stream_ids(prompts, do_sample=False, cancel=lambda: len(events) >= steps)
    for event in found:
        events.append(event)  # one by one, because `cancel` looks at the list
    assert len(events) == steps + 1
    assert events[-1].finish_reason == "cancelled"


def test_errors_are_raised_before_the_first_event(demo_gpt2: Model) -> None:
    with pytest.raises(OptionError, match="choices has no effect with stream_ids"):
        demo_gpt2.stream_ids([[1]], choices=["a", "b"])
    with pytest.raises(OptionError, match="logprobs has no effect with stream_ids and beams"):
        demo_gpt2.stream_ids([[1]], do_sample=False, num_beams=2, logprobs=1)
    with pytest.raises(PromptError, match="from 0 to"):
        demo_gpt2.stream_ids([[-1]])
    assert list(demo_gpt2.stream_ids([])) == []


def test_score_ids_equals_score(demo_gpt2: Model) -> None:
    text = "Once upon a time there was a king"
    ids = demo_gpt2.tokenizer.encode(text)
    score = demo_gpt2.score_ids(ids, logprobs=3)
    expected = demo_gpt2.score(text)
    assert score.token_ids == tuple(ids)
    assert score.log_probabilities[0] is None
    assert score.log_probabilities[1:] == pytest.approx(expected.log_probabilities[1:], abs=1e-5)
    assert score.top_logprobs is not None
    assert score.top_logprobs[0] is None
    for logprob, top in zip(score.log_probabilities[1:], score.top_logprobs[1:], strict=True):
        assert top is not None
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
        assert top[0][1] >= (logprob or 0.0) - 1e-6


def test_score_ids_needs_a_decoder_only_model(demo_t5: Model, demo_gpt2: Model) -> None:
    with pytest.raises(OptionError, match="use score with a target"):
        demo_t5.score_ids([5, 6])
    with pytest.raises(OptionError, match="logprobs is -1"):
        demo_gpt2.score_ids([5, 6], logprobs=-1)


def test_penalties_count_new_tokens_only(demo_gpt2: Model) -> None:
    """A token of the prompt is not penalized; a token of the new text is, each time it occurs."""
    ids = demo_gpt2.tokenizer.encode(PROMPTS[0])
    plain = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 30}
    [free] = demo_gpt2.generate_ids([ids], **plain)
    [once] = demo_gpt2.generate_ids([ids], frequency_penalty=2.0, **plain)
    assert free.token_ids[0] == once.token_ids[0]
    assert len(set(once.token_ids)) > len(set(free.token_ids))
