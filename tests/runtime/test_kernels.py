"""Native kernels and ONNX Runtime's operators: which are chosen, and that they say the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli.command_line import main
from edgeseq.quantize import quantize_bundle
from edgeseq.runtime import Model, OptionError, load
from edgeseq.runtime.native import library
from edgeseq.runtime.ort import graph_session
from tests.support.commands import Captured, failure, succeed
from tests.support.errors import CODE, refusal

RECIPES = ("int8", "int4", "int8-weights")


@pytest.fixture(scope="module")
def quantized(
    bundle: Path, t5_model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """``quantized(family, recipe)``: a seeded model's bundle, made once."""
    folder = tmp_path_factory.mktemp("kernels")

    def make(family: str, recipe: str) -> Path:
        out = folder / f"{family}-{recipe}"
        if not out.exists():
            source = bundle if family == "gpt2" else t5_model.bundle.folder
            quantize_bundle(source, out, recipe=recipe, perplexity_rise_limit=1e9)
        return out

    return make


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    """What a test found out about a library is forgotten after it."""
    yield
    library.processor_library.cache_clear()


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_library", lambda: None)
    library.processor_library.cache_clear()


@pytest.fixture
def another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels for this processor were not measured."""
    monkeypatch.setattr(library, "FASTER", frozenset())


needs_library = pytest.mark.skipif(
    library.find_library() is None, reason="edgeseq is installed without its kernels"
)


@needs_library
@pytest.mark.parametrize(
    ("family", "recipe"), [*(("gpt2", recipe) for recipe in RECIPES), ("t5", "int8")]
)
def test_texts_are_the_same_unless_two_tokens_are_almost_equal(
    family: str, recipe: str, quantized: Callable[[str, str], Path]
) -> None:
    folder = quantized(family, recipe)
    native, stock = (load(folder, threads=1, kernels=name) for name in ("native", "stock"))
    assert (native.kernels, stock.kernels) == (library.processor_kernels(), "stock")
    prompts = ["fox", "a clever fox said"]
    options = {"do_sample": False, "logprobs": 2}
    for found, expected in zip(
        native.generate(prompts, **options), stock.generate(prompts, **options), strict=True
    ):
        pairs = list(zip(found.token_ids, expected.token_ids, strict=True))
        differs = [i for i, (one, other) in enumerate(pairs) if one != other]
        if differs:  # layers in blocks add in another order
            assert expected.top_logprobs is not None
            (_, first), (_, second) = expected.top_logprobs[differs[0]]
            assert first - second < 1e-3  # two tokens are almost equally probable


@needs_library
@pytest.mark.parametrize("recipe", RECIPES)
def test_scores_agree(recipe: str, quantized: Callable[[str, str], Path]) -> None:
    native, stock = (
        load(quantized("gpt2", recipe), threads=1, kernels=name).score("a clever fox")
        for name in ("native", "stock")
    )
    assert native.log_probabilities == pytest.approx(stock.log_probabilities, abs=1e-4)


@needs_library
@pytest.mark.parametrize("recipe", RECIPES)
def test_auto_takes_kernels_that_were_measured(
    recipe: str, quantized: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "FASTER", {library.processor_kernels()})
    assert load(quantized("gpt2", recipe)).kernels == library.processor_kernels()


@needs_library
@pytest.mark.usefixtures("another_processor")
def test_kernels_that_were_not_measured_have_to_be_asked_for(
    quantized: Callable[[str, str], Path], capsys: Captured
) -> None:
    folder = quantized("gpt2", "int8")
    assert load(folder).kernels == "stock"
    told = succeed(capsys, "info", str(folder)).splitlines()
    assert ["kernels", "stock"] in [line.split() for line in told]
    assert load(folder, kernels="native").kernels == library.processor_kernels()


def test_a_float32_bundle_has_nothing_for_them(model: Model) -> None:
    assert model.kernels == "stock"
    message = refusal(OptionError, lambda: load(model.bundle.folder, kernels="native"), ending=CODE)
    assert message.startswith("kernels='native' has no effect on this bundle")


@pytest.mark.parametrize("kernels", ["fast", None, 1, ["native"]])
def test_what_is_no_choice(kernels: Any, bundle: Path) -> None:
    message = refusal(OptionError, lambda: load(bundle, kernels=kernels), ending=CODE)
    assert message == f"kernels is {kernels!r}; it must be 'auto', 'native' or 'stock'."


@pytest.mark.usefixtures("without_library")
def test_without_the_library(quantized: Callable[[str, str], Path], capsys: Captured) -> None:
    folder = quantized("gpt2", "int8")
    assert load(folder, threads=1).kernels == "stock"
    message = refusal(OptionError, lambda: load(folder, kernels="native"), ending=CODE)
    assert "installed without it" in message
    assert "stock (this installation has no native kernels" in succeed(capsys, "info", str(folder))
    assert "installed without it" in failure(
        capsys, "generate", "fox", "-b", str(folder), "--kernels", "native"
    )


@needs_library
def test_a_library_that_cannot_be_loaded(
    quantized: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "edgeseq_kernels.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(library, "find_library", lambda: broken)
    library.processor_library.cache_clear()
    folder = quantized("gpt2", "int4")
    assert load(folder, threads=1, kernels="auto").kernels == "stock"
    message = refusal(OptionError, lambda: load(folder, threads=2, kernels="native"), ending=CODE)
    assert message.startswith("The library of native kernels cannot be used (")


@needs_library
def test_info_and_bench_name_them(
    quantized: Callable[[str, str], Path], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(quantized("gpt2", "int8"))
    monkeypatch.setattr(library, "FASTER", {library.processor_kernels()})
    told = succeed(capsys, "info", folder).splitlines()
    assert ["kernels", library.processor_kernels()] in [line.split() for line in told]
    lengths = ("--prompt-lengths", "4", "--contexts", "4", "--new-tokens", "16", "--rounds", "1")
    both = ("--kernels", "native", "--kernels", "stock")
    assert main(["bench", folder, *lengths, *both, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["kernels"] for item in found["bundles"]] == [library.processor_kernels(), "stock"]
    assert [item["name"].partition(" (")[2] for item in found["bundles"]] == [
        "native kernels)",
        "stock kernels)",
    ]


@needs_library
def test_answers_of_other_kernels_are_not_continued(
    quantized: Callable[[str, str], Path], tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "in.txt").write_text("fox\nhome\n")
    run = ("run", "completion", "-b", str(quantized("gpt2", "int8")), "--max-new-tokens", "2")
    files = ("--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl"))
    assert main([*run, *files, "--kernels", "stock"]) == 0
    assert main([*run, *files, "--kernels", "native"]) == 1
    assert "is not the answer" in capsys.readouterr().err
    assert main([*run, *files, "--kernels", "stock"]) == 0


def test_a_graph_that_calls_no_kernels_is_opened_without_them(
    monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:

    def never(*_: Any) -> bool:
        raise AssertionError("the library was added")

    monkeypatch.setattr(graph_session, "add_kernels", never)
    load(bundle, threads=3)
