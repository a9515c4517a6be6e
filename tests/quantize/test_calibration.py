"""The inputs and the cache that calibration observes, compared with PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2LMHeadModel, T5ForConditionalGeneration

from edgeseq.quantize import calibration
from edgeseq.quantize.calibration import Observed
from edgeseq.quantize.graph.network import Network
from edgeseq.runtime import Model
from edgeseq.runtime.bundle.manifest import ROLES
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.request.passages import Window
from tests.support.calibration import observations

IDS = np.random.default_rng(0).integers(1, 320, (3, 40)).tolist()
TEXTS = [Window((), ids, 1) for ids in IDS]
PAIRS = [Window(ids[:25], [0, *ids[25:]], 1) for ids in IDS]


def observed(bundle: Bundle, windows: list[Window]) -> dict[str, dict[str, Observed]]:
    """Return the observed input of each layer, by role and layer."""
    networks = {role: Network(bundle, role) for role in ROLES[bundle.manifest.kind]}
    result: dict[str, dict[str, Observed]] = {role: {} for role in networks}
    for part in observations(bundle, windows, networks):
        for layer in networks[part.role].layers.values():
            if layer.input in part.inputs and not layer.is_table:
                assert layer.weight not in result[part.role]
                result[part.role][layer.weight] = part.inputs[layer.input]
    return result


def peaks(bundle: Bundle, windows: list[Window]) -> dict[str, NDArray[np.float32]]:
    """Return the observed peaks of the KV cache, of all parts."""
    return {n: p for part in observations(bundle, windows) for n, p in part.cache_peaks.items()}


class Inputs:
    """Records the inputs of a PyTorch module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._rows: list[torch.Tensor] = []
        self._hook = module.register_forward_pre_hook(self._add)

    def _add(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._rows.append(inputs[0].reshape(-1, inputs[0].shape[-1]))

    def close(self) -> NDArray[np.float32]:
        """(tokens, features)."""
        self._hook.remove()
        rows: NDArray[np.float32] = torch.cat(self._rows).numpy()
        return rows


def assert_saw(observed: Observed, rows: NDArray[np.float32]) -> None:
    assert_close(observed.hessian, rows.T @ rows)
    assert_close(observed.peaks, np.abs(rows).max(axis=0))
    assert_close(observed.rows, rows)  # so short a text is kept whole


def assert_close(found: Any, expected: Any) -> None:
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@torch.no_grad()
def test_inputs_of_gpt2s_layers(model: Model, reference: GPT2LMHeadModel) -> None:
    found = observed(model.bundle, TEXTS)["decoder"]
    last = reference.transformer.h[1]
    modules = {
        "h.0.attn.qkv.weight": reference.transformer.h[0].attn.c_attn,
        "h.1.attn.qkv.weight": last.attn.c_attn,
        "h.1.mlp.input.weight": last.mlp.c_fc,
        "h.1.mlp.output.weight": last.mlp.c_proj,
    }
    expected = {name: Inputs(module) for name, module in modules.items()}
    for ids in IDS:
        reference(torch.tensor([ids]))
    for name, inputs in expected.items():
        assert_saw(found[name], inputs.close())
    assert len(found) == 8


@torch.no_grad()
def test_inputs_of_t5s_layers(model: Model, t5_model: Model, t5_reference: Any) -> None:
    found = observed(t5_model.bundle, PAIRS)
    encoder, decoder = t5_reference.encoder.block, t5_reference.decoder.block
    expected = {
        ("encoder", "encoder.1.attention.query"): Inputs(encoder[1].layer[0].SelfAttention.q),
        ("encoder", "encoder.1.ff.wo"): Inputs(encoder[1].layer[1].DenseReluDense.wo),
        ("encoder", "decoder.1.cross.value"): Inputs(decoder[1].layer[1].EncDecAttention.v),
        ("decoder", "decoder.0.attention.qkv"): Inputs(decoder[0].layer[0].SelfAttention.q),
        ("decoder", "decoder.1.cross.output"): Inputs(decoder[1].layer[1].EncDecAttention.o),
        ("decoder", "decoder.1.ff.wi"): Inputs(decoder[1].layer[2].DenseReluDense.wi),
    }
    read_pairs(t5_reference)
    for (role, name), inputs in expected.items():
        assert_saw(found[role][name], inputs.close())


def read_pairs(reference: T5ForConditionalGeneration) -> list[Any]:
    """Return PyTorch's cache of the decoder after each pair."""
    return [
        reference(
            torch.tensor([list(pair.source)]),
            decoder_input_ids=torch.tensor([list(pair.tokens)]),
            use_cache=True,
        ).past_key_values.self_attention_cache
        for pair in PAIRS
    ]


@pytest.mark.parametrize("budget", [1, 4 * 48 * 48, 1 << 16])
def test_a_small_memory_budget_observes_the_same(
    model: Model, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = observed(model.bundle, TEXTS)["decoder"]
    monkeypatch.setattr(calibration, "BUDGET_BYTES", budget)
    parts = observed(model.bundle, TEXTS)["decoder"]
    assert parts.keys() == whole.keys()
    for name, part in parts.items():
        assert_saw(part, whole[name].rows)


def assert_peaks(found: Any, caches: list[Any], size: int) -> None:
    """Check the peaks of all channels; after ``size`` a stored head is padding."""
    for layer in range(2):
        for name in ("key", "value"):
            tensors = [getattr(cache.layers[layer], f"{name}s")[0] for cache in caches]
            expected = torch.stack([tensor.abs().amax(1) for tensor in tensors]).amax(0).numpy()
            peaks = found[f"{layer}.{name}"]
            assert peaks.shape == (4, 16)
            assert_close(peaks[:, :size], expected)
            assert (peaks[:, size:] == 0).all()


@torch.no_grad()
def test_peaks_of_gpt2s_cache(model: Model, reference: GPT2LMHeadModel) -> None:
    caches = [reference(torch.tensor([ids]), use_cache=True).past_key_values for ids in IDS]
    assert_peaks(peaks(model.bundle, TEXTS), caches, 12)


@torch.no_grad()
def test_peaks_of_t5s_cache(t5_model: Model, t5_reference: T5ForConditionalGeneration) -> None:
    assert_peaks(peaks(t5_model.bundle, PAIRS), read_pairs(t5_reference), 12)


def test_as_many_tokens_as_there_are_positions(model: Model) -> None:
    """The last token of a window is predicted and need not be read."""
    window = Window((), [1] * 97, 1)
    assert peaks(model.bundle, [window])["0.key"].shape == (4, 16)
    assert len(observed(model.bundle, [window])["decoder"]) == 8


def test_some_rows_of_every_window_are_kept() -> None:
    observed = Observed(2)
    for start in (0, 1000, 2000, 3000):
        observed.add(np.arange(start, start + 1000, dtype=np.float32)[:, None] * [1, -1], 0.25)
    assert observed.peaks.tolist() == [3999, 3999]
    assert calibration.SAMPLE_ROWS / 2 <= len(observed.rows) <= 2 * calibration.SAMPLE_ROWS
    kept = np.bincount(observed.rows[:, 0].astype(int) // 1000)
    assert kept.min() == kept.max()


def test_observed_channels_can_be_divided() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    factors = np.float32([0.5, 1, 7])
    observed = Observed(3)
    observed.add(rows, 1.0)
    observed.divide(factors)
    assert_saw(observed, rows / factors)
