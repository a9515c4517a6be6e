"""``edgeseq train``: templates on the command line, settings as options, and wrong usage."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseq import training
from edgeseq.cli.command_line import main
from edgeseq.training.template import read_template, template_names, template_path
from tests.support.commands import (
    Captured,
    failure,
    help_text,
    process_without,
    succeed,
    wrong_usage,
)

TRAIN_PACKAGES = "torch,transformers,peft,accelerate,psutil,matplotlib,pyarrow,onnx"
RUN = ["train", "t5-scratch", "--data", "a.jsonl", "--out", "out"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments that the command passes to ``train``, which only says that it is done."""
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    done = SimpleNamespace(checkpoint=Path("out/checkpoint"), bundle=None, bundle_figures=None)

    def train(*given: Any, **named: Any) -> SimpleNamespace:
        found.append((given, named))
        return done

    monkeypatch.setattr(training, "train", train, raising=False)
    return found


# Templates


def test_list(capsys: Captured) -> None:
    lines = succeed(capsys, "train", "--list").splitlines()
    assert [line.split()[0] for line in lines] == template_names()
    assert "Train a small T5 from scratch on pairs" in lines[-1]


def test_show_and_copy(tmp_path: Path, capsys: Captured) -> None:
    text = template_path("t5-lora").read_text(encoding="utf-8")
    assert succeed(capsys, "train", "t5-lora", "--show") == text
    copy = tmp_path / "mine.toml"
    assert succeed(capsys, "train", "t5-lora", "--copy", copy) == ""
    assert copy.read_text(encoding="utf-8") == text
    assert succeed(capsys, "train", copy, "--show") == text
    assert "exists already" in failure(capsys, "train", "t5-lora", "--copy", copy)
    assert "must end in .toml" in failure(capsys, "train", "t5-lora", "--copy", tmp_path / "a")


def test_show_and_copy_with_other_settings(tmp_path: Path, capsys: Captured) -> None:
    copy = tmp_path / "t5-lora.toml"
    options = ["--trainer.learning_rate", "3e-4", "--base", "mine", "--data.source_prefix=ask: "]
    succeed(capsys, "train", "t5-lora", "--copy", copy, *options)
    template = read_template(copy)
    assert template.trainer["learning_rate"] == 3e-4
    assert template.model == {"base": "mine"}
    assert template.data.source_prefix == "ask: "
    assert succeed(capsys, "train", "t5-lora", "--show", *options) == copy.read_text("utf-8")


