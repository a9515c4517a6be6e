"""The recipe ``auto``: the fastest recipe on this machine that passes the quality gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeseq.quantize import QuantizationError, quantize_bundle, quantizing
from edgeseq.quantize.graph.network import Network
from edgeseq.quantize.probing import Speed, by_speed
from edgeseq.quantize.recipes import AUTOMATIC, Recipe, find_recipe
from edgeseq.runtime import Model, OptionError
from tests.support.errors import refusal

TEXT = "Once upon a time there was a clever fox; he said: let us go home! " * 12


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``order(*names)``: the recipes by speed, as if measured."""

    def set_order(*names: str) -> None:
        def ranked(_: Any, __: Any, recipes: Sequence[Recipe], *___: Any) -> list[Speed]:
            by_name = {recipe.name: recipe for recipe in recipes}
            return [Speed(by_name[name], 30.0 - i) for i, name in enumerate(names)]

        monkeypatch.setattr(quantizing, "by_speed", ranked)

    return set_order


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_every_recipe_is_measured(
    family: str, model: Model, t5_model: Model, tmp_path: Path
) -> None:
    source = (model if family == "gpt2" else t5_model).bundle
    networks = {role: Network(source, role) for role in source.manifest.roles}
    recipes = [find_recipe(name) for name in AUTOMATIC]
    found = by_speed(source, networks, recipes, tmp_path, 1)
    assert sorted(speed.recipe.name for speed in found) == sorted(AUTOMATIC)
    speeds = [speed.tokens_per_second for speed in found]
    assert speeds == sorted(speeds, reverse=True)
    assert min(speeds) > 0
    assert not list(tmp_path.iterdir())  # temporary bundles are deleted


def test_the_fastest_recipe_is_taken(
    bundle: Path, text: Path, tmp_path: Path, order: Callable[..., None]
) -> None:
    order("int8-weights", "int4", "int8")
    lines: list[str] = []
    options: dict[str, Any] = {"text": text, "perplexity_rise_limit": 10.0}
    made = quantize_bundle(
        bundle, tmp_path / "out", recipe="auto", progress=lines.append, **options
    )
    assert made.manifest.quantization.recipe == "int8-weights"
    assert "measuring the speed of int4, int8, int8-weights" in lines
    speeds = "int8-weights 30.0, int4 29.0, int8 28.0"
    assert f"tokens per second after 128 tokens of prompt: {speeds}" in lines


def test_a_recipe_that_loses_too_much_is_passed_over(
    bundle: Path, text: Path, tmp_path: Path, order: Callable[..., None], monkeypatch: Any
) -> None:
    order("int4", "int8", "int8-weights")
    admit = quantizing.Gate.admit

    def refuse(gate: Any, candidate: Any, **options: Any) -> Any:
        if candidate.recipe.name == "int4":
            raise QuantizationError("It loses too much.")
        return admit(gate, candidate, **options)

    monkeypatch.setattr(quantizing.Gate, "admit", refuse)
    lines: list[str] = []
    made = quantize_bundle(
        bundle, tmp_path / "out", recipe="auto", text=text, progress=lines.append, allow_loss=True
    )
    assert "int4 loses too much" in lines
    assert made.manifest.quantization.recipe == "int8"
    assert made.manifest.quantization.quality is not None
    # int8's limit counts for all, because one may be chosen without being named
    assert made.manifest.quantization.quality.perplexity_rise_limit == 0.005


def test_all_lose_too_much(
    bundle: Path, text: Path, tmp_path: Path, order: Callable[..., None], monkeypatch: Any
) -> None:
    order("int4", "int8", "int8-weights")

    def refuse(gate: Any, candidate: Any, **options: Any) -> Any:
        raise QuantizationError(f"{candidate.recipe.name} loses too much.")

    monkeypatch.setattr(quantizing.Gate, "admit", refuse)
    with pytest.raises(QuantizationError, match="int8-weights loses too much"):
        quantize_bundle(bundle, tmp_path / "out", recipe="auto", text=text)
    assert [path.name for path in tmp_path.iterdir()] == ["fox.txt"]


def test_a_block_size_belongs_to_a_recipe(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = refusal(
        OptionError, lambda: quantize_bundle(bundle, out, recipe="auto", block_size=32)
    )
    assert message == "A block size has no effect with the recipe 'auto': leave it out."
