"""The continuations that an evaluation generates."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseq.runtime import Model, load
from edgeseq.runtime.evaluation.continuations import agreement
from edgeseq.runtime.request.passages import Passages
from edgeseq.runtime.request.resolving import resolve_options


def test_texts_are_compared_up_to_the_end_of_sequence(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = Passages(windows=(), size_bytes=1, ids=list(range(5, 37)))
    [ended] = ends_of(model)
    continuations = {
        id(model): (7, 8, ended, 1),
        "same": (7, 8, ended, 2),
        "other": (7, 9, ended, 1),
        "longer": (7, 8, 3, ended),
    }
    other = load(model.bundle.folder, threads=1)
    shares = []
    for kind in ("same", "other", "longer"):

        def generate(self: Model, given: Any, kind: str = kind, **options: Any) -> Any:
            ids = continuations[id(model) if self is model else kind]
            return [SimpleNamespace(token_ids=ids) for _ in given]

        monkeypatch.setattr(Model, "generate_ids", generate)
        shares.append(agreement(model, other, passages).identical)
    assert shares == [1, 0, 0]


def ends_of(model: Model) -> Sequence[int]:
    manifest = model.bundle.manifest
    return resolve_options(manifest.generation, {}, manifest.kind).eos_token_ids


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
