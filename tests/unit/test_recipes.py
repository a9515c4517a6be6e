"""Recipes: their names, block sizes and storages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseq.quantize import RECIPES as EXPORTED
from edgeseq.quantize import weight_storages
from edgeseq.quantize.recipes import RECIPES, find_recipe
from edgeseq.quantize.rounding import Codes, round_weight
from edgeseq.quantize.weight_storages import BLOCK_SIZES, Blockwise, DynamicInt8, Float16, Float32
from edgeseq.runtime import OptionError
from tests.support.commands import Captured, help_text

WITH_BLOCKS = ("int4", "int8-weights")


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("quantize", "{int8,int4,int8-weights,fp16,auto}"),
        ("export", "{fp32,int8,int4,int8-weights,fp16,auto}"),
    ],
)
def test_the_command_line_knows_the_recipes(command: str, known: str, capsys: Captured) -> None:
    assert tuple(RECIPES) == ("int8", "int4", "int8-weights", "fp16")
    assert EXPORTED is RECIPES
    assert known in help_text(capsys, command, "--help")


@pytest.mark.parametrize(
    ("name", "layer", "kept", "kv_cache"),
    [
        ("int8", DynamicInt8(), Blockwise(8, 32), "int8"),
        ("int4", Blockwise(4, 32), Blockwise(8, 64), "int8"),
        ("int8-weights", Blockwise(8, 64), Float32(), "int8"),
        ("fp16", Float16(), Float32(), "float32"),
    ],
)
def test_the_storages_of_a_recipe(name: str, layer: Any, kept: Any, kv_cache: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert recipe.storage("h.0.mlp.input.weight") == layer
    stepwise = recipe.storage("decoder.0.ff.wi", in_steps=True)
    assert stepwise == (Blockwise(8, 64) if layer == DynamicInt8() else layer)
    assert recipe.kv_cache == kv_cache
    assert recipe.storage("wte", is_table=True) == recipe.table
    assert 0 < recipe.perplexity_rise_limit < 0.05
    keeping = replace(recipe, kept_layers=frozenset({"a"}))
    assert keeping.storage("a") == kept
    assert keeping.storage("a", in_steps=True) == kept
    assert keeping.storage("b") == layer
    assert keeping.storage("a", is_table=True) == recipe.kept_table
    assert keeping.storage("b", is_table=True) == recipe.table


def test_tables_are_as_small_as_layers() -> None:
    tables = {name: recipe.table for name, recipe in RECIPES.items()}
    assert tables == {
        "int8": Blockwise(8, 64),
        "int4": Blockwise(4, 32),
        "int8-weights": Blockwise(8, 64),
        "fp16": Float16(),
    }
    assert {str(recipe.kept_table) for recipe in RECIPES.values()} == {
        "int8 in blocks of 32",
        "int8 in blocks of 64",
        "float32",
    }


def test_the_largest_activations_stay_in_32_bits() -> None:
    recipe = find_recipe("fp16")
    assert recipe.storage("decoder.3.ff.wo", in_steps=True, is_large=True) == Float32()
    assert recipe.storage("decoder.3.ff.wi", in_steps=True) == Float16()
    assert find_recipe("int8").storage("a", is_large=True) == find_recipe("int8").layer


@pytest.mark.parametrize(
    ("storage", "text"),
    [
        (DynamicInt8(), "int8 by rows"),
        (Blockwise(4, 32), "int4 in blocks of 32"),
        (Blockwise(8, 64), "int8 in blocks of 64"),
        (Float32(), "float32"),
    ],
)
def test_storages_have_a_description(storage: object, text: str) -> None:
    assert str(storage) == text


@pytest.mark.parametrize("name", WITH_BLOCKS)
@pytest.mark.parametrize("size", BLOCK_SIZES)
def test_block_sizes(name: str, size: int) -> None:
    plain, recipe = find_recipe(name), find_recipe(name, size)
    assert recipe.block_size == size
    assert recipe.storage("a") == Blockwise(plain.layer.bits, size)
    assert recipe.storage("a", in_steps=True) == recipe.storage("a")
    changed = {"layer": recipe.layer, "step_layer": recipe.layer}
    assert recipe == replace(plain, **changed)  # nothing else: tables stay exact
    assert plain.block_size == plain.layer.block_size


def test_rows_have_no_blocks() -> None:
    assert find_recipe("int8").block_size is None


@pytest.mark.parametrize("name", ["int3", "INT8", "", "fp32", None, ["int8"]])
def test_unknown_recipe(name: Any) -> None:
    with pytest.raises(OptionError) as caught:
        find_recipe(name)
    assert (
        str(caught.value)
        == f"There is no recipe {name!r}: use int8, int4, int8-weights, fp16, auto."
    )


@pytest.mark.parametrize("size", [0, -32, 16, 48, 512, "32", 32.0, True])
@pytest.mark.parametrize("name", RECIPES)
def test_wrong_block_size(name: str, size: Any) -> None:
    with pytest.raises(OptionError) as caught:
        find_recipe(name, size)
    assert str(caught.value) == f"The block size is {size!r}; it must be one of 32, 64, 128, 256."


def test_block_size_without_blocks() -> None:
    with pytest.raises(OptionError) as caught:
        find_recipe("int8", 32)
    assert str(caught.value) == "A block size has no effect with the recipe 'int8': leave it out."


def test_the_error_of_a_storage_s_outputs() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 20)).astype(np.float32)
    rows = rng.normal(size=(30, 64)).astype(np.float32)
    found = {}
    for storage in (DynamicInt8(), Blockwise(8, 64), Blockwise(4, 32)):
        codes = storage.round(weight, None)
        found[storage] = storage.output_error(weight, codes, rows)
        plain = storage.output_error(weight, codes, None)
        assert plain == pytest.approx(np.square(codes.weight() - weight).sum() / 1280, rel=0.1)
    assert 0 < found[Blockwise(8, 64)] < found[DynamicInt8()] < found[Blockwise(4, 32)] < 0.02
    assert Float32().output_error(weight, None, rows) == 0
    zeros = np.zeros_like(weight)
    assert Blockwise(8, 64).output_error(zeros, Blockwise(8, 64).round(zeros, None), rows) == 0


def test_the_error_of_a_large_weight_is_measured_on_some_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weight_storages, "SEEN_OUTPUTS", 8)
    weight = np.ones((32, 20), np.float32) * 7  # a multiple of the scale
    weight[:, 1::3] = np.random.default_rng(0).normal(size=(32, 7))  # others than each third
    storage = Blockwise(4, 32)
    codes = storage.round(weight, None)
    assert storage.output_error(weight, codes, None) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("storage", "size"),
    [
        (DynamicInt8(), (100 + 4) * 20),
        (Blockwise(8, 64), 2 * 20 * (64 + 2)),
        (Blockwise(4, 32), 4 * 20 * (16 + 2)),
        (Float16(), 2 * 100 * 20),
        (Float32(), 4 * 100 * 20),
    ],
)
def test_the_size_of_a_stored_weight(storage: Any, size: int) -> None:
    assert storage.stored_bytes(100, 20) == size


def squared_error(codes: Codes, weight: NDArray[np.float32]) -> float:
    return float(np.square(codes.weight() - weight).sum())


def test_scales_of_blocks_are_half_floats() -> None:
    weight = np.random.default_rng(0).normal(size=(128, 6)).astype(np.float32)
    weight[:, 1] = 0
    weight[:, 2] *= 1e-9
    for storage in (Blockwise(4, 32), Blockwise(8, 64)):
        codes = storage.round(weight, None)
        floats = round_weight(weight, bits=storage.bits, group_size=storage.block_size)
        assert np.array_equal(codes.scales.astype(np.float16).astype(np.float32), codes.scales)
        assert (codes.scales != 0).all()
        assert squared_error(codes, weight) < 1.01 * squared_error(floats, weight)


def test_scales_of_huge_weights_stay_floats() -> None:
    weight = np.full((32, 2), 1e8, np.float32)
    codes = Blockwise(8, 32).round(weight, None)
    assert np.isfinite(codes.weight()).all()
    assert codes.weight() == pytest.approx(weight)
