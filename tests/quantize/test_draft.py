"""A draft: each weight is rounded for the inputs that it has in the changed model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeseq.export import export_checkpoint
from edgeseq.quantize.draft import Draft, linear_names, round_weights, table_names
from edgeseq.quantize.graph.network import Network
from edgeseq.quantize.graph.rewriting import rewrite
from edgeseq.quantize.recipes import Recipe, find_recipe
from edgeseq.quantize.resources.scratch import Scratch
from edgeseq.quantize.resources.workers import Workers
from edgeseq.quantize.rounding import Curvature, round_weight
from edgeseq.quantize.weight_storages import Blockwise, DynamicInt8
from edgeseq.runtime.bundle.manifest import ROLES, WEIGHTS_FILE_NAME
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.bundle.weights_file import WeightsFile
from edgeseq.runtime.request.passages import Window
from tests.support.calibration import observations

IDS = np.random.default_rng(0).integers(1, 320, (6, 90)).tolist()
WINDOWS = [Window(ids[:40], [0, *ids[40:]], 1) for ids in IDS]  # a decoder reads no source


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def source(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    seeded_t5: Callable[..., Any],
    save_t5: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    gpt2 = request.param == "gpt2"
    checkpoint = make_checkpoint() if gpt2 else save_t5(seeded_t5())
    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("bundle") / request.param)


def candidate(source: Bundle, recipe: Recipe) -> Draft:
    networks = {role: Network(source, role) for role in ROLES[source.manifest.kind]}
    with (
        tempfile.TemporaryDirectory() as folder,
        Scratch(Path(folder)) as scratch,
        Workers(2) as workers,
    ):
        return round_weights(source, networks, recipe, WINDOWS, scratch, workers)


def in_float32(made: Draft, folder: Path) -> Bundle:
    """Return the draft's changed model without rounding."""
    manifest = made.source.manifest
    with WeightsFile(folder / WEIGHTS_FILE_NAME) as weights_file:
        for role, network in made.networks.items():
            onnx.save(rewrite(network, {}, weights_file).model(), folder / manifest.graphs[role])
    return Bundle(folder, replace(manifest, shared_weights={}))


@pytest.mark.parametrize("name", ["int8", "int4", "int8-weights"])
def test_weights_are_rounded_for_their_inputs(name: str, source: Bundle, tmp_path: Path) -> None:
    """The inputs are observed in the changed model, not in the source."""
    made = candidate(source, find_recipe(name))
    changed = in_float32(made, tmp_path)
    networks = {role: Network(changed, role) for role in made.networks}
    alike, compensated = [], []
    for part in observations(changed, WINDOWS, networks):
        role, inputs = part.role, part.inputs
        for layer in networks[role].layers.values():
            if layer.is_table or layer.input not in inputs:
                continue
            weight = np.array(networks[role].weights[layer.weight])
            curvature = Curvature(inputs[layer.input].hessian)
            storage, found = made.rounded[layer.weight]
            after_encoder = role == "decoder" and "encoder" in made.networks
            recipe = made.recipe
            assert storage == (recipe.step_layer if after_encoder else recipe.layer)
            rows = isinstance(storage, DynamicInt8)
            form = {
                "bits": 7 if rows else storage.bits,
                "group_size": len(weight) if rows else storage.block_size,
                "half_scales": not rows,
            }
            expected = round_weight(weight, **form, curvature=curvature)
            alike.append((found.codes == expected.codes).mean())
            compensated.append((found.codes != round_weight(weight, **form).codes).mean())
    assert len(alike) == len(linear_names(made.networks))
    assert min(alike) > 0.97  # but for ties
    assert min(compensated) > 0.01


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_tables_are_rounded_plainly(name: str, source: Bundle) -> None:
    recipe = find_recipe(name)
    made = candidate(source, recipe)
    tables = table_names(made.networks)
    expected = {"wte", "wpe", "lm_head"} if source.manifest.kind == "decoder-only" else {"shared"}
    assert tables == expected
    assert {*made.rounded} == {*made.keepable} == {*linear_names(made.networks)} | tables
    for table in tables:
        storage, codes = made.rounded[table]
        weight = np.array(made.networks["decoder"].weights[table]).T
        assert storage == recipe.table
        form = {
            "bits": recipe.table.bits,
            "group_size": recipe.table.block_size,
            "half_scales": True,
        }
        assert (codes.codes == round_weight(weight, **form).codes).all()


@pytest.mark.parametrize(
    ("name", "kept"),
    [("int8", Blockwise(8, 32)), ("int4", Blockwise(8, 64)), ("int8-weights", None)],
)
def test_keeping_layers(name: str, kept: Blockwise | None, source: Bundle) -> None:
    made = candidate(source, find_recipe(name))
    linear = linear_names(made.networks)
    layers = [linear[0], linear[-1]]
    keeping = made.keeping(layers[:1]).keeping(layers[1:])
    assert keeping.recipe.kept_layers == {*layers}
    assert made.recipe.kept_layers == frozenset()
    assert {*made.keepable} - {*keeping.keepable} == {*layers}
    for layer in linear:
        if layer not in layers:
            assert keeping.rounded[layer] is made.rounded[layer]
        elif kept is None:
            assert layer not in keeping.rounded
        else:
            storage, codes = keeping.rounded[layer]
            assert storage == kept
            assert codes.codes.min() < -64 or codes.codes.max() > 63


@pytest.mark.parametrize("name", ["int8", "int4", "int8-weights"])
def test_keeping_a_table(name: str, source: Bundle) -> None:
    """A table is never kept in float32, since lookups and the lm_head read codes."""
    made = candidate(source, find_recipe(name))
    for table in table_names(made.networks):
        storage, codes = made.keeping([table]).rounded[table]
        assert storage == made.recipe.kept_table
        weight = np.array(made.networks["decoder"].weights[table]).T
        before = np.abs(made.rounded[table][1].weight() - weight).mean()
        assert np.abs(codes.weight() - weight).mean() < before


def test_layers_that_are_kept_from_the_start(source: Bundle) -> None:
    names = linear_names({role: Network(source, role) for role in ROLES[source.manifest.kind]})
    recipe = replace(find_recipe("int4"), kept_layers=frozenset(names[1:2]))
    made = candidate(source, recipe)
    assert made.rounded[names[1]][0] == Blockwise(8, 64)
    assert made.rounded[names[0]][0] == recipe.layer


def test_layers_that_stay_in_float32_cannot_be_kept(source: Bundle) -> None:
    """As T5's feed-forward output layers in `fp16`; the gate tries each other layer."""
    made = candidate(source, find_recipe("fp16"))
    in_float32 = {name for name in linear_names(made.networks) if name.endswith(".ff.wo")}
    assert bool(in_float32) == source.manifest.has_encoder
    assert {*made.keepable} == {*made.rounded}
    assert in_float32.isdisjoint(made.keepable)
    for layer in made.keepable:
        assert layer not in made.keeping([layer]).rounded
