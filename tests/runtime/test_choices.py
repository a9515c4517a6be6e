"""``choices``: exact probabilities of given outputs; shared tokens are read once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeseq.runtime import Model, OptionError, PromptError
from edgeseq.runtime.decoder import CancelledError
from edgeseq.runtime.decoding.choices import choice_logprobs
from edgeseq.runtime.logits.softmax import log_softmax

VOCABULARY = 9


class ScriptedDecoder:
    """A decoder of one row whose logits follow from its tokens; it counts the tokens it reads."""

    def __init__(self) -> None:
        self.tokens: list[int] = [3]
        self.reads = 0

    def logits(self) -> np.ndarray:
        seed = sum((i + 1) * token for i, token in enumerate(self.tokens))
        return np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32)

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        rows = []
        for token in tokens:
            self.tokens.append(token)
            self.reads += 1
            rows.append(self.logits())
        return np.array(rows)

    def forget(self, count: int) -> None:
        del self.tokens[len(self.tokens) - count :]


CHOICES = [
    [[1]],
    [[1], [2]],
    [[1, 2, 3], [1, 2, 4], [1, 5], [6]],
    [[1, 2], [1, 2, 3], [1, 2, 3, 4]],
    [[1, 1, 1], [1, 1], [1]],
    [[4, 5, 6, 7], [4, 5, 6, 8]],
]


@pytest.mark.parametrize("choices", CHOICES)
def test_every_token_is_scored_after_those_before_it(choices: list[list[int]]) -> None:
    decoder: Any = ScriptedDecoder()
    found = choice_logprobs(decoder, decoder.logits()[None], choices)
    for ids, known in zip(choices, found, strict=True):
        expected = []
        for i, token in enumerate(ids):
            alone = ScriptedDecoder()
            alone.tokens += ids[:i]
            expected.append(log_softmax(alone.logits())[token])
        assert known == pytest.approx(expected)
    assert decoder.tokens == [3]


@pytest.mark.parametrize(("choices", "reads"), list(zip(CHOICES, [0, 0, 2, 3, 2, 3], strict=True)))
def test_shared_tokens_are_read_once_and_last_ones_not_at_all(
    choices: list[list[int]], reads: int
) -> None:
    decoder: Any = ScriptedDecoder()
    choice_logprobs(decoder, decoder.logits()[None], choices)
    assert decoder.reads == reads


def test_choices_are_cancelled_between_branches() -> None:
    decoder: Any = ScriptedDecoder()
    answers = iter([False, True])
    with pytest.raises(CancelledError):
        choice_logprobs(
            decoder, decoder.logits()[None], [[1, 2], [2, 3], [3, 4]], lambda: next(answers)
        )
    assert decoder.reads == 1


def test_gpt2_gives_the_probabilities_of_score(model: Model) -> None:
    text, choices = "Once upon a time", [" there was", " there is", " he", " a fox; he"]
    [result] = model.generate(text, choices=choices)
    assert result.choices is not None
    known = len(model.tokenizer.encode(text))
    expected = {}
    for choice in choices:
        ids = [*model.tokenizer.encode(text), *model.tokenizer.encode(choice)]
        [scored] = model.generate_ids(
            [ids[:known]],
            max_new_tokens=len(ids) - known,
            do_sample=False,
            eos_token_id=None,
            logprobs=0,
            prefix_allowed_tokens_fn=lambda _, tokens, ids=ids: [ids[len(tokens)]],
        )
        assert scored.logprobs is not None
        expected[choice] = sum(scored.logprobs)
    found = {choice.text: choice.logprob for choice in result.choices}
    assert found == pytest.approx(expected, abs=1e-4)
    total = sum(np.exp(value) for value in expected.values())
    for choice in result.choices:
        assert choice.probability == pytest.approx(np.exp(expected[choice.text]) / total, rel=1e-4)
    ranked = sorted(choices, key=lambda choice: -expected[choice])
    assert [choice.text for choice in result.choices] == ranked
    assert result.text == ranked[0]
    assert sum(choice.probability for choice in result.choices) == pytest.approx(1.0)


def test_t5_counts_the_end_of_sequence(t5_model: Model) -> None:
    source, choices = "Let us go", ["home", "a fox", "he"]
    [result] = t5_model.generate(source, choices=choices)
    assert result.choices is not None
    for choice in result.choices:
        expected = t5_model.score(source, choice.text).total
        assert choice.logprob == pytest.approx(expected, abs=1e-4)


def test_several_prompts(model: Model) -> None:
    texts = ["Once upon", "a fox", "he said"]
    together = model.generate(texts, choices=[" a", " time"])
    alone = [model.generate(text, choices=[" a", " time"])[0] for text in texts]
    assert [result.choices for result in together] == [result.choices for result in alone]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"choices": []}, "list of strings"),
        ({"choices": "yes"}, "list of strings"),
        ({"choices": ["a", ""]}, "none of them empty"),
        ({"choices": ["a", 1]}, "list of strings"),
        ({"choices": ["a", "b", "a"]}, "twice"),
        ({"choices": {"a", "b"}}, "list of strings"),
        ({"choices": {"a": 1}}, "list of strings"),
        ({"choices": iter(["a"])}, "list of strings"),
        ({"choices": ["a", "b"], "num_beams": 2}, "num_beams has no effect with choices"),
        ({"choices": ["a", "b"], "max_new_tokens": 2}, "max_new_tokens has no effect"),
        ({"choices": ["a", "b"], "regex": "a"}, "regex has no effect with choices"),
        ({"choices": ["a b " * 80, "b"]}, "positions"),
    ],
)
def test_choices_that_are_refused(model: Model, options: dict[str, Any], said: str) -> None:
    with pytest.raises((OptionError, PromptError), match=said):
        model.generate("Once", **options)


def test_cancelled_between_prompts(model: Model) -> None:
    asked = itertools.count()
    prompts, choices = ["Once", "Then", "So"], [" the king", " a fox"]
    model.generate(prompts[:1], choices=choices, cancel=lambda: next(asked) < 0)
    of_one = next(asked)
    found = model.generate(prompts, choices=choices, cancel=lambda: next(asked) > 2 * of_one)
    [first, *_] = model.generate(prompts, choices=choices)
    assert found[0].choices == first.choices
    for result in found[1:]:
        assert (result.text, result.choices, result.finish_reason) == ("", (), "cancelled")


def test_cancelled_between_the_chunks_of_a_prompt(demo_gpt2: Model) -> None:
    asked = itertools.count()
    choices = [" king", " queen"]
    prompt = "the king said to the queen " * 50
    [found] = demo_gpt2.generate(prompt, choices=choices, cancel=lambda: next(asked) >= 2)
    assert (found.text, found.finish_reason) == ("", "cancelled")
    [found] = demo_gpt2.generate(prompt, choices=choices, cancel=lambda: False)
    assert found.finish_reason == "stop"


def test_a_stream_has_no_choices(model: Model) -> None:
    with pytest.raises(OptionError, match="choices has no effect with stream"):
        model.stream("Once", choices=["a", "b"])


def test_choices_may_be_a_numpy_array(model: Model) -> None:
    [result] = model.generate("Once", choices=np.array([" a", " b"]))
    assert type(result.text) is str


@pytest.mark.parametrize(
    ("choices", "said"), [(["{}", "a"], "cannot spell"), (["R AY1", "R  AY1"], "same tokens")]
)
def test_choices_that_cannot_be_told_apart_or_spelled(
    demo_t5: Model, choices: list[str], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        demo_t5.generate("spell: R AY1 T", choices=choices)
