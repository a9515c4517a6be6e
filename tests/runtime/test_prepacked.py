"""Packed weights in the user's cache folder: the same results, and checks of the files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseq.export import export_checkpoint
from edgeseq.quantize import quantize_bundle
from edgeseq.runtime import BundleError, Model, load
from edgeseq.runtime.ort import graph_session, prepacked
from edgeseq.runtime.ort.import_onnxruntime import status
from edgeseq.runtime.ort.prepacked import cache_folder
from tests.support.errors import refusal

TEXT = "Once upon a time there was a clever fox; he said: let us go home! " * 2
IDS = [[5, 6, 7, 8]]
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prepacked, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "prepacked"


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


def state(cache: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def test_the_ids_are_the_same(bundle: Path, model: Model) -> None:
    expected = model.generate_ids(IDS, **OPTIONS)[0].token_ids
    for _ in range(2):
        found = load(bundle, prepack=True).generate_ids(IDS, **OPTIONS)[0].token_ids
        assert found == expected


def test_a_t5_has_an_entry_for_each_graph(t5_model: Model, cache: Path) -> None:
    options = {**OPTIONS, "num_beams": 2}
    expected = t5_model.generate_ids(IDS, **options)[0].token_ids
    for _ in range(2):
        again = load(t5_model.bundle.folder, prepack=True)
        assert again.generate_ids(IDS, **options)[0].token_ids == expected
    assert len(entries(cache)) == 2


def scores(model: Model) -> tuple[float | None, ...]:
    target = None if model.bundle.manifest.kind == "decoder-only" else TEXT
    return model.score(TEXT, target).log_probabilities


@pytest.mark.parametrize("recipe", ["fp32", "int8", "int8-weights", "int4"])
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_scores_are_the_same_to_the_bit(
    kind: str,
    recipe: str,
    make_checkpoint: Callable[..., Path],
    seeded_t5: Callable[..., Any],
    save_t5: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Some weights, as a bias of six heads, do not fill whole cache lines."""
    if kind == "gpt2":
        checkpoint = make_checkpoint(n_embd=384, n_head=6, vocab_size=331, n_positions=99)
    else:
        checkpoint = save_t5(seeded_t5(d_model=384, num_heads=6, d_kv=64, vocab_size=331))
    folder = tmp_path / "fp32"
    export_checkpoint(checkpoint, folder)
    if recipe != "fp32":
        (tmp_path / "text.tsv").write_text(f"{TEXT}\t{TEXT}\n" * 12, encoding="utf-8")
        quantize_bundle(
            folder, tmp_path / recipe, recipe=recipe, text=tmp_path / "text.tsv", allow_loss=True
        )
    expected = scores(load(tmp_path / recipe))
    for _ in range(2):
        assert scores(load(tmp_path / recipe, prepack=True)) == expected


@pytest.mark.parametrize("demo", ["gpt2", "t5"])
def test_scores_of_demos_are_the_same_to_the_bit(demo: str) -> None:
    expected = scores(load(demo=demo))
    for _ in range(2):
        assert scores(load(demo=demo, prepack=True)) == expected


def test_packed_weights_that_would_be_misread_are_refused(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepacked, "ALIGNMENT", 2**40)
    with pytest.raises(BundleError, match="load the bundle without prepack"):
        load(bundle, prepack=True)
    assert entries(cache) == []


def test_nothing_is_written_unasked(bundle: Path, cache: Path) -> None:
    load(bundle)
    assert not cache.exists()


def test_a_second_load_writes_nothing(bundle: Path, cache: Path) -> None:
    load(bundle, prepack=True)
    before = state(cache)
    assert len(before) == 3
    load(bundle, prepack=True, verify=True)
    assert state(cache) == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def array(path: Path) -> None:
    path.write_text("[]", encoding="utf-8")


