"""The INT8 cache: its scales and its codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeseq.quantize import quantize_bundle
from edgeseq.quantize.graph.int8_cache import with_int8_cache
from edgeseq.quantize.graph.network import Network
from edgeseq.quantize.texts import find_texts
from edgeseq.runtime import Model
from edgeseq.runtime.bundle.graph_contract import layer_names
from edgeseq.runtime.bundle.reading import Bundle
from edgeseq.runtime.ort.graph_session import GraphSession
from tests.support.calibration import cache_peaks

FOX = "Once upon a time there was a clever fox; he said: let us go home! "
IDS = np.random.default_rng(0).integers(1, 320, 40)


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def source(request: pytest.FixtureRequest, model: Model, t5_model: Model) -> Model:
    return model if request.param == "gpt2" else t5_model


@pytest.fixture(scope="module")
def text(source: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    pairs = "\n".join(f"{FOX}{number}\t{FOX}" for number in range(6))
    decoder_only = source.bundle.manifest.kind == "decoder-only"
    path.write_text(FOX * 12 if decoder_only else pairs, encoding="utf-8")
    return path


def presents(bundle: Bundle, graph: onnx.ModelProto, dtype: Any) -> list[Any]:
    """Return the content of the cache after some tokens."""
    sizes = bundle.manifest.dimensions
    shape = (1, sizes.heads, len(IDS), sizes.stored_head_size)
    feeds: dict[str, Any] = {
        "input_ids": IDS[None],
        "position_ids": np.arange(len(IDS))[None],
        "seqlens_k": np.array([len(IDS) - 1], np.int32),
        "total_sequence_length": np.array(len(IDS), np.int32),
        "logits_at": np.array([0]),
        **{f"past_key_values.{n}": np.zeros(shape, dtype) for n in layer_names(sizes)},
    }
    if bundle.manifest.kind == "encoder-decoder":
        rng = np.random.default_rng(1)
        cross = rng.normal(size=(1, sizes.heads, 16, sizes.head_size)).astype(np.float32)
        feeds |= {f"cross.{name}": cross for name in layer_names(sizes)}
        feeds["source_lengths"] = np.array([16], np.int32)
    session = GraphSession(graph.SerializeToString(), threads=1, folder=bundle.folder)
    found: list[Any] = session.run([f"present.{n}" for n in layer_names(sizes)], feeds)
    return found


def test_each_layer_has_scales_of_its_own(source: Model) -> None:
    """Scales are for a tenth more than the largest value that was observed."""
    network = Network(source.bundle, "decoder")
    names = layer_names(source.bundle.manifest.dimensions)
    peaks = {name: 2.0**i for i, name in enumerate(names)}
    before = network.model.SerializeToString()
    changed = with_int8_cache(network.model, peaks)
    assert network.model.SerializeToString() == before
    values = {
        t.name: numpy_helper.to_array(t) for t in changed.graph.initializer if "cache" in t.name
    }
    nodes = [node for node in changed.graph.node if node.op_type == "CachedAttention"]
    assert len(nodes) == len(names) / 2
    for i, node in enumerate(nodes):
        pair = names[2 * i : 2 * i + 2]
        scales = [values[name].tolist() for name in node.input[5:7]]
        assert scales == [[pytest.approx(1.1 / 127 * peaks[name])] for name in pair]
        assert list(node.input[1:3]) == [f"past_key_values.{name}" for name in pair]


@pytest.mark.parametrize(
    ("attributes", "inputs", "operator"),
    [
        ({}, {}, "CachedAttention"),
        ({"local_window_size": 5}, {10: "bias"}, "CachedAttention"),
        ({"do_rotary": 1}, {7: "cos", 8: "sin"}, "GroupQueryAttention"),
        ({"kv_num_heads": 1}, {}, "GroupQueryAttention"),
        ({"softcap": 2.0}, {}, "GroupQueryAttention"),
        ({}, {0: "query", 1: "key", 2: "value"}, "GroupQueryAttention"),
    ],
    ids=["plain", "bias and window", "rotary", "shared heads", "softcap", "separate keys"],
)
def test_attention_that_has_no_kernel_stays_the_operator(
    attributes: dict[str, Any], inputs: dict[int, str], operator: str
) -> None:
    names = {0: "qkv", 3: "past_key_values.0.key", 4: "past_key_values.0.value", 5: "last", 6: "n"}
    names |= inputs
    node = onnx.helper.make_node(
        "GroupQueryAttention",
        [names.get(i, "") for i in range(max(names) + 1)],
        ["y", "present.0.key", "present.0.value"],
        domain="com.microsoft",
        **{"num_heads": 2, "kv_num_heads": 2, "scale": 0.5, **attributes},
    )
    graph = onnx.helper.make_graph([node], "decoder", [], [])
    changed = with_int8_cache(onnx.helper.make_model(graph), {"0.key": 2.0, "0.value": 4.0})
    [found] = changed.graph.node
    assert found.op_type == operator
    assert list(found.output) == list(node.output)
    kept = {name for i, name in names.items() if i not in (7, 8)}
    assert kept | {"cache.0.key.scale", "cache.0.value.scale"} <= set(found.input)
    assert [one.name for one in changed.functions] == ["CachedAttention"] * (
        operator == "CachedAttention"
    )


def test_keys_and_values_are_stored_as_codes(source: Model) -> None:
    """In the first layer, whose keys and values do not depend on the cache."""
    network = Network(source.bundle, "decoder")
    names = layer_names(source.bundle.manifest.dimensions)
    exact = presents(source.bundle, network.model, np.float32)
    # The second value channel's scale is too small, so that codes are cut off at their ends.
    peaks = {name: float(np.abs(array).max()) for name, array in zip(names, exact, strict=True)}
    peaks["0.value"] /= 2
    found = presents(source.bundle, with_int8_cache(network.model, peaks), np.int8)
    for name, codes, array in zip(names[:2], found, exact, strict=False):
        assert codes.dtype == np.int8
        expected = np.clip(np.rint(array / (peaks[name] * 1.1 / 127)), -128, 127)
        assert np.abs(codes - expected).max() <= 1
        assert (codes == expected).mean() > 0.999  # but for ties


def test_one_scale_fits_all_channels(source: Model, text: Path, tmp_path: Path) -> None:
    """The channels of a quantized bundle have similar peaks, those of the source have not."""
    bundle = quantize_bundle(
        source.bundle.folder,
        tmp_path / "out",
        recipe="int8-weights",
        text=text,
        allow_loss=True,
        perplexity_rise_limit=10.0,
    )
    windows = find_texts(source.bundle, text).calibration
    before, after = cache_peaks(source.bundle, windows), cache_peaks(bundle, windows)
    scales = {
        tensor.name.removeprefix("cache.").removesuffix(".scale"): numpy_helper.to_array(tensor)
        for tensor in onnx.load(
            bundle.file("decoder_int8_cache.onnx"), load_external_data=False
        ).graph.initializer
        if tensor.name.startswith("cache.")
    }
    for name in ("0.key", "0.value"):
        used = before[name] > 0
        assert np.ptp(np.log(before[name][used])) > np.log(1.5)
        assert np.ptp(np.log(after[name][used])) < np.log(1.2)
        assert after[name].max() == pytest.approx(float(scales[name][0]) * 127 / 1.1, rel=0.1)
