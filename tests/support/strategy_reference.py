"""Transformers' results for a case of the parity tests, and their comparison with ours."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    EncoderRepetitionPenaltyLogitsProcessor,
    LogitsProcessor,
)

from edgeseq.runtime import Model
from edgeseq.runtime.results import GenerationResult
from tests.support.strategy_cases import Case, Words, lengths_of, options_of

TOLERANCE = 1e-4
FILLED_UP = (
    -1e8
)  # scores below are of copies, where fewer than num_beams continuations are possible
NEITHER = ("logits_processor", "logprobs", "prompt_lookup_num_tokens", "prefix_allowed_tokens_fn")


class Text(NamedTuple):
    """A generated text, with a score from beam search."""

    token_ids: tuple[int, ...]
    score: float | None


class PerRow(LogitsProcessor):
    """A caller's logits processor, called for each row as edgeseq does."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = zip(input_ids.numpy(), scores.numpy(), strict=True)
        return torch.from_numpy(np.stack([self.function(*row) for row in rows]))


@dataclass(frozen=True)
class Subject:
    """A model in both libraries, with prompts and tokens of its texts."""

    model: Model
    network: Any  # of Transformers, float32, with eager attention
    exact: Any  # the same in float64
    prompts: Mapping[str, Sequence[Sequence[int]]]
    words: Words

    @property
    def has_encoder(self) -> bool:
        return bool(self.network.config.is_encoder_decoder)

    @torch.no_grad()
    def logits(self, prompt: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
        """Return the network's logits for each of the token ids, (token_ids, vocabulary)."""
        if self.has_encoder:
            start = [self.network.config.decoder_start_token_id]
            decoder_ids = torch.tensor([[*start, *token_ids[:-1]]])
            return self.network(torch.tensor([prompt]), decoder_input_ids=decoder_ids).logits[0]
        ids = torch.tensor([[*prompt, *token_ids[:-1]]])
        return self.network(ids).logits[0, len(prompt) - 1 :]


def new_subject(
    model: Model, network: Any, pool: Sequence[Sequence[int]], end: int | None = None
) -> Subject:
    """Return a subject whose prompts begin those of ``pool``; ``end`` is the model's end token."""
    network.generation_config = GenerationConfig(pad_token_id=0, decoder_start_token_id=0)
    exact = copy.deepcopy(network).double()
    prompts = {
        name: [ids[:n] for ids, n in zip(pool, lengths_of(name), strict=False)]
        for name in ("one", "short", "equal", "ragged", "many")
    }
    subject = Subject(model, network, exact, prompts, Words((0, 0, 0), (), 0))
    texts = [
        text.token_ids
        for name in ("ragged", "many")
        for prompt in prompts[name]
        for beams in (1, 3)
        for text in reference_texts(
            subject, network, [prompt], {"max_new_tokens": 24, "num_beams": beams}
        )
    ]
    used = {token for prompt in pool for token in prompt} | {0}
    counts = Counter(token for text in texts for token in set(text))
    common = sorted(counts, key=lambda token: (-counts[token], token))
    common += [token for token in range(network.config.vocab_size) if token not in counts]
    ends = [token for token in common if token not in used][:3]
    if end is not None:
        ends = [end, *(token for token in ends if token != end)][:3]
    others = tuple(token for token in common if token not in ends)[:10]
    words = Words((ends[0], ends[1], ends[2]), others, network.config.vocab_size)
    return Subject(model, network, exact, prompts, words)


@torch.no_grad()
def reference_texts(
    subject: Subject,
    network: Any,
    prompts: Sequence[Sequence[int]],
    options: Mapping[str, Any],
    first: int = 0,
) -> list[Text]:
    """Return ``network``'s texts for prompts of one length; ``first``: index of the first prompt.

    The processor of ``encoder_repetition_penalty`` is replaced: Transformers' own changes only
    the first rows of the beams, one for each prompt.
    """
    ids = torch.tensor(prompts)
    rest: dict[str, Any] = {name: options[name] for name in options if name not in NEITHER}
    beams = rest.get("num_beams", 1)
    processors: list[LogitsProcessor] = []
    if "logits_processor" in options:
        processors.append(PerRow(options["logits_processor"]))
    if (penalty := rest.get("encoder_repetition_penalty", 1.0)) != 1.0:
        rows = ids.repeat_interleave(beams, dim=0)
        processors.append(EncoderRepetitionPenaltyLogitsProcessor(penalty, rows))
    if allowed := options.get("prefix_allowed_tokens_fn"):
        rest["prefix_allowed_tokens_fn"] = lambda number, tokens: allowed(first + number, tokens)
    output = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=processors,
        return_dict_in_generate=True,
        output_scores=True,
        **rest,
    )
    begin = 1 if subject.has_encoder else ids.shape[1]
    scores = output.sequences_scores.tolist() if beams > 1 else [None] * len(output.sequences)
    assert beams == 1 or min(scores) > FILLED_UP, "there are fewer continuations than num_beams"
    ends = set(options.get("eos_token_id") or ())
    return [
        Text(_until_end(row[begin:].tolist(), ends), score)
        for row, score in zip(output.sequences, scores, strict=True)
    ]


