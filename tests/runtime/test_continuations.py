"""The answers and continuations that an evaluation generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from edgeseq.runtime import Model, load
from edgeseq.runtime.evaluation.continuations import agreement, answers
from edgeseq.runtime.request.passages import Passages, pair_passages


def test_answers_are_those_of_each_source_alone(t5_model: Model) -> None:
    sources = [f"{'Once upon a ' * (i % 5)}time {i}" for i in range(70)]
    pairs = [(source, "a clever fox") for source in sources]
    passages = pair_passages(pairs, t5_model.bundle.manifest, t5_model.tokenizer)
    limit = 2 * len(t5_model.tokenizer.encode("a clever fox"))
    counts: list[int] = []
    found = answers(t5_model, passages, counts.append)
    expected = t5_model.generate(sources, do_sample=False, max_new_tokens=limit)
    assert found == [result.text for result in expected]
    assert counts == [32, 32, 6]


def test_answers_to_prompts_of_a_decoder_only_model(model: Model) -> None:
    prompts = ["Once upon a time", "The fox", "He said: “Let us go home!”"]
    passages = pair_passages(
        [(prompt, "a fox") for prompt in prompts], model.bundle.manifest, model.tokenizer
    )
    limit = 2 * (len(model.tokenizer.encode("a fox")) + 1)
    expected = model.generate(prompts, do_sample=False, max_new_tokens=limit)
    assert answers(model, passages) == [result.text for result in expected]
    assert agreement(model, model, passages).continuations == 3


def test_the_share_of_identical_continuations(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second prompt gets another continuation."""
    ids = list(range(5, 305))
    passages = Passages(windows=(), size_bytes=1, ids=ids)
    generate = Model.generate_ids
    other = load(model.bundle.folder, threads=1)
    prompts: list[Sequence[int]] = []

    def changed(self: Model, given: Sequence[Sequence[int]], **options: Any) -> Any:
        if self is not other:
            return generate(self, given, **options)
        prompts.extend(given)
        return generate(self, [ids[:32] if i % 2 else p for i, p in enumerate(given)], **options)

    monkeypatch.setattr(Model, "generate_ids", changed)
    found = agreement(model, other, passages)
    assert [prompt[0] for prompt in prompts] == [5, 38, 72, 105, 139, 172, 206, 239, 273]
    assert {len(prompt) for prompt in prompts} == {32}
    assert (found.continuations, found.tokens) == (9, 64)
    assert found.identical == 5 / 9


@pytest.mark.parametrize(("count", "length"), [(1, 1), (31, 31), (33, 32)])
def test_prompts_of_a_short_text(model: Model, count: int, length: int) -> None:
    passages = Passages(windows=(), size_bytes=1, ids=list(range(count)))
    found = agreement(model, model, passages)
    assert (found.continuations, found.tokens, found.identical) == (1, 64, 1.0)
