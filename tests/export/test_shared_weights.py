"""A matrix that two graphs share is stored once and mapped once."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeseq.runtime import BundleError, Model, load
from edgeseq.runtime.bundle.initializers import external_tensor, overlapping_weights
from edgeseq.runtime.bundle.manifest import OverlappingWeight, SharedWeight
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.native.library import Kernels
from edgeseq.runtime.ort.engine import open_engine
from edgeseq.runtime.ort.graph_session import map_shared_weights, map_weights, open_session


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    np.arange(36, dtype="<f4").tofile(path)
    return path


def test_the_mapped_matrix_is_that_of_the_file(weights: Path) -> None:
    entry = SharedWeight(offset_bytes=64, rows=4, columns=5)
    mapped = map_shared_weights(weights, {"table": entry})
    expected = np.arange(16, 36, dtype=np.float32).reshape(4, 5)
    np.testing.assert_array_equal(mapped["table"].numpy(), expected)


@pytest.mark.parametrize(
    "entry",
    [
        SharedWeight(offset_bytes=4, rows=4, columns=5),
        SharedWeight(offset_bytes=128, rows=4, columns=5),
        SharedWeight(offset_bytes=0, rows=1000, columns=1000),
        SharedWeight(offset_bytes=-4, rows=1, columns=1),
        SharedWeight(offset_bytes=0, rows=0, columns=5),
        SharedWeight(offset_bytes=0, rows=-1, columns=5),
    ],
)
def test_a_matrix_that_is_not_in_the_file(weights: Path, entry: SharedWeight) -> None:
    with pytest.raises(BundleError, match=r"'table' does not lie in .*weights\.bin"):
        map_shared_weights(weights, {"table": entry})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    entry = SharedWeight(offset_bytes=0, rows=1, columns=1)
    with pytest.raises(BundleError, match="'table' does not lie in"):
        map_shared_weights(tmp_path / "none.bin", {"table": entry})


def test_overlapping_weights_have_the_same_memory(weights: Path) -> None:
    whole = OverlappingWeight(offset_bytes=0, dtype="uint8", shape=(9, 16))
    part = OverlappingWeight(offset_bytes=64, dtype="uint8", shape=(5, 2, 8))
    mapped = map_weights(weights, {"whole": whole, "part": part})
    assert mapped["part"].data_ptr() == mapped["whole"].data_ptr() + 64
    expected = np.arange(36, dtype="<f4").view(np.uint8)
    np.testing.assert_array_equal(mapped["whole"].numpy().reshape(-1), expected)
    np.testing.assert_array_equal(mapped["part"].numpy().reshape(-1), expected[64:])


@pytest.mark.parametrize(
    ("offset", "shape"), [(32, (4,)), (64, (81,)), (64, (0, 4)), (64, (-2, -2)), (-64, (4,))]
)
def test_an_overlapping_weight_that_is_not_in_the_file(
    weights: Path, offset: int, shape: tuple[int, ...]
) -> None:
    wrong = OverlappingWeight(offset_bytes=offset, dtype="uint8", shape=shape)
    with pytest.raises(BundleError, match=r"'rows' does not lie in .*weights\.bin"):
        map_weights(weights, {"rows": wrong})


def test_a_t5_shares_its_embedding_and_a_gpt2_nothing(t5_model: Model, bundle: Path) -> None:
    manifest = t5_model.bundle.manifest
    assert list(manifest.shared_weights) == ["shared"]
    assert manifest.shared_weights["shared"].rows == manifest.dimensions.vocabulary
    assert open_bundle(bundle).manifest.shared_weights == {}


def test_a_session_reads_the_matrix_that_it_is_given(t5_model: Model, tmp_path: Path) -> None:
    """With zeros for the embedding, the encoder's keys are zeros."""
    opened = t5_model.bundle
    entry = opened.manifest.shared_weights["shared"]
    path = tmp_path / "zeros.bin"
    np.zeros((entry.rows, entry.columns), "<f4").tofile(path)
    zeros = SharedWeight(offset_bytes=0, rows=entry.rows, columns=entry.columns)
    feed = {"input_ids": np.ones((1, 16), np.int64), "source_lengths": np.array([16], np.int32)}
    graph = opened.file(opened.manifest.graphs["encoder"])
    given = open_session(graph, threads=1, shared=map_shared_weights(path, {"shared": zeros}))
    gc.collect()
    assert not given.run(None, feed)[0].any()
    assert open_session(graph, threads=1).run(None, feed)[0].any()


def test_a_shared_weight_that_is_no_embedding(t5_model: Model) -> None:
    manifest = t5_model.bundle.manifest
    entry = manifest.shared_weights["shared"]
    swapped = entry._replace(rows=entry.columns, columns=entry.rows)
    with pytest.raises(BundleError, match="not an embedding"):
        open_engine(replace(manifest, shared_weights={"shared": swapped}), t5_model.bundle.folder)


def model_of(*tensors: tuple[str, int, tuple[int, ...]]) -> onnx.ModelProto:
    """Return a graph with weights of bytes: (name, offset, shape)."""
    weights = [
        external_tensor(name, np.empty(shape, np.uint8), offset) for name, offset, shape in tensors
    ]
    return helper.make_model(helper.make_graph([], "graph", [], [], weights))


def test_weights_that_overlap_are_found() -> None:
    """These are a table, its two parts, and a weight of both graphs; not a small weight."""
    decoder = model_of(
        ("table", 4096, (512, 256)),
        ("first", 4096, (256, 256)),
        ("second", 69632, (256, 256)),
        ("next", 135168, (256, 256)),
        ("both", 200704, (256, 256)),
        ("a bias", 266240, (256,)),
        ("an equal bias", 266240, (256,)),
    )
    encoder = model_of(("both", 200704, (256, 256)), ("other", 266240, (256, 256)))
    assert overlapping_weights([decoder, encoder]) == {
        "table": OverlappingWeight(4096, "uint8", (512, 256)),
        "first": OverlappingWeight(4096, "uint8", (256, 256)),
        "second": OverlappingWeight(69632, "uint8", (256, 256)),
        "both": OverlappingWeight(200704, "uint8", (256, 256)),
    }


def test_a_name_with_two_meanings_is_left_out() -> None:
    """A session gets weights by their names."""
    decoder, encoder = model_of(("table", 0, (256, 256))), model_of(("table", 65536, (256, 256)))
    assert overlapping_weights([decoder, encoder]) == {}


@pytest.mark.parametrize("kernels", ["auto", "stock"])
def test_the_demo_model_lists_its_table(kernels: Kernels) -> None:
    """The table of GPT-2 is its lm_head too, whose weights are the same bytes."""
    with load(kernels=kernels) as model:
        overlapping = model.bundle.manifest.overlapping_weights
        assert overlapping is not None
        assert {"wte.rows", "wte.int8"} <= overlapping.keys()
        assert model.generate("The king", max_new_tokens=4, do_sample=False)[0].text
