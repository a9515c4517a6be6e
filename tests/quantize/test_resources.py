"""What quantizing needs: threads, memory for a few layers, and free space on the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseq.quantize import quantize_bundle
from edgeseq.quantize.gate import Recorded
from edgeseq.quantize.graph.network import Network
from edgeseq.quantize.recipes import RECIPES, find_recipe
from edgeseq.quantize.resources.disk import needed_bytes
from edgeseq.quantize.resources.scratch import Scratch
from edgeseq.quantize.resources.workers import Workers
from edgeseq.runtime import BundleError, Model, OptionError
from edgeseq.runtime.bundle.manifest import ROLES
from edgeseq.runtime.bundle.reading import open_bundle
from tests.support.errors import CODE, refusal

FOX = "Once upon a time there was a clever fox; he said: let us go home! "


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text(FOX * 12, encoding="utf-8")
    return path


# Threads


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_weights_do_not_depend_on_the_threads(
    recipe: str, bundle: Path, text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"recipe": recipe, "text": text, "perplexity_rise_limit": 10.0}
    one, two = (
        quantize_bundle(bundle, tmp_path / str(threads), threads=threads, **options)
        for threads in (1, 2)
    )
    assert one.file("weights.bin").read_bytes() == two.file("weights.bin").read_bytes()


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_a_wrong_number_of_threads(threads: Any, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="threads is"):
        quantize_bundle(bundle, tmp_path / "out", threads=threads)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order(threads: int) -> None:
    with Workers(threads) as workers:
        assert list(workers.map(lambda n: n * n, range(20))) == [n * n for n in range(20)]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_thread_is_raised(threads: int) -> None:
    with Workers(threads) as workers, pytest.raises(ZeroDivisionError):
        list(workers.map(lambda n: 1 // n, [1, 0, 1]))


# The disk


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_needed_space_is_enough(recipe: str, bundle: Path, text: Path, tmp_path: Path) -> None:
    source = open_bundle(bundle)
    networks = {role: Network(source, role) for role in ROLES[source.manifest.kind]}
    needed = needed_bytes(find_recipe(recipe), networks, source.manifest)
    options: dict[str, Any] = {"text": text, "perplexity_rise_limit": 10.0}
    made = quantize_bundle(bundle, tmp_path / "out", recipe=recipe, **options)
    size = made.file("weights.bin").stat().st_size
    assert 1.7 * size < needed < 4 * size


def test_too_little_space(
    bundle: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=0, used=0, free=12_300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    message = refusal(
        BundleError,
        lambda: quantize_bundle(bundle, tmp_path / "out" / "int8", text=text),
        ending=CODE,
    )
    assert message.startswith(f"{tmp_path / 'out'} has 0.0123 GB of free space, and ")
    assert list((tmp_path / "out").iterdir()) == []


def test_arrays_in_the_temporary_file(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(i).normal(size=(64 * i, 99)) for i in range(1, 9)]
    with Scratch(tmp_path) as scratch:
        kept = [scratch.keep(array) for array in arrays]
        for array, found in zip(arrays, kept, strict=True):
            assert np.array_equal(array, found)
        assert isinstance(kept[-1], np.memmap)
    del kept, found
    assert list(tmp_path.iterdir()) == []


# The reference


def test_the_reference_reads_a_window_once(model: Model, tmp_path: Path) -> None:
    opened: list[int] = []

    def new_decoder(prompts: Any, capacity: int) -> Any:
        opened.append(capacity)
        return model.new_decoder(prompts, capacity)

    blocks = [[5, 6, 7, 8], [9, 10, 11]]
    with Scratch(tmp_path) as scratch:
        recorded = Recorded(new_decoder, scratch, 1 << 30)
        first, second = (
            [logits.copy() for logits in map(recorded([[1]], 8).read, blocks)] for _ in range(2)
        )
        other = recorded([[1]], 8).read([5, 6, 7, 9]).copy()
    decoder = model.new_decoder([[1]], 8)
    for block, a, b in zip(blocks, first, second, strict=True):
        expected = decoder.read(block)
        assert np.array_equal(a, b)
        assert np.array_equal(a, expected)
    assert len(opened) == 2  # the second for other tokens
    assert not np.array_equal(other, first[0])


def test_logits_beyond_the_limit_are_computed_again(model: Model, tmp_path: Path) -> None:
    blocks: list[list[int]] = [[5, 6, 7, 8], [9, 10, 11]]
    with Scratch(tmp_path) as scratch:
        recorded = Recorded(model.new_decoder, scratch, 5 * 4 * 320)

        def read(recorded: Recorded) -> list[Any]:
            return [logits.copy() for logits in map(recorded([[1]], 8).read, blocks)]

        for a, b in zip(read(recorded), read(recorded), strict=True):
            assert np.array_equal(a, b)
