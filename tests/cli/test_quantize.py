"""``edgeseq quantize``, ``edgeseq export --precision`` and ``edgeseq info`` of their bundles."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseq.cli.command_line import main
from edgeseq.export import export_checkpoint
from edgeseq.runtime import load
from edgeseq.runtime.bundle.manifest import MANIFEST_NAME, Quantization
from edgeseq.runtime.bundle.reading import open_bundle
from tests.support.commands import Captured, failure, process_without, succeed, wrong_usage

FOX = "Once upon a time there was a clever fox; he said: let us go home! "
Run = Callable[..., Quantization]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_text(FOX * 12, encoding="utf-8")
    return str(path)


@pytest.fixture
def quantize(bundle: Path, text: str, tmp_path: Path, capsys: Captured) -> Run:
    """``quantize(*arguments)``: run the command into ``out`` and return the manifest's part."""

    def run(*arguments: str) -> Quantization:
        out = tmp_path / "out"
        loose = [] if "--max-loss" in arguments else ["--max-loss", "1000"]
        command = ["quantize", str(bundle), str(out), "--text", text, *loose, *arguments]
        assert main(command) == 0
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.endswith(f"wrote {out}\n")
        return open_bundle(out, verify=True).manifest.quantization

    return run


def info(folder: Path, capsys: Captured) -> dict[str, str]:
    lines = succeed(capsys, "info", folder).splitlines()
    return {line[:14].strip(): line[15:] for line in lines}


# quantize


def test_int8_unless_another_is_asked_for(quantize: Run) -> None:
    assert quantize().recipe == "int8"


@pytest.mark.parametrize("recipe", ["int8", "int4", "int8-weights"])
def test_every_recipe(recipe: str, quantize: Run) -> None:
    assert quantize("--recipe", recipe).recipe == recipe


def test_options_reach_the_quantizer(quantize: Run) -> None:
    layers = ["h.0.mlp.input.weight", "h.1.attn.qkv.weight"]
    options = ["--recipe", "int4", "--block-size", "64", "--kv-cache", "float32"]
    keep = ["--keep", layers[0], "--keep", layers[1]]
    found = quantize(*options, *keep, "--max-loss", "250")
    assert found.quality is not None
    assert (found.block_size, found.quality.kv_cache) == (64, "float32")
    assert found.kept == dict.fromkeys(layers, "int8 in blocks of 64")
    assert found.quality.perplexity_rise_limit == 2.5  # percent on the command line
    assert found.quality.text == "fox.txt"


def test_threads(bundle: Path, text: str, tmp_path: Path, capsys: Captured) -> None:
    options = ["--text", text, "--max-loss", "1000", "--threads", "1"]
    assert main(["quantize", str(bundle), str(tmp_path / "out"), *options]) == 0
    capsys.readouterr()
    line = failure(capsys, "quantize", bundle, tmp_path / "none", "--threads", "0")
    assert line.startswith("threads is 0; it must be an integer from 1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_built_in_text(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseq.quantize.texts.TOKENS", 1000)
    out = str(tmp_path / "out")
    assert main(["quantize", str(bundle), out, "--allow-loss"]) == 0
    quality = open_bundle(Path(out)).manifest.quantization.quality
    assert quality is not None
    assert quality.text == "calibration.txt"
    assert quality.perplexity_rise_limit == 0.005


def test_wrong_usage(bundle: Path, tmp_path: Path, capsys: Captured) -> None:
    out = str(tmp_path / "out")
    for arguments in (
        ["quantize", str(bundle), out, "--recipe", "int3"],
        ["quantize", str(bundle)],
        ["quantize", str(bundle), out, "--block-size", "many"],
        ["quantize", str(bundle), out, "--kv-cache", "float16"],
        ["quantize", str(bundle), out, "--max-loss", "little"],
        ["quantize", str(bundle), out, "--max-loss", "-1"],
        ["quantize", str(bundle), out, "--max-loss", "nan"],
        ["export", str(bundle), out, "--keep", "*"],
        ["export", str(bundle), out, "--max-loss", "1"],
        ["export", str(bundle), out, "--max-loss", "0"],
        ["export", str(bundle), out, "--block-size", "0"],
        ["export", str(bundle), out, "--allow-loss"],
        ["export", str(bundle), out, "--threads", "2"],
        ["quantize", str(bundle), out, "--threads", "two"],
        ["export", str(bundle), out, "--precision", "int3"],
    ):
        wrong_usage(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--block-size", "32"], "A block size has no effect with the recipe 'int8': "),
        (["--recipe", "int4", "--block-size", "7"], "The block size is 7; it must be one of 32, "),
        (
            ["--keep", "h.7"],
            "There is no layer 'h.7' to keep: use names or patterns of h.0.attn.qkv.weight, ",
        ),
        (["--text", "nothing.txt"], "There is no file nothing.txt: give the path of a text file."),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)
