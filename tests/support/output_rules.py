"""Rules that every result must obey, derived from the call alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime.results import GenerationResult
from tests.support.option_strategies import Call
from tests.support.scripted_decoder import Ids
from tests.support.scripted_model import BORDER, tokenizer

Results = Sequence[GenerationResult]


def listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def by_prompt(call: Call, results: Results) -> Iterator[tuple[Ids, Results]]:
    """Yield each prompt with its results; beam search may find fewer than requested."""
    count = call.options.get("num_return_sequences", 1)
    indices = [result.prompt_index for result in results]
    assert indices == sorted(indices)
    for number, prompt in enumerate(call.prompts):
        texts = [result for result in results if result.prompt_index == number]
        assert 1 <= len(texts) <= count
        assert len(texts) == count or "num_beams" in call.options
        yield prompt, texts


def ends_of(call: Call) -> list[int]:
    ends = listed(call.options.get("eos_token_id"))
    return [end for end in ends if end < call.rule.vocabulary]


def check_result(call: Call, prompt: Ids, result: GenerationResult) -> None:
    ids = list(result.token_ids)
    assert result.prompt_tokens == len(prompt)
    assert result.generated_tokens == len(ids)
    assert all(type(token) is int and 0 <= token < call.rule.vocabulary for token in ids)
    assert 0 <= result.timings.first_token_s <= result.timings.total_s
    check_end(call, prompt, result)
    check_suppressed(call, prompt, ids)
    if not call.options.get("remove_invalid_values"):  # which makes the forbidden possible again
        for place in range(len(ids)):
            if not is_forced(call, prompt, place):
                check_token(call, prompt, ids, place)
    check_logprobs(call, prompt, result)


def check_end(call: Call, prompt: Ids, result: GenerationResult) -> None:
    ids, ends, stops = (
        list(result.token_ids),
        ends_of(call),
        listed(call.options.get("stop_strings")),
    )
    limit = call.limit(prompt)
    whole = tokenizer().decode(ids)
    assert 1 <= len(ids) <= limit
    assert not set(ids[:-1]) & set(ends)
    assert (result.finish_reason == "eos") == (ids[-1] in ends)
    is_stopped = any(stop in whole for stop in stops)
    if ids[-1] not in ends:
        assert (result.finish_reason == "stop") == is_stopped
        assert result.finish_reason == "stop" or (result.finish_reason, len(ids)) == (
            "length",
            limit,
        )
    assert not any(stop in result.text for stop in stops)
    assert whole.startswith(result.text)
    assert is_stopped or result.text == whole
    for end in range(1, len(ids)):
        before = tokenizer().decode(ids[:end]).rstrip("\ufffd")
        assert not any(stop in before for stop in stops)


def is_forced(call: Call, prompt: Ids, place: int) -> bool:
    """Return whether the options force a token at ``place``, whatever others forbid."""
    options = call.options
    at_first = len(call.start(prompt)) + place == 1 and "forced_bos_token_id" in options
    return at_first or ("forced_eos_token_id" in options and place == call.limit(prompt) - 1)


def check_suppressed(call: Call, prompt: Ids, ids: Ids) -> None:
    assert not set(ids) & set(call.options.get("suppress_tokens", ()))
    first = int(is_forced(call, prompt, 0) and "forced_bos_token_id" in call.options)
    first *= len(call.start(prompt)) == 1
    assert not set(ids[first : first + 1]) & set(call.options.get("begin_suppress_tokens", ()))


def check_token(call: Call, prompt: Ids, ids: Ids, place: int) -> None:
    """Check that no option forbids the token at ``place``."""
    options, start = call.options, call.start(prompt)
    text = [*start, *ids[: place + 1]]
    size = options.get("no_repeat_ngram_size", 0)
    if size and len(text) > size:
        earlier = [text[i : i + size] for i in range(len(text) - size)]
        assert text[-size:] not in earlier
    size = options.get("encoder_no_repeat_ngram_size", 0)
    if size and len(text) >= size:
        assert text[-size:] not in [prompt[i : i + size] for i in range(len(prompt) - size + 1)]
    for word in options.get("bad_words_ids", ()):
        if word not in [(end,) for end in ends_of(call)]:
            new = ids[: place + 1]
            assert len(new) < len(word) or tuple(new[-len(word) :]) != word
    if ids[place] in ends_of(call):
        assert place >= options.get("min_new_tokens", 0)
        assert len(start) + place >= options.get("min_length", 0)


def model_logprobs(call: Call, prompt: Ids, ids: Ids) -> list[np.ndarray[Any, Any]]:
    """Return the model's own log-probabilities at each place."""
    start = call.start(prompt)
    read = start if call.kind == "decoder-only" else [*prompt, BORDER, *start]
    rows = [call.rule([*read, *ids[:place]]).astype(np.float64) for place in range(len(ids))]
    return [row - row.max() - np.log(np.exp(row - row.max()).sum()) for row in rows]


def check_logprobs(call: Call, prompt: Ids, result: GenerationResult) -> None:
    count = call.options.get("logprobs")
    if count is None:
        assert result.logprobs is result.top_logprobs is None
        return
    assert result.logprobs is not None
    assert result.top_logprobs is not None
    ids = list(result.token_ids)
    known = model_logprobs(call, prompt, ids)
    expected = [row[token] for row, token in zip(known, ids, strict=True)]
    assert result.logprobs == pytest.approx(expected, abs=1e-5)
    for row, top in zip(known, result.top_logprobs, strict=True):
        best = np.sort(row)[::-1][: min(count, row.size)]
        assert [value for _, value in top] == pytest.approx(best.tolist(), abs=1e-5)
        assert [row[token] for token, _ in top] == pytest.approx(best.tolist(), abs=1e-5)
        assert len({token for token, _ in top}) == len(top)


CHANGE_LOGITS = {
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size"),
    *("presence_penalty", "frequency_penalty"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "suppress_tokens"),
    *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "min_new_tokens"),
    *("min_length", "exponential_decay_length_penalty", "temperature", "top_k", "top_p", "min_p"),
    *("typical_p", "epsilon_cutoff", "eta_cutoff"),
}


def check_scores(call: Call, prompt: Ids, results: Results) -> None:
    """Check that hypotheses are sorted by score, and each score."""
    if "num_beams" not in call.options:
        assert all(result.sequence_score is None for result in results)
        return
    scores = [result.sequence_score for result in results]
    assert scores == sorted(scores, key=lambda score: -score)
    if "num_beam_groups" in call.options:  # of which each penalizes, and may find the same
        return
    assert call.options.get("do_sample") or len({r.token_ids for r in results}) == len(results)
    if not CHANGE_LOGITS & set(call.options) and not call.options.get("do_sample"):
        for result in results:
            ids = list(result.token_ids)
            known = model_logprobs(call, prompt, ids)
            total = sum(float(row[token]) for row, token in zip(known, ids, strict=True))
            expected = total / len(ids) ** call.options.get("length_penalty", 1.0)
            assert result.sequence_score == pytest.approx(expected, rel=1e-4, abs=1e-4)
