"""`edgeseq generate`: the options of strategies and constraints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime import Model
from tests.support.commands import Captured, failure, succeed

PROMPT = "Once upon a time"
Run = Callable[..., str]


@pytest.fixture
def generate(bundle: Path, capsys: Captured) -> Run:
    """``generate(*arguments)``: what the command prints for the bundle."""

    def run(*arguments: str) -> str:
        return succeed(capsys, "generate", "--bundle", bundle, "--threads", "1", *arguments)

    return run


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--num-beams", "3"], {"num_beams": 3}),
        (
            ["--num-beams", "3", "--length-penalty", "2", "--early-stopping", "never"],
            {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
        ),
        (
            ["--num-beams", "2", "--early-stopping", "true"],
            {"num_beams": 2, "early_stopping": True},
        ),
        (
            ["--num-beams", "4", "--num-beam-groups", "2", "--diversity-penalty", "0.5"],
            {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        ),
        (["--prompt-lookup-num-tokens", "4"], {"prompt_lookup_num_tokens": 4}),
        (["--stop-string", "e", "--stop-string", "qq"], {"stop_strings": ["e", "qq"]}),
        (["--min-new-tokens", "5"], {"min_new_tokens": 5}),
        (
            ["--do-sample", "--seed", "3", "--min-p", "0.1", "--typical-p", "0.9"],
            {"do_sample": True, "seed": 3, "min_p": 0.1, "typical_p": 0.9},
        ),
    ],
)
def test_options_reach_the_model(
    generate: Run, model: Model, arguments: list[str], options: dict[str, Any]
) -> None:
    [expected] = model.generate(PROMPT, max_new_tokens=12, **options)
    assert generate(PROMPT, "--max-new-tokens", "12", *arguments) == expected.text + "\n"


def test_several_texts_are_numbered(generate: Run, model: Model) -> None:
    options: dict[str, Any] = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}
    results = model.generate(PROMPT, **options)
    arguments = ["--num-beams", "3", "--num-return-sequences", "2", "--max-new-tokens", "5"]
    expected = [
        f"--- {number}, score {result.sequence_score:.4f}\n{result.text}\n"
        for number, result in enumerate(results, 1)
    ]
    assert generate(PROMPT, *arguments) == "".join(expected)
    lines = generate(PROMPT, *arguments, "--json").splitlines()
    found = [json.loads(line) for line in lines]
    assert [line["sequence_score"] for line in found] == [r.sequence_score for r in results]
    assert [line["text"] for line in found] == [result.text for result in results]


def test_choices_are_printed_with_their_probabilities(generate: Run, model: Model) -> None:
    [expected] = model.generate(PROMPT, choices=[" a", " the"])
    assert expected.choices is not None
    lines = [f"{choice.probability:.4f}  {choice.text}" for choice in expected.choices]
    assert generate(PROMPT, "--choice", " a", "--choice", " the").splitlines() == lines


def test_log_probabilities_need_json(generate: Run, capsys: Captured) -> None:
    found = json.loads(generate(PROMPT, "--json", "--logprobs", "2", "--max-new-tokens", "3"))
    assert len(found["logprobs"]) == len(found["top_logprobs"]) == 3
    assert [len(others) for others in found["top_logprobs"]] == [2, 2, 2]
    assert "without --json" in failure(capsys, "generate", PROMPT, "--logprobs", "2")


def test_constraints(tmp_path: Path, capsys: Captured) -> None:
    def run(*arguments: str) -> str:
        given = ("generate", "Then", "--no-do-sample", "--threads", "1", *arguments)
        return succeed(capsys, *given).removesuffix("\n")

    assert re.fullmatch("( [a-z]{1,6}){2}!", run("--regex", "( [a-z]{1,6}){2}!"))
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["fox", "wolf"]}', encoding="utf-8")
    assert json.loads(run("--json-schema", str(schema), "--num-beams", "2")) in ("fox", "wolf")
    grammar = tmp_path / "grammar.lark"
    grammar.write_text('start: " a" | " b"', encoding="utf-8")
    assert run("--grammar", str(grammar)) in (" a", " b")


def test_files_that_cannot_be_read(tmp_path: Path, capsys: Captured) -> None:
    missing = tmp_path / "missing.json"
    assert str(missing) in failure(capsys, "generate", "Then", "--json-schema", str(missing))
    bad = tmp_path / "bad.json"
    bad.write_bytes(b"\xff\xfe{")
    assert "not text in UTF-8" in failure(capsys, "generate", "Then", "--json-schema", str(bad))
    bad.write_text("{", encoding="utf-8")
    assert "json_schema" in failure(capsys, "generate", "Then", "--json-schema", str(bad))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--length-penalty", "2"], "length_penalty has no effect without beam search"),
        (["--num-beams", "0"], "num_beams is 0"),
        (["--num-beams", "2", "--num-return-sequences", "3"], "num_return_sequences is 3"),
        (["--choice", "a", "--num-beams", "2"], "num_beams has no effect with choices"),
        (["--regex", "("], "regex"),
        (["--stop-string", ""], "stop_strings"),
    ],
)
def test_bad_options_are_refused(capsys: Captured, arguments: list[str], said: str) -> None:
    assert said in failure(capsys, "generate", "Then", *arguments)