def another(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["for"]["processor"] = "another"
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.bin", cut),
        ("weights.bin", Path.unlink),
        ("graph.onnx", cut),
        ("prepacked.json", cut),
        ("prepacked.json", empty),
        ("prepacked.json", array),
        ("prepacked.json", another),
        ("prepacked.json", Path.unlink),
    ],
)
def test_an_entry_that_does_not_match_is_made_anew(
    bundle: Path, cache: Path, name: str, damage: Callable[[Path], Any]
) -> None:
    expected = load(bundle, prepack=True).generate_ids(IDS, **OPTIONS)[0].token_ids
    [entry] = entries(cache)
    sound = (entry / name).read_bytes()
    damage(entry / name)
    again = load(bundle, prepack=True)
    assert again.generate_ids(IDS, **OPTIONS)[0].token_ids == expected
    assert entries(cache) == [entry]
    assert (entry / name).read_bytes() == sound


def test_verifying_finds_a_changed_byte(bundle: Path, cache: Path) -> None:
    load(bundle, prepack=True)
    [entry] = entries(cache)
    sound = (entry / "weights.bin").read_bytes()
    (entry / "weights.bin").write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    load(bundle, prepack=True, verify=True)
    assert (entry / "weights.bin").read_bytes() == sound


def test_a_changed_byte_in_the_graph_is_found_without_verify(bundle: Path, cache: Path) -> None:
    load(bundle, prepack=True)
    [entry] = entries(cache)
    sound = (entry / "graph.onnx").read_bytes()
    (entry / "graph.onnx").write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    load(bundle, prepack=True)
    assert (entry / "graph.onnx").read_bytes() == sound


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_in_the_place_of_a_record_does_not_block(bundle: Path, cache: Path) -> None:
    load(bundle, prepack=True)
    [entry] = entries(cache)
    (entry / "prepacked.json").unlink()
    os.mkfifo(entry / "prepacked.json")
    load(bundle, prepack=True)
    assert (entry / "prepacked.json").is_file()


def test_another_version_gets_an_entry_of_its_own_and_the_old_one_goes(
    bundle: Path, t5_model: Model, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(t5_model.bundle.folder, prepack=True)
    others = set(entries(cache))
    load(bundle, prepack=True)
    [old] = set(entries(cache)) - others
    monkeypatch.setattr(prepacked, "runtime_version", lambda: "99.0")
    load(bundle, prepack=True)
    [new] = set(entries(cache)) - others
    assert new != old
    assert set(entries(cache)) == {new, *others}


def test_an_interruption_leaves_nothing(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(graph: Path, out: Path, shared: Any, kernels: str) -> None:
        out.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepacked, "save_prepacked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(bundle, prepack=True)
    assert entries(cache) == []
    load(bundle, prepack=True)
    assert len(entries(cache)) == 1


def test_what_a_killed_process_left_is_deleted(bundle: Path, cache: Path) -> None:
    for name in (".part", ".0123-abcd"):
        (cache / name).mkdir(parents=True)
        (cache / name / "weights.bin").touch()
    load(bundle, prepack=True)
    assert len(entries(cache)) == 1


def test_an_entry_that_another_process_is_making_is_waited_for(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    original = prepacked.save_prepacked

    def save(graph: Path, out: Path, *others: Any) -> None:
        made.append(out)
        original(graph, out, *others)

    monkeypatch.setattr(prepacked, "save_prepacked", save)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: load(bundle, prepack=True), range(4)))
    assert len(made) == 1
    assert len(entries(cache)) == 1
    for model in models:
        model.close()


def test_a_full_disk_is_named(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime only says that it cannot write."""

    def fail(*_: Any, **__: Any) -> None:
        raise status.Fail("Failed to write external initializers to file")

    usage = SimpleNamespace(total=1, used=1, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(graph_session, "GraphSession", fail)
    refusal(BundleError, lambda: load(bundle, prepack=True), match="No space left on device")
    assert entries(cache) == []


def test_a_folder_that_cannot_be_written_is_named(bundle: Path, cache: Path) -> None:
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where the folder should be")
    refusal(BundleError, lambda: load(bundle, prepack=True), match="cannot be written to")


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/somewhere"}, "/somewhere/edgeseq"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/edgeseq"),
        ("linux", {}, "/home/me/.cache/edgeseq"),
        ("darwin", {}, "/home/me/Library/Caches/edgeseq"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/edgeseq/Cache"),
        ("win32", {}, "/home/me/AppData/Local/edgeseq/Cache"),
    ],
)
def test_the_users_cache_folder(
    system: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
