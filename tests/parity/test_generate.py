"""Generation from a bundle, compared with Transformers on the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from transformers import GPT2LMHeadModel

from edgeseq.runtime import Model

GreedyIds = Callable[..., list[int]]


def test_greedy_ids_are_those_of_transformers(
    model: Model, reference: GPT2LMHeadModel, greedy_ids: GreedyIds
) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 320, length).tolist() for length in (3, 9, 1, 20, 5)]
    expected = [greedy_ids(reference, prompt, 64) for prompt in prompts]
    results = model.generate_ids(prompts, max_new_tokens=64)
    assert [list(result.token_ids) for result in results] == expected
    assert len(set(expected[0])) > 10  # not one token for ever


@pytest.mark.parametrize("text", ["Once upon a time", "fox “home”", "a"])
def test_stream_joins_to_the_text(model: Model, text: str) -> None:
    pieces = list(model.stream(text, max_new_tokens=40))
    assert "".join(pieces) == model.generate(text, max_new_tokens=40)[0].text
