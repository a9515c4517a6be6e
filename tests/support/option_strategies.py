"""Hypothesis strategies for calls with valid options of every decoding strategy."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from edgeseq.runtime import Model
from edgeseq.runtime.bundle.manifest import Kind
from tests.support.scripted_decoder import Ids
from tests.support.scripted_model import START, Hashed, scripted_model

Strategy = st.SearchStrategy[Any]
OF_SEVERAL = ("greedy", "sampling", "beam search", "beam sampling", "beam groups")
WAYS = (*OF_SEVERAL, "prompt lookup")
KINDS: tuple[Kind, ...] = ("decoder-only", "encoder-decoder")
STOPS = ("a", "b", "ab", ". ", "\n", "é", "ba a", "zz")


class Call(NamedTuple):
    """A model, prompts and options."""

    rule: Hashed
    kind: Kind
    max_positions: int | None
    prompts: list[Ids]
    options: dict[str, Any]

    @property
    def model(self) -> Model:
        return scripted_model(self.rule, self.kind, self.max_positions)

    def start(self, prompt: Ids) -> Ids:
        """Return the first tokens of the decoder."""
        return prompt if self.kind == "decoder-only" else [START]

    def limit(self, prompt: Ids) -> int:
        """Return the largest number of new tokens."""
        begin = len(self.start(prompt))
        longest: int = self.options.get("max_length", begin + 20)
        limit: int = self.options.get("max_new_tokens", longest - begin)
        return limit if self.max_positions is None else min(limit, self.max_positions - begin + 1)


def of_ids(vocabulary: int) -> dict[str, Strategy]:
    """Return strategies for the options of every decoding strategy."""
    ids = st.integers(0, vocabulary - 1)
    few = st.lists(ids, min_size=1, max_size=3)
    word = st.lists(ids, min_size=1, max_size=3).map(tuple)
    bias = st.floats(-5, 5).map(lambda number: round(number, 2))
    penalty = st.sampled_from([0.5, 0.9, 1.0, 1.2, 3.0])
    return {
        "stop_strings": st.sampled_from(STOPS) | st.lists(st.sampled_from(STOPS), min_size=1),
        "logprobs": st.integers(0, 3) | st.just(vocabulary + 5),
        "repetition_penalty": penalty,
        "encoder_repetition_penalty": penalty,
        "presence_penalty": st.sampled_from([-0.5, 0.0, 1.5]),
        "frequency_penalty": st.sampled_from([-0.5, 0.0, 1.5]),
        "no_repeat_ngram_size": st.integers(0, 3),
        "encoder_no_repeat_ngram_size": st.integers(0, 3),
        "bad_words_ids": st.lists(word, min_size=1, max_size=4),
        "sequence_bias": st.dictionaries(word, bias, min_size=1, max_size=4),
        "suppress_tokens": few,
        "begin_suppress_tokens": few,
        "forced_bos_token_id": ids,
        "forced_eos_token_id": ids | st.lists(ids, min_size=1, max_size=2),
        "remove_invalid_values": st.booleans(),
        "renormalize_logits": st.booleans(),
    }


ENDING: dict[str, Strategy] = {
    "min_new_tokens": st.integers(0, 8),
    "min_length": st.integers(0, 12),
    "exponential_decay_length_penalty": st.tuples(st.integers(0, 4), st.sampled_from([0.5, 1.5])),
}
DRAWING: dict[str, Strategy] = {
    "temperature": st.sampled_from([1e-6, 0.5, 1.0, 1.5, 1e6]),
    "top_k": st.integers(0, 12),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0.01, 1),
    "epsilon_cutoff": st.floats(0, 0.9),
    "eta_cutoff": st.floats(0, 0.9),
}
BEAMS: dict[str, Strategy] = {
    "length_penalty": st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
    "early_stopping": st.sampled_from([False, True, "never"]),
}
LOOKUP: dict[str, Strategy] = {"max_matching_ngram_size": st.integers(1, 3)}


@st.composite
def some_of(draw: st.DrawFn, strategies: dict[str, Strategy], at_most: int) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(strategies)), unique=True, max_size=at_most))
    return {name: draw(strategies[name]) for name in names}


@st.composite
def way_options(draw: st.DrawFn, way: str) -> dict[str, Any]:
    """Draw options of one decoding strategy."""
    if way == "greedy":
        return {}
    if way == "prompt lookup":
        guessed = {"prompt_lookup_num_tokens": draw(st.integers(1, 6))}
        return {**guessed, **draw(some_of(LOOKUP, 1))}
    options: dict[str, Any] = {}
    count = draw(st.integers(1, 3))
    if way.startswith("beam"):
        options = {"num_beams": draw(st.integers(2, 4)), **draw(some_of(BEAMS, 2))}
        count = min(count, options["num_beams"])
    if way == "beam groups":
        options["num_beams"] = 4
        options["num_beam_groups"] = draw(st.sampled_from([2, 4]))
        options["diversity_penalty"] = draw(st.sampled_from([0.5, 2.0]))
    if way.endswith("sampling"):
        options |= {
            "do_sample": True,
            "seed": draw(st.integers(0, 99)),
            **draw(some_of(DRAWING, 2)),
        }
    return {**options, "num_return_sequences": count}


@st.composite
def calls(draw: st.DrawFn, ways: tuple[str, ...] = WAYS, prompts: int = 3) -> Call:
    """Draw a scripted model of either kind, prompts, and valid options."""
    vocabulary = draw(st.integers(8, 40))
    context = draw(st.integers(0, 3))
    rule = Hashed(vocabulary, draw(st.integers(0, 99)), context, ties=draw(st.booleans()))
    kind = draw(st.sampled_from(KINDS))
    ids = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=6)
    way = draw(st.sampled_from(ways))
    several = 1 if way == "prompt lookup" else prompts
    batch = draw(st.lists(ids, min_size=1, max_size=several))
    ends = draw(st.none() | st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=3))
    options = {"eos_token_id": ends, **draw(way_options(way))}
    options |= draw(some_of(of_ids(vocabulary), 4))
    if ends is not None:
        options |= draw(some_of(ENDING, 1))
    longest = max(map(len, batch))
    if draw(st.booleans()):
        options["max_new_tokens"] = draw(st.integers(1, 12))
    elif draw(st.booleans()):
        options["max_length"] = longest + draw(st.integers(1, 12))
    positions = draw(st.none() | st.integers(longest, longest + 10))
    return Call(rule, kind, positions, batch, options)
