"""A matrix that two graphs share is stored once and mapped once."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseq.runtime import BundleError, Model
from edgeseq.runtime.bundle.manifest import SharedWeight
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.ort.engine import open_engine
from edgeseq.runtime.ort.graph_session import map_shared_weights, open_session


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
    swapped = replace(entry, rows=entry.columns, columns=entry.rows)
    with pytest.raises(BundleError, match="not an embedding"):
        open_engine(replace(manifest, shared_weights={"shared": swapped}), t5_model.bundle.folder)
