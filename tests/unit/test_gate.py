"""The quality gate: what it tries and in which order, what passes and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edgeseq.quantize import QuantizationError
from edgeseq.quantize.gate import Gate, probe_windows
from edgeseq.quantize.recipes import Recipe, find_recipe
from edgeseq.runtime.evaluation.losses import Comparison, Loss
from edgeseq.runtime.request.passages import Window

WINDOWS = [Window((), list(range(301)), 1) for _ in range(4)]
LAYERS = [f"layer {number}" for number in range(12)]
LIMIT = 0.01


def comparison(rise: float, divergence: float = 0.0) -> Comparison:
    return Comparison(
        reference=Loss(tokens=1, nats=2.0),
        candidate=Loss(tokens=1, nats=2.0 + math.log1p(rise)),
        kl_divergence=divergence,
        top1_agreement=0.9,
    )


@dataclass(frozen=True)
class Scripted:
    """A candidate that holds only its losses."""

    recipe: Recipe
    costs: dict[str, float]  # rise of perplexity, by layer, where it is not kept
    int8_cache_costs: float = 0.0
    floor: float = 0.0  # what is lost anyway
    layers: list[str] = field(default_factory=lambda: list(LAYERS))

    @property
    def keepable(self) -> list[str]:
        return [name for name in self.layers if name not in self.recipe.kept_layers]

    def keeping(self, layers: Sequence[str]) -> Scripted:
        kept = self.recipe.kept_layers | {*layers}
        return replace(self, recipe=replace(self.recipe, kept_layers=kept))

    @property
    def rise(self) -> float:
        lossy = {n: c for n, c in self.costs.items() if n not in self.recipe.kept_layers}
        cache = self.int8_cache_costs if self.recipe.kv_cache == "int8" else 0.0
        return self.floor + sum(lossy.values()) + cache


@dataclass(frozen=True)
class ScriptedGate(Gate):
    """A gate that returns scripted losses and records its measurements."""

    asked: list[tuple[frozenset[str], str, int]] = field(default_factory=list)

    def measure(self, candidate: Any, windows: Sequence[Window], tell: Any = None) -> Comparison:
        recipe = candidate.recipe
        self.asked.append((recipe.kept_layers, recipe.kv_cache, len(windows)))
        return comparison(candidate.rise, candidate.rise)


def gate(limit: float = LIMIT) -> ScriptedGate:
    unused: Any = None
    return ScriptedGate(unused, WINDOWS, limit, Path(), lambda message: None)


def candidate(name: str = "int4", **options: Any) -> Scripted:
    """Return a candidate; its cache is in float32 unless the recipe is ``int8``."""
    recipe = replace(find_recipe(name), kv_cache="int8" if name == "int8" else "float32")
    return Scripted(recipe, options.pop("costs", {}), **options)


def admit(held: Gate, what: Any, *, other_cache: bool = True, allow_loss: bool = False) -> Any:
    return held.admit(what, other_cache=other_cache, allow_loss=allow_loss)


@pytest.mark.parametrize("rise", [-0.2, 0.0, 0.009])
def test_a_good_candidate_passes_as_it_is(rise: float) -> None:
    held, what = gate(), candidate("int8", floor=rise)
    best, measured = admit(held, what)
    assert best is what
    assert measured.perplexity_rise == pytest.approx(rise)
    assert held.asked == [(frozenset(), "int8", len(WINDOWS))]


def test_a_loss_equal_to_the_limit_passes() -> None:
    rise = comparison(LIMIT).perplexity_rise
    held = gate(rise)
    admit(held, candidate("int8", floor=LIMIT))
    assert len(held.asked) == 1


def test_a_float_cache_is_tried_first() -> None:
    held = gate()
    best, _ = admit(held, candidate("int8", int8_cache_costs=0.05))
    assert best.recipe.kv_cache == "float32"
    assert best.recipe.kept_layers == frozenset()
    assert [cache for _, cache, _ in held.asked] == ["int8", "float32"]


def test_a_cache_that_was_asked_for_stays() -> None:
    what = candidate("int8", int8_cache_costs=0.005, costs={LAYERS[2]: 0.02})
    best, _ = admit(gate(), what, other_cache=False)
    assert best.recipe.kv_cache == "int8"
    assert best.recipe.kept_layers == {LAYERS[2]}


def test_a_float_cache_that_does_not_help_is_dropped() -> None:
    best, _ = admit(gate(), candidate("int8", int8_cache_costs=-0.001, costs={LAYERS[2]: 0.05}))
    assert best.recipe.kv_cache == "int8"
    assert best.recipe.kept_layers == {LAYERS[2]}


def test_no_other_cache_for_a_candidate_without_int8() -> None:
    held = gate()
    admit(held, candidate("int4", floor=0.5), allow_loss=True)
    assert {cache for _, cache, _ in held.asked} == {"float32"}


def test_the_most_sensitive_layers_are_kept() -> None:
    costs = dict.fromkeys(LAYERS, 0.001) | {LAYERS[7]: 0.05, LAYERS[3]: 0.04}
    best, measured = admit(gate(0.015), candidate(costs=costs))
    assert best.recipe.kept_layers == {LAYERS[7], LAYERS[3]}
    assert measured.perplexity_rise == pytest.approx(0.01)


def test_one_layer_is_kept_where_it_is_enough() -> None:
    costs = dict.fromkeys(LAYERS, 0.001) | {LAYERS[7]: 0.05, LAYERS[3]: 0.004}
    best, _ = admit(gate(0.02), candidate(costs=costs))
    assert best.recipe.kept_layers == {LAYERS[7]}


def test_layers_are_probed_on_some_of_the_text() -> None:
    held = gate()
    admit(held, candidate(costs={LAYERS[0]: 0.02}))
    probes = held.asked[1:-1]
    assert [kept for kept, _, _ in probes] == [frozenset({name}) for name in LAYERS]
    assert {windows for _, _, windows in probes} == {2}
    assert [windows for _, _, windows in (held.asked[0], held.asked[-1])] == [4, 4]


def test_only_the_layers_with_the_largest_errors_are_probed() -> None:
    """They come first; the others follow in the order of their errors."""
    layers = [f"layer {number}" for number in range(80)]
    held = gate()
    what = candidate(costs={layers[9]: 0.05, layers[30]: 0.001}, layers=layers)
    best, _ = admit(held, what)
    assert best.recipe.kept_layers == {layers[9]}
    probed = [kept for kept, _, windows in held.asked if windows == 2]
    assert probed == [frozenset({name}) for name in layers[:16]]


def test_at_most_a_quarter_of_the_layers_is_kept() -> None:
    what = candidate(costs=dict.fromkeys(LAYERS, 0.1))
    best, _ = admit(gate(), what, allow_loss=True)
    assert len(best.recipe.kept_layers) == 3


def test_one_layer_is_kept_where_there_are_few() -> None:
    what = candidate(costs={"b": 0.1, "a": 0.01}, layers=["a", "b"])
    best, _ = admit(gate(0.05), what)
    assert best.recipe.kept_layers == {"b"}


def test_layers_that_were_asked_for_stay_and_are_not_tried_again() -> None:
    what = candidate(costs={LAYERS[0]: 0.02, LAYERS[1]: 0.03}).keeping([LAYERS[5]])
    held = gate(0.025)
    best, _ = admit(held, what)
    assert best.recipe.kept_layers == {LAYERS[5], LAYERS[1]}
    assert all(LAYERS[5] in kept for kept, _, _ in held.asked)
    assert len(held.asked) == 1 + 11 + 1


def test_nothing_left_to_keep() -> None:
    with pytest.raises(QuantizationError):
        admit(gate(), candidate(floor=0.5).keeping(LAYERS))


def test_refused_in_one_sentence() -> None:
    with pytest.raises(QuantizationError) as caught:
        admit(gate(), candidate(floor=0.5, costs={LAYERS[0]: 0.1}))
    message = str(caught.value)
    assert message.startswith(
        "Perplexity rises by 50.00%, more than the limit of 1.00%, with 1 layer"
    )
    assert "--max-loss" in message
    assert "--allow-loss" in message
    assert "\n" not in message


def test_the_best_candidate_is_taken_where_a_loss_is_allowed() -> None:
    what = candidate("int8", floor=0.5, costs={LAYERS[4]: 0.1}, int8_cache_costs=0.2)
    best, measured = admit(gate(), what, allow_loss=True)
    assert best.recipe.kv_cache == "float32"
    assert best.recipe.kept_layers >= {LAYERS[4]}
    assert measured.perplexity_rise == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (1.0, 900.0),
        (800.0, 900.0),
        (1.0, math.nan),
    ],
)
def test_losses_beyond_all_floats_never_pass(reference: float, found: float) -> None:
    """Losses that cannot be compared, or have risen beyond floats, never pass."""

    class Huge(ScriptedGate):
        def measure(
            self, candidate: Any, windows: Sequence[Window], tell: Any = None
        ) -> Comparison:
            losses = (Loss(tokens=1, nats=nats) for nats in (reference, found))
            names = dict(zip(("reference", "candidate"), losses, strict=True))
            return Comparison(**names, kl_divergence=50.0, top1_agreement=0.1)

    unused: Any = None
    with pytest.raises(QuantizationError):
        admit(Huge(unused, WINDOWS, LIMIT, Path(), lambda message: None), candidate())


@pytest.mark.parametrize(("tokens", "count"), [(1, 1), (300, 1), (301, 2), (10**6, 4)])
def test_probes_are_the_first_windows(tokens: int, count: int) -> None:
    assert probe_windows(WINDOWS, tokens) == WINDOWS[:count]


def test_no_windows_to_probe() -> None:
    assert probe_windows([], 10) == []
