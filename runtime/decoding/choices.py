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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..decoder import CancelledError, Decoder, Logits, NewDecoder
from ..errors import OptionError, PromptError
from ..logits.softmax import log_softmax
from ..request.request import Request
from ..results import ChoiceProbability, GenerationResult, Timings
from .generation import Outputs

Logprobs = NDArray[np.float64]


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
    """Return the result of one prompt; ``cancelled`` is called before it and between its chunks."""
    token_ids = _spelled(outputs, start, choices)
    if cancelled():
        return _result((), (), prompt, began, began)
    decoder = new_decoder([prompt], len(start) + max(map(len, token_ids)))
    try:
        logits = decoder.prefill([start], cancelled)
        first = time.perf_counter()
        logprobs = [sum(known) for known in choice_logprobs(decoder, logits, token_ids)]
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


def choice_logprobs(
    decoder: Decoder, logits: Logits, choices: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Return the natural log-probability of each token of each choice.

    The only row of ``decoder`` holds the prompt, and ``logits`` (1, vocabulary) predict the token
    after it. Afterwards the row holds the same tokens as before.
    """
    after: dict[tuple[int, ...], Logprobs] = {(): log_softmax(logits[0])}
    _read_branches(decoder, (), choices, after)
    return [[float(after[tuple(ids[:i])][token]) for i, token in enumerate(ids)] for ids in choices]


def _read_branches(
    decoder: Decoder,
    prefix: tuple[int, ...],
    choices: Sequence[Sequence[int]],
    after: dict[tuple[int, ...], Logprobs],
) -> None:
    """Add to ``after`` the log-probabilities that follow each prefix of ``choices``.

    All choices start with ``prefix``, which the decoder has read.
    """
    for group in _by_next_token(len(prefix), choices).values():
        shared = _common_prefix(group)
        # The last token of a choice need not be read, because no token follows it.
        end = len(shared) if any(len(ids) > len(shared) for ids in group) else len(shared) - 1
        read = shared[len(prefix) : end]
        if read:
            for i, row in enumerate(decoder.read(read), len(prefix) + 1):
                after[shared[:i]] = log_softmax(row)
        _read_branches(decoder, shared, [ids for ids in group if len(ids) > len(shared)], after)
        if read:
            decoder.forget(len(read))


def _by_next_token(at: int, choices: Sequence[Sequence[int]]) -> Mapping[int, list[Sequence[int]]]:
    groups: dict[int, list[Sequence[int]]] = {}
    for ids in choices:
        groups.setdefault(ids[at], []).append(ids)
    return groups


def _common_prefix(choices: Sequence[Sequence[int]]) -> tuple[int, ...]:
    shortest = min(choices, key=len)
    for i, token in enumerate(shortest):
        if any(ids[i] != token for ids in choices):
            return tuple(shortest[:i])
    return tuple(shortest)
