"""Choices: the probability of each of a few given outputs. Common prefixes are read only once.

The probability of a choice is the probability of its tokens after the prompt. They include the
end-of-sequence token if the tokenizer adds one, as T5's does. Otherwise a choice that is a prefix
of another choice is at least as probable as the longer one. After an encoder a choice has all
tokens of a target, because the decoder was trained on them. In a decoder-only model it continues
the prompt, so the special tokens before a text are left out.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..decoder import CancelledError, Decoder, Logits, NewDecoder, never
from ..errors import OptionError, PromptError
from ..logits.softmax import log_softmax
from ..request.request import Request
from ..results import ChoiceProbability, GenerationResult, Timings
from .generation import Outputs

Logprobs = NDArray[np.float64]
PIECE = 256  # most tokens of a choice that are read at once


def choose(
    outputs: Outputs, new_decoder: NewDecoder, request: Request, began: float
) -> list[GenerationResult]:
    """Return, for each prompt, the most probable choice and the probabilities of all choices.

    ``began``: ``time.perf_counter()`` at the call's start. The result of a cancelled prompt has no
    choices. Raises ``OptionError`` for a choice that the tokenizer cannot spell or that has the
    tokens of another choice, ``PromptError`` for a choice that is too long after its prompt.
    """
    assert request.controls.choices is not None
    choices = [str(choice) for choice in request.controls.choices]
    cancelled = request.controls.is_cancelled
    pairs = enumerate(zip(request.prompts, request.starts, strict=True))
    return [
        replace(
            _choose(outputs, new_decoder, prompt, start, choices, began, cancelled),
            prompt_index=index,
            truncated_tokens=request.truncated[index],
        )
        for index, (prompt, start) in pairs
    ]


def _choose(
    outputs: Outputs,
    new_decoder: NewDecoder,
    prompt: Sequence[int],
    start: Sequence[int],
    choices: Sequence[str],
    began: float,
    cancelled: Callable[[], bool],
) -> GenerationResult:
    """Return the result of one prompt; ``cancelled`` is called before each read of tokens."""
    token_ids = _spelled(outputs, start, choices)
    if cancelled():
        return _result((), (), prompt, began, began)
    decoder = new_decoder([prompt], len(start) + max(map(len, token_ids)))
    try:
        logits = decoder.prefill([start], cancelled)
        first = time.perf_counter()
        logprobs = [sum(known) for known in choice_logprobs(decoder, logits, token_ids, cancelled)]
    except CancelledError:
        return _result((), (), prompt, began, time.perf_counter())
    finally:
        decoder.close()
    shares = np.exp(np.array(logprobs) - max(logprobs))
    shares /= shares.sum()
    ranked = sorted(range(len(choices)), key=lambda i: -logprobs[i])
    found = tuple(
        ChoiceProbability(text=choices[i], probability=float(shares[i]), logprob=logprobs[i])
        for i in ranked
    )
    return _result(found, token_ids[ranked[0]], prompt, began, first)


def _spelled(outputs: Outputs, start: Sequence[int], choices: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each choice; raise as ``choose`` does."""
    token_ids = [outputs.encode(choice) for choice in choices]
    positions = outputs.manifest.dimensions.max_positions
    form = outputs.manifest.tokenizer
    languages = frozenset() if form.languages is None else {*form.languages.ids.values()}
    for choice, ids in zip(choices, token_ids, strict=True):
        text = outputs.tokenizer.decode([token for token in ids if token not in languages])
        if not ids or _letters(text) != _letters(choice):
            raise OptionError(
                f"The model's vocabulary cannot spell {choice!r:.60}: pass other choices."
            )
        if token_ids.count(ids) > 1:
            raise OptionError(
                f"The choice {choice!r:.60} has the same tokens as another choice: pass one of "
                "them."
            )
        if positions is not None and len(start) + len(ids) - 1 > positions:
            raise PromptError(
                f"The prompt and the choice {choice!r:.60} need more than the model's {positions} "
                "positions: shorten the prompt."
            )
    return token_ids


def _result(
    found: Sequence[ChoiceProbability],
    token_ids: Sequence[int],
    prompt: Sequence[int],
    began: float,
    first: float,
) -> GenerationResult:
    """Return the result of a prompt.

    ``found``: the choices, the most probable first; empty if the call was cancelled.
    """
    return GenerationResult(
        text=found[0].text if found else "",
        token_ids=tuple(token_ids),
        finish_reason="stop" if found else "cancelled",
        prompt_tokens=len(prompt),
        generated_tokens=len(token_ids),
        timings=Timings(first_token_s=first - began, total_s=time.perf_counter() - began),
        choices=tuple(found),
    )


def _letters(text: str) -> str:
    """Return ``text`` in NFKC form and without spaces, because a tokenizer may change these."""
    return "".join(unicodedata.normalize("NFKC", text).split())


class _Branch(NamedTuple):
    """Choices with the same next token, and the log-probabilities (vocabulary,) of that token."""

    after: Logprobs
    members: list[int]


def choice_logprobs(
    decoder: Decoder,
    logits: Logits,
    choices: Sequence[Sequence[int]],
    cancelled: Callable[[], bool] = never,
) -> list[list[float]]:
    """Return the natural log-probability of each token of each choice.

    The only row of ``decoder`` holds the prompt, and ``logits`` (1, vocabulary) predict the token
    after it. Afterwards the row holds the same tokens as before. Raises ``CancelledError`` once
    ``cancelled`` returns True, which is called before each read.
    """
    known: list[list[float]] = [[] for _ in choices]

    def branches(after: Logprobs, members: Sequence[int]) -> list[_Branch]:
        """Return the groups of choices that have the same next token; the first group is last."""
        at = len(known[members[0]])
        groups: dict[int, list[int]] = {}
        for number in members:
            groups.setdefault(choices[number][at], []).append(number)
        return [_Branch(after, group) for group in groups.values()][::-1]

    # A branch to read, or a number of tokens to forget. A recursion could become too deep.
    pending: list[_Branch | int] = [*branches(log_softmax(logits[0]), range(len(choices)))]
    while pending:
        branch = pending.pop()
        if isinstance(branch, int):
            decoder.forget(branch)
            continue
        after, members = branch
        ids = choices[members[0]]
        at, shared = len(known[members[0]]), _common_length([choices[n] for n in members])
        for number in members:
            known[number].append(float(after[ids[at]]))
        rest = [number for number in members if len(choices[number]) > shared]
        # The last token of a choice need not be read, because no token follows it.
        end = shared if rest else shared - 1
        for i, row in enumerate(_read(decoder, ids[at:end], cancelled), at + 1):
            after = log_softmax(row)
            if i < shared:
                for number in members:
                    known[number].append(float(after[ids[i]]))
        if end > at:
            pending.append(end - at)
        if rest:
            pending += branches(after, rest)
    return known


def _read(
    decoder: Decoder, tokens: Sequence[int], cancelled: Callable[[], bool]
) -> Iterator[NDArray[np.float32]]:
    """Read tokens; yield the logits (vocabulary,) after each of them."""
    for begin in range(0, len(tokens), PIECE):
        if cancelled():
            raise CancelledError(begin)
        yield from decoder.read(tokens[begin : begin + PIECE])


def _common_length(choices: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that all choices begin with."""
    shortest = min(choices, key=len)
    for i, token in enumerate(shortest):
        if any(ids[i] != token for ids in choices):
            return i
    return len(shortest)