def test_bad_options_are_one_sentence(
    arguments: list[str], message: str, bundle: Path, tmp_path: Path, capsys: Captured
) -> None:
    line = failure(capsys, "quantize", bundle, tmp_path / "out", *arguments)
    assert line.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_beyond_the_limit(
    seeded_t5: Callable[..., Any],
    save_t5: Callable[..., Path],
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The T5 answers the built-in text itself, so that whatever changes is a loss.

    Its tokens are bytes: a Unigram tokenizer is never trained to quite the same.
    """
    monkeypatch.setattr("edgeseq.quantize.texts.TOKENS", 400)
    source, out = tmp_path / "source", tmp_path / "out"
    export_checkpoint(save_t5(seeded_t5(num_layers=1, vocab_size=384)), source)
    command = ["quantize", str(source), str(out), "--recipe", "int4", "--max-loss", "0.001"]
    message = failure(capsys, *command, progress=True)
    assert message.startswith("Perplexity rises by ")
    assert "--allow-loss" in message
    assert list(tmp_path.iterdir()) == [source]
    assert main([*command, "--allow-loss"]) == 0
    capsys.readouterr()
    shown = info(out, capsys)
    assert "(limit +0.00%)" in shown["quality"]
    assert " as int8 in blocks of 64" in shown["kept layers"]


def test_a_bundle_in_the_way_is_replaced_only_on_request(
    bundle: Path, text: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command refuses before any work and changes nothing."""
    taken, other = tmp_path / "taken", tmp_path / "other"
    assert main(["quantize", str(bundle), str(taken), "--text", text, "--allow-loss"]) == 0
    capsys.readouterr()
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    manifest = (taken / MANIFEST_NAME).read_bytes()
    command = ["quantize", str(bundle), str(taken), "--text", text, "--recipe", "int4"]
    with monkeypatch.context() as patch:
        patch.setattr("edgeseq.quantize.quantizing.open_engine", None)
        message = failure(capsys, *command)
        assert message.startswith(f"{taken} already contains a bundle: choose another output")
        assert "--overwrite" in message
        message = failure(capsys, *command[:2], other, "--overwrite")
        assert message == f"{other} exists and is not a bundle: choose another output folder."
    assert (taken / MANIFEST_NAME).read_bytes() == manifest
    assert [path.name for path in other.iterdir()] == ["notes.txt"]
    assert main([*command, "--overwrite", "--allow-loss"]) == 0
    assert open_bundle(taken).manifest.quantization.recipe == "int4"
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "other"}


# info


def test_info(quantize: Run, tmp_path: Path, capsys: Captured) -> None:
    found = quantize("--recipe", "int4", "--keep", "h.1.mlp.output.weight")
    assert found.quality is not None
    shown = info(tmp_path / "out", capsys)
    assert shown["recipe"] == "int4, block size 32"
    assert shown["kept layers"] == "h.1.mlp.output.weight as int8 in blocks of 64"
    assert shown["KV cache"] == "int8"
    rise = f"perplexity {found.quality.perplexity_rise:+.2%} (limit +1000.00%)"
    assert shown["quality"].startswith(rise)
    assert f"{found.quality.tokens} tokens of fox.txt (int8 KV cache)" in shown["quality"]


def test_info_of_what_is_not_quantized(bundle: Path, capsys: Captured) -> None:
    shown = info(bundle, capsys)
    assert shown["recipe"] == "fp32"
    assert not {"quality", "kept layers"} & shown.keys()


def test_info_as_json(quantize: Run, tmp_path: Path, capsys: Captured) -> None:
    quantize()
    out = tmp_path / "out"
    printed = succeed(capsys, "info", out, "--json", "--verify")
    assert printed == (out / MANIFEST_NAME).read_text(encoding="utf-8")
    data = json.loads(printed)
    assert data["kv_cache"] == {"dtype": "int8"}
    assert data["quantization"]["quality"].keys() >= {"perplexity_rise", "kl_divergence", "text"}


def test_generate_with_either_cache(quantize: Run, tmp_path: Path, capsys: Captured) -> None:
    quantize()
    command = ["generate", "--bundle", str(tmp_path / "out"), "Once", "--max-new-tokens", "5"]
    for cache in ("float32", "int8"):
        assert main([*command, "--kv-cache", cache]) == 0
    assert capsys.readouterr().err == ""


# export --precision


def test_export_to_int8(
    checkpoint: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command exports and quantizes; no float32 bundle is left behind."""
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("edgeseq.quantize.texts.TOKENS", 1000)
    options = ["--max-loss", "900", "--keep", "h.1.mlp.*"]
    assert main(["export", str(checkpoint), str(out), "--precision", "int8", *options]) == 0
    wrote = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wrote")]
    assert wrote == [f"wrote {out}"]
    assert list(temporary.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"out", "temporary"}
    manifest = load(out, verify=True, threads=1).bundle.manifest
    assert manifest.quantization.recipe == "int8"
    assert {*manifest.quantization.kept} == {"h.1.mlp.input.weight", "h.1.mlp.output.weight"}
    assert manifest.quantization.quality is not None
    assert manifest.quantization.quality.perplexity_rise_limit == 9.0
    assert manifest.source.id == checkpoint.name
    monkeypatch.setattr("edgeseq.export.export_checkpoint", None)  # refused before any work
    message = failure(capsys, "export", checkpoint, out, "--precision", "int8")
    assert message.startswith(f"{out} already contains a bundle: choose another output")


def test_export_of_no_checkpoint(tmp_path: Path, capsys: Captured) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    failure(capsys, "export", empty, tmp_path / "out", "--precision", "int4", progress=True)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


# Without other packages


def test_no_torch_is_needed(bundle: Path, text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    packages = "torch,transformers,optimum,sentencepiece,psutil"
    arguments = ("quantize", bundle, out, "--text", text, "--allow-loss")
    done = process_without(packages, *arguments)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert open_bundle(out, verify=True).manifest.quantization.recipe == "int8"


def test_onnx_is_needed(bundle: Path, tmp_path: Path) -> None:
    done = process_without("onnx", "quantize", bundle, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "edgeseq: Quantizing needs onnx: install the extra 'quantize' "
        '(python -m pip install "edgeseq[cpu,quantize]").\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_onnx_is_not_needed_to_load(quantize: Run, tmp_path: Path) -> None:
    quantize()
    arguments = ("generate", "--bundle", tmp_path / "out", "Once", "--max-new-tokens", 3)
    assert process_without("onnx,torch,transformers", *arguments).returncode == 0