@pytest.mark.parametrize(
    "arguments", [["--list"], ["t5-lora", "--show"], ["--help"]], ids=lambda words: words[-1]
)
def test_templates_need_no_other_packages(arguments: list[str]) -> None:
    done = process_without(TRAIN_PACKAGES, "train", *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"t5-" in done.stdout


def test_a_missing_package_is_one_sentence(tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text(
        "".join(json.dumps({"source": f"{i}", "target": "x"}) + "\n" for i in range(20))
    )
    out = tmp_path / "out"
    done = process_without("torch", "train", "t5-scratch", "--data", data, "--out", out)
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("edgeseq: Training needs torch: install the extra 'train' (")
    assert not out.exists()


# Arguments


def test_arguments_reach_the_training(calls: list[Any], capsys: Captured) -> None:
    options = ["--data", "b.csv", "c.csv", "--held-out", "d.csv", "--base", "x", "--resume"]
    assert main([*RUN, *options, "--precision", "int8", "--threads", "2", "--samples", "3"]) == 0
    [(given, named)] = calls
    files = [Path("a.jsonl"), Path("b.csv"), Path("c.csv")]
    assert given == ("t5-scratch", files, Path("out"))
    assert named.pop("progress")
    assert named == {
        "base": "x",
        "held_out": [Path("d.csv")],
        "overrides": {"trainer.eval_samples": "3"},
        "precision": "int8",
        "resume": True,
        "threads": 2,
    }


def test_what_the_bundle_lost_is_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    figures = {"measured_on": "20 held-out pairs", "stages": {"int8 bundle": {"perplexity": 1.5}}}
    done = SimpleNamespace(bundle=tmp_path / "bundle", bundle_figures=figures)
    monkeypatch.setattr(training, "train", lambda *_, **__: done, raising=False)
    run = ["train", "t5-scratch", "--data", "a.jsonl", "--out", tmp_path]
    lines = succeed(capsys, *run).splitlines()
    assert lines[:-1] == [
        "on 20 held-out pairs:",
        "             perplexity",
        "int8 bundle         1.5",
    ]
    assert lines[-1] == f'to try it: edgeseq generate --bundle {tmp_path / "bundle"} "TEXT"'
    (tmp_path / "task.toml").touch()
    assert f"edgeseq run {tmp_path / 'task.toml'} --bundle" in succeed(capsys, *run)


def test_arguments_that_are_not_given(calls: list[Any]) -> None:
    assert main(RUN) == 0
    [(_, named)] = calls
    del named["progress"]
    expected = {"base": None, "held_out": (), "overrides": {}, "precision": None}
    assert named == {**expected, "resume": False, "threads": None}


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["--trainer.learning_rate", "3e-4"], {"trainer.learning_rate": "3e-4"}),
        (["--trainer.learning_rate=3e-4"], {"trainer.learning_rate": "3e-4"}),
        (["--trainer.max_steps", "-1"], {"trainer.max_steps": "-1"}),
        (["--data.separator=--x"], {"data.separator": "--x"}),
        (["--data.source_prefix", "ask me: "], {"data.source_prefix": "ask me: "}),
        (["--data.seed", "1", "--data.seed", "2"], {"data.seed": "2"}),
        (["--peft.r=8", "--model.d_ff", "9"], {"peft.r": "8", "model.d_ff": "9"}),
        (["--tokenizer.vocab_size", "99"], {"tokenizer.vocab_size": "99"}),
        (["--model.base", "a=b"], {"model.base": "a=b"}),
    ],
)
def test_settings_are_options(
    words: list[str], overrides: dict[str, str], calls: list[Any]
) -> None:
    assert main([*RUN, *words]) == 0
    assert main([*RUN[:2], *words, *RUN[2:]]) == 0
    assert [named["overrides"] for _, named in calls] == [overrides, overrides]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*RUN, "--trainr.seed", "1"], "there is no option --trainr.seed."),
        ([*RUN, "--trainer", "1"], "there is no option --trainer."),
        ([*RUN, "--trainer.", "1"], "there is no option --trainer.."),
        (
            [*RUN, "--presicion", "int8"],
            "there is no option --presicion; did you mean --precision?",
        ),
        ([*RUN, "--trainer.seed"], "--trainer.seed: expected one argument (write --trainer.seed="),
        ([*RUN, "--precision", "int3"], "--precision: invalid choice: 'int3'"),
        ([*RUN, "--threads", "two"], "--threads: 'two' is not an integer."),
        ([*RUN, "--data"], "--data: expected at least one argument."),
        (["train"], "TEMPLATE is missing; --list shows the templates."),
        (["train", "--data", "a", "--out", "b"], "TEMPLATE is missing; "),
        (RUN[:4], "--out is missing."),
        ([*RUN[:2], *RUN[4:]], "--data is missing."),
        ([*RUN, "--list"], "--list cannot be combined with a template or its settings."),
        (["train", "--list", "--data.seed", "1"], "--list cannot be combined with a template or "),
        (["train", "--list", "--out", "x"], "--out cannot be combined with --list."),
        (["train", "t5-lora", "--show", "--resume"], "--resume cannot be combined with --show."),
        (
            ["train", "t5-lora", "--show", "--copy", "x.toml"],
            "--show cannot be combined with --copy.",
        ),
        (["train", "--copy", "x.toml"], "TEMPLATE is missing; "),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, calls: list[Any], capsys: Captured
) -> None:
    assert wrong_usage(capsys, *arguments).startswith(message)
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t5-scrach"], "There is no template 't5-scrach': did you mean t5-scratch, or the path "),
        (["none.toml"], "There is no template file none.toml: "),
        (["t5-lora", "--data.sead", "1"], "There is no setting data.sead: did you mean seed."),
        (["t5-lora", "--data.seed", "x"], "data.seed is 'x'; it must be an integer."),
        (["t5-scratch", "--base", "x"], "The group model has both base and model_type: "),
    ],
)
def test_wrong_templates_and_settings(arguments: list[str], message: str, capsys: Captured) -> None:
    assert failure(capsys, "train", *arguments, "--show").startswith(message)


def test_help(capsys: Captured) -> None:
    text = help_text(capsys, "train", "--help")
    assert "edgeseq train t5-scratch --data pairs.jsonl --out dates --precision int8" in text
    assert "--GROUP.NAME VALUE" in text
