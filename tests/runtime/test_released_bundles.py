"""Bundles of released versions load in this version and generate what they generated then.

``fixtures/make_released.py`` made them. A failure here means that users have to export their
bundles again, which the rule of versions in ``docs/how-it-works/bundle.md`` excludes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import load
from edgeseq.runtime.bundle.reading import open_bundle
from tests.support.commands import succeed

FOLDER = Path(__file__).parent / "fixtures" / "released"
CASES: dict[str, list[dict[str, Any]]] = {
    f"{expected.parent.name}/{name}": cases
    for expected in sorted(FOLDER.glob("*/expected.json"))
    for name, cases in json.loads(expected.read_text(encoding="utf-8")).items()
}
LONGEST = {"max_new_tokens": 8, "do_sample": False}

each_bundle = pytest.mark.parametrize("name", CASES)
each_source = pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-fp32")])


def expect_recorded(folder: Path, name: str, **loading: Any) -> None:
    with load(folder, threads=1, **loading) as model:
        for case in CASES[name]:
            result = model.generate(case["prompt"], **LONGEST)[0]
            assert list(result.token_ids) == case["ids"]
            assert result.text == case["text"]


def test_each_family_has_a_bundle_in_each_form() -> None:
    families, forms = ("bart", "gpt2", "t5"), ("fp32", "int4", "int8")
    for family in families:
        assert {f"first_release/{family}-{form}" for form in forms} <= CASES.keys()
    assert all(CASES.values())


@each_bundle
def test_it_generates_the_recorded_text(name: str) -> None:
    expect_recorded(FOLDER / name, name, verify=True)


@each_bundle
def test_it_generates_the_recorded_text_with_stock_operators(name: str) -> None:
    expect_recorded(FOLDER / name, name, kernels="stock")


@each_bundle
def test_it_generates_the_recorded_text_with_prepacked_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    for _ in range(2):  # the second load reads what the first has written
        expect_recorded(FOLDER / name, name, prepack=True)


@each_bundle
def test_info_shows_and_verifies_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = succeed(capsys, "info", FOLDER / name, "--verify")
    assert "all hashes match" in shown
    assert json.loads(succeed(capsys, "info", FOLDER / name, "--json"))["schema"] == 1


@pytest.mark.parametrize("recipe", ["int8", "int4"])
@each_source
def test_its_float32_form_can_be_quantized(name: str, recipe: str, tmp_path: Path) -> None:
    from edgeseq.quantize import quantize_bundle

    texts = [case["prompt"] for case in CASES[name]] * 4
    if "gpt2" in name:
        text = tmp_path / "texts.txt"
        text.write_text(" ".join(texts) * 4, encoding="utf-8")
    else:
        text = tmp_path / "pairs.tsv"
        text.write_text("\n".join(f"{line}\t{line}" for line in texts), encoding="utf-8")
    out = tmp_path / "quantized"
    quantize_bundle(FOLDER / name, out, recipe=recipe, text=text, allow_loss=True)
    assert open_bundle(out, verify=True).manifest.quantization.recipe == recipe
    with load(out, threads=1) as model:
        assert model.generate(CASES[name][0]["prompt"], **LONGEST)[0].token_ids