def _until_end(token_ids: Sequence[int], ends: set[int]) -> tuple[int, ...]:
    """Return the ids up to the first end of sequence."""
    end = next((place + 1 for place, token in enumerate(token_ids) if token in ends), None)
    return tuple(token_ids[:end])


class Outcome(NamedTuple):
    """The result of comparing a case."""

    wrong: str | None  # what is not equal
    is_tie: bool  # Transformers itself decides otherwise in float64
    finish_reasons: Sequence[str]


def compare(subject: Subject, case: Case) -> Outcome:
    """Generate a case on both sides, each prompt of the reference alone.

    Prompts of one length are given to Transformers as a batch too. Of different lengths it would
    see padding where we see none, and its processors would take that for tokens.
    """
    options = options_of(case, subject.words)
    prompts = subject.prompts[case["prompts"]]
    results = subject.model.generate_ids(prompts, **options)
    reasons = [result.finish_reason for result in results]
    expected = _one_by_one(subject, subject.network, prompts, options)
    wrong = difference(subject, prompts, results, expected, options)
    if wrong is None and case["prompts"] == "equal":
        batch = reference_texts(subject, subject.network, prompts, options)
        wrong = difference(subject, prompts, results, batch, options)
    if wrong is None:
        return Outcome(None, False, reasons)
    exact = _one_by_one(subject, subject.exact, prompts, options)
    if [text.token_ids for text in exact] != [text.token_ids for text in expected]:
        return Outcome(None, True, reasons)
    return Outcome(wrong, False, reasons)


def _one_by_one(
    subject: Subject, network: Any, prompts: Sequence[Sequence[int]], options: Mapping[str, Any]
) -> list[Text]:
    return [
        text
        for number, prompt in enumerate(prompts)
        for text in reference_texts(subject, network, [prompt], options, first=number)
    ]


def difference(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    results: Sequence[GenerationResult],
    expected: Sequence[Text],
    options: Mapping[str, Any],
) -> str | None:
    """Return what is not as expected in the results; None if all is."""
    if len(results) != len(expected):
        return f"{len(results)} results, not {len(expected)}"
    count = options.get("num_return_sequences", 1)
    for number, (result, (token_ids, score)) in enumerate(zip(results, expected, strict=True)):
        if result.token_ids != token_ids:
            return f"text {number}: {result.token_ids}, not {token_ids}"
        if (result.sequence_score is None) != (score is None):
            return f"score {number}: {result.sequence_score}, not {score}"
        if score is not None and not abs(result.sequence_score - score) <= TOLERANCE * max(
            1.0, abs(score)
        ):
            return f"score {number}: {result.sequence_score}, not {score}"
        is_end = token_ids[-1] in (options["eos_token_id"] or ())
        if result.finish_reason != ("eos" if is_end else "length"):
            return f"finish reason {number}: {result.finish_reason} of {token_ids}"
        if wrong := logprobs_difference(subject, prompts[number // count], result, options):
            return f"logprobs {number}: {wrong}"
    return None


def logprobs_difference(
    subject: Subject, prompt: Sequence[int], result: GenerationResult, options: Mapping[str, Any]
) -> str | None:
    """Compare log-probabilities, alternatives included, with those of one forward pass."""
    if "logprobs" not in options:
        return None if result.logprobs is None else "there are some"
    assert result.logprobs is not None
    assert result.top_logprobs is not None
    logprobs = subject.logits(prompt, result.token_ids).log_softmax(-1).numpy()
    places = np.arange(len(logprobs))
    of_tokens = logprobs[places, list(result.token_ids)]
    if not np.allclose(result.logprobs, of_tokens, rtol=0, atol=TOLERANCE):
        return f"{result.logprobs}, not {of_tokens}"
    ids, values = np.moveaxis(np.array(result.top_logprobs), -1, 0)  # (tokens, alternatives)
    best = -np.sort(-logprobs)[:, : options["logprobs"]]
    at_ids = logprobs[places[:, None], ids.astype(int)]
    if values.shape != best.shape or len({len(set(row)) for row in ids}) != 1:
        return f"alternatives {result.top_logprobs}"
    for right in (best, at_ids):
        if not np.allclose(values, right, rtol=0, atol=TOLERANCE):
            return f"alternatives {values}, not {right}"
    return None
