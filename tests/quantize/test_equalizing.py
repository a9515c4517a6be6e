"""Equalizing the cache's channels: the model stays the same, and one scale fits all channels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import GPT2LMHeadModel

from edgeseq.export import export_checkpoint
from edgeseq.quantize.equalizing import Equalized, equalize
from edgeseq.quantize.graph.network import Network
from edgeseq.quantize.graph.rewriting import rewrite
from edgeseq.runtime.bundle.manifest import ROLES, WEIGHTS_FILE_NAME
from edgeseq.runtime.bundle.reading import Bundle, open_bundle
from edgeseq.runtime.bundle.weights_file import WeightsFile
from edgeseq.runtime.request.passages import Window
from tests.support.calibration import cache_peaks, observations
from tests.support.checkpoints import unigram_tokenizer
from tests.support.family_checkpoints import seeded_model
from tests.support.logits import logits_of

IDS = np.random.default_rng(0).integers(1, 320, (2, 60)).tolist()
WINDOWS = [Window(ids[:30], [0, *ids[30:]], 1) for ids in IDS]  # a decoder reads no source


@pytest.fixture(scope="module", params=["gpt2", "gpt2-100", "t5", "t5-gated"])
def source(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    seeded_t5: Callable[..., Any],
    save_t5: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    if request.param == "gpt2":
        checkpoint = make_checkpoint()
        add_biases(checkpoint)
    elif request.param == "gpt2-100":
        checkpoint = make_checkpoint(n_embd=100, n_layer=1, tie_word_embeddings=True)
        add_biases(checkpoint)
    elif request.param == "t5":
        checkpoint = save_t5(seeded_t5())
    else:
        checkpoint = save_t5(seeded_t5(d_model=50, num_layers=1, feed_forward_proj="gated-gelu"))
    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("bundle") / request.param)


@torch.no_grad()
def add_biases(checkpoint: Path) -> None:
    """Make GPT-2's biases random: as zeros they would hide a forgotten one."""
    model = GPT2LMHeadModel.from_pretrained(checkpoint)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.5)
    model.save_pretrained(checkpoint)


def equalized(source: Bundle, folder: Path) -> tuple[Bundle, Equalized]:
    """Write the float32 bundle with an equalized decoder to ``folder``."""
    folder.mkdir()
    networks = {role: Network(source, role) for role in ROLES[source.manifest.kind]}
    result = equalize(networks["decoder"], cache_peaks(source, WINDOWS))
    with WeightsFile(folder / WEIGHTS_FILE_NAME) as weights_file:
        for role, network in networks.items():
            model = rewrite(network, {}, weights_file).model()
            onnx.save(model, folder / source.manifest.graphs[role])
    return Bundle(folder, replace(source.manifest, shared_weights={})), result


def test_logits_stay(source: Bundle, tmp_path: Path) -> None:
    changed, _ = equalized(source, tmp_path / "equalized")
    before = logits_of(source, WINDOWS)
    assert np.abs(logits_of(changed, WINDOWS) - before).max() < 1e-4 * np.abs(before).max()
    weights = Network(changed, "decoder").weights
    for name, array in Network(source, "decoder").weights.items():
        touched = "qkv" in name or name.endswith(("attn.output.weight", "attention.output"))
        assert np.array_equal(weights[name], array) != touched, name


def test_all_channels_have_the_same_peak(source: Bundle, tmp_path: Path) -> None:
    changed, result = equalized(source, tmp_path / "equalized")
    before, after = cache_peaks(source, WINDOWS), cache_peaks(changed, WINDOWS)
    assert result.peaks.keys() == before.keys()
    for name, peaks in after.items():
        used = before[name] > 0
        assert 0 < used.mean() < 1  # heads are padded
        assert peaks[used] == pytest.approx(result.peaks[name], rel=1e-3)
        assert (peaks[~used] == 0).all()
        mean = np.exp(np.log(before[name][used]).mean())  # the range of all together stays
        assert result.peaks[name] == pytest.approx(mean, rel=1e-4)


def test_inputs_are_divided_by_the_returned_factors(source: Bundle, tmp_path: Path) -> None:
    changed, result = equalized(source, tmp_path / "equalized")
    assert len(result.divided) == source.manifest.dimensions.layers
    sums: list[dict[str, Any]] = []
    for bundle in (source, changed):
        parts = [part for part in observations(bundle, WINDOWS) if part.role == "decoder"]
        sums.append({name: seen.hessian for part in parts for name, seen in part.inputs.items()})
    for name, array in sums[0].items():
        divided = result.divided.get(name, np.ones(len(array)))
        expected = array / np.outer(divided, divided)
        assert np.abs(sums[1][name] - expected).max() < 1e-3 * np.abs(expected).max()


# Channels out of the ordinary


def silenced(source: Bundle, folder: Path, factor: float) -> Bundle:
    """Return a copy with the first key and value channels multiplied by ``factor``."""
    shutil.copytree(source.folder, folder)
    (folder / WEIGHTS_FILE_NAME).chmod(0o644)
    network = Network(source, "decoder")
    for tensor in network.graph.initializer:
        if "0." in tensor.name and "qkv" in tensor.name:
            place = {entry.key: entry.value for entry in tensor.external_data}
            array = np.array(network.weights[tensor.name])
            width = array.shape[-1] // 3
            array[..., [width, 2 * width]] *= np.float32(factor)
            with (folder / WEIGHTS_FILE_NAME).open("r+b") as file:
                file.seek(int(place["offset"]))
                file.write(array.tobytes())
    return open_bundle(folder)


@pytest.mark.parametrize("factor", [0, 1e-6, 1e-20, 1e6])
def test_channels_of_tiny_or_huge_values(source: Bundle, factor: float, tmp_path: Path) -> None:
    changed = silenced(source, tmp_path / "source", factor)
    result, equal = equalized(changed, tmp_path / "equalized")
    before = logits_of(changed, WINDOWS)
    assert np.abs(logits_of(result, WINDOWS) - before).max() < 1e-4 * np.abs(before).max()
    assert all(0 < peak < np.inf for peak in equal.peaks.values())


def test_a_cache_of_zeros(source: Bundle) -> None:
    network = Network(source, "decoder")
    before = {name: np.array(array) for name, array in network.weights.items()}
    peaks = {name: np.zeros_like(peak) for name, peak in cache_peaks(source, WINDOWS).items()}
    result = equalize(network, peaks)
    assert {*result.peaks.values()} == {1.0}
    for name, array in network.weights.items():
        assert np.array_equal(array, before[name])


ROTATED_BY_NODES = ("gpt_neox-2", "gptj-2")
FAMILIES = ("gpt_neox-0", "gpt_neox-1", "gptj-0", "opt-1", "bart-0", *ROTATED_BY_NODES)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_of_other_families_stay(name: str, tmp_path: Path) -> None:
    """Rotations mix the two channels of a pair, so that these must share a factor."""
    seeded_model(name).save_pretrained(tmp_path / "checkpoint")
    unigram_tokenizer().save_pretrained(tmp_path / "checkpoint")
    source = export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle")
    changed, result = equalized(source, tmp_path / "equalized")
    assert result.divided
    for weight, array in Network(source, "decoder").weights.items():
        if weight.endswith("qkv.weight"):
            parts = zip(
                np.split(Network(changed, "decoder").weights[weight], 3, axis=-1),
                np.split(array, 3, axis=-1),
                strict=True,
            )
            assert not any(np.array_equal(new, old) for new, old in parts)
    before = logits_of(source, WINDOWS)
    assert np.abs(logits_of(changed, WINDOWS) - before).max() < 1e-4 * np.abs(before).max()
