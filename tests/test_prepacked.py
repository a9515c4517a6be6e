"""Packed weights in the user's cache folder: the same results, and never trusted blindly."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import BundleError, Model, load, prepacked
from edgeseq.runtime.user_cache import cache_folder

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


@pytest.mark.parametrize("demo", ["gpt2", "t5"])
def test_packed_weights_that_would_be_misread_are_refused(demo: str, cache: Path) -> None:
    """ONNX Runtime may write them at odd addresses; then texts would be wrong."""
    expected = load(demo=demo).generate_ids(IDS, **OPTIONS)[0].token_ids
    try:
        model = load(demo=demo, prepack=True)
    except BundleError as error:
        assert "load it without prepack" in str(error)
        assert not any(list(entry.iterdir()) for entry in entries(cache) if "-" in entry.name)
    else:
        assert model.generate_ids(IDS, **OPTIONS)[0].token_ids == expected


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
    path.write_text("[]")


def another(path: Path) -> None:
    content = json.loads(path.read_text())
    content["for"]["processor"] = "another"
    path.write_text(json.dumps(content))


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
    def interrupted(graph: Path, out: Path, shared: Any) -> None:
        out.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepacked, "save_prepacked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(bundle, prepack=True)
    assert entries(cache) == []
    load(bundle, prepack=True)
    assert len(entries(cache)) == 1


def test_a_folder_that_cannot_be_written_is_named(bundle: Path, cache: Path) -> None:
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(BundleError, match="cannot be written to") as error:
        load(bundle, prepack=True)
    assert len(str(error.value).splitlines()) == 1


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
