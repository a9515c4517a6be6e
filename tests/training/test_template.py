"""Training templates: reading, overriding and writing them, and what is refused."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseq.runtime import OptionError
from edgeseq.training.template import (
    DataSettings,
    Template,
    read_template,
    template_names,
    template_path,
    to_toml,
    with_overrides,
)
from tests.support.errors import VALUE, refusal

NAMES = [
    "bart-finetune",
    "classification",
    "gpt-neo-125m-lora",
    "gpt2-finetune",
    "gpt2-lora",
    "gpt2-scratch",
    "marian-finetune",
    "t5-finetune",
    "t5-lora",
    "t5-scratch",
]
FINETUNE = '[model]\nbase = "x"\n[data]\nform = "pairs"\n'
SCRATCH = '[model]\nmodel_type = "t5"\n[tokenizer]\nalgorithm = "bpe"\nvocab_size = 9\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(call: Any) -> str:
    return refusal(OptionError, call, ending=VALUE)


def test_the_templates_that_come_with_edgeseq() -> None:
    assert template_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_template_is_what_its_name_says(name: str) -> None:
    template = read_template(name)
    assert template.name == name
    assert template.title != name
    assert template.from_scratch == name.endswith("-scratch")
    assert bool(template.peft) == name.endswith("-lora")
    assert template.data.labels == (name == "classification")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_as_the_same(name: str, tmp_path: Path) -> None:
    template = read_template(name)
    assert read_template(write(tmp_path, to_toml(template))) == template


SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES), TEXTS, TEXTS)
def test_any_values_are_read_as_they_are_written(
    trainer: dict[str, Any], title: str, separator: str
) -> None:
    data = DataSettings(form="pairs", separator=separator)
    template = Template(
        name="a",
        title=title,
        model={"base": "b"},
        tokenizer={},
        data=data,
        trainer=trainer,
        peft={},
    )
    content = tomllib.loads(to_toml(template))
    assert content.get("trainer", {}) == trainer
    assert (content["title"], content["data"]["separator"]) == (title, separator)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufefftitle = "Mine"\n' + FINETUNE + "[trainer]\nmax_steps = 3\n")
    template = read_template(path)
    assert (template.name, template.title) == ("mine", "Mine")
    assert template.trainer == {"max_steps": 3}
    assert template_path(str(path)) == path


def test_defaults_of_the_data_settings() -> None:
    settings = DataSettings(form="pairs")
    assert (settings.source_column, settings.target_column) == ("source", "target")
    assert (settings.held_out, settings.max_unusable, settings.seed) == (0.1, 0.01, 0)


# Overrides


@pytest.mark.parametrize(
    ("place", "text", "value"),
    [
        ("trainer.learning_rate", "3e-4", 3e-4),
        ("trainer.learning_rate", ".5", 0.5),
        ("trainer.learning_rate", "1", 1),
        ("trainer.max_steps", "-1", -1),
        ("trainer.bf16", "true", True),
        ("trainer.bf16", "True", True),
        ("trainer.bf16", "False", False),
        ("trainer.optim", "adafactor", "adafactor"),
        ("trainer.optim", '"5"', "5"),
        ("trainer.optim", "", ""),
        ("trainer.optim", "a\nb = 1", "a\nb = 1"),
        ("trainer.optim", "1\nb = 1", "1\nb = 1"),
        ("trainer.optim", "2026-01-01", "2026-01-01"),
        ("trainer.lr_scheduler_kwargs", "{num_decay_steps = 5}", {"num_decay_steps": 5}),
        ("peft.target_modules", '["q", "v"]', ["q", "v"]),
        ("model.base", "organization/model", "organization/model"),
        ("model.dropout_rate", "0.0", 0.0),
    ],
)
def test_values_of_overrides(place: str, text: str, value: object) -> None:
    changed = with_overrides(read_template("t5-lora"), {place: text})
    group, name = place.split(".")
    found = getattr(changed, group)[name]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("place", "text", "value"),
    [
        ("data.seed", "7", 7),
        ("data.held_out", "0.25", 0.25),
        ("data.source_column", "1", "1"),
        ("data.source_column", "true", "true"),
        ("data.separator", '"\\n\\n"', "\n\n"),
        ("data.separator", " -> ", " -> "),
        ("data.source_prefix", "ask: ", "ask: "),
        ("data.labels", "true", True),
        ("data.max_unusable", "1", 1.0),
    ],
)
def test_overrides_of_data(place: str, text: str, value: object) -> None:
    found = getattr(with_overrides(read_template("t5-lora"), {place: text}).data, place[5:])
    assert (found, type(found)) == (value, type(value))


def test_overrides_leave_the_template_as_it_is() -> None:
    template = read_template("t5-scratch")
    assert with_overrides(template, {}) == template
    with_overrides(template, {"trainer.seed": "1", "data.seed": "1"})
    assert template == read_template("t5-scratch")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"trainr.seed": "1"}, "There is no setting 'trainr.seed': write GROUP.NAME, where GROUP"),
        ({"seed": "1"}, "There is no setting 'seed': write GROUP.NAME"),
        ({"data.": "1"}, "There is no setting 'data.': "),
        ({"data.sead": "1"}, "There is no setting data.sead: did you mean seed."),
        ({"data.xyz": "1"}, "There is no setting data.xyz: use form, format, "),
        ({"data.seed": "many"}, "data.seed is 'many'; it must be an integer."),
        ({"data.seed": "true"}, "data.seed is True; it must be an integer."),
        ({"data.labels": "1"}, "data.labels is 1; it must be true or false."),
        ({"data.form": "pair"}, "data.form is 'pair'; it must be one of text, pairs."),
        ({"data.format": "xml"}, "data.format is 'xml'; it must be one of text, jsonl, "),
        ({"data.held_out": "1"}, "data.held_out is 1.0; it must be a share above 0 and below 1."),
        ({"data.held_out": "0"}, "data.held_out is 0.0; "),
        ({"data.max_unusable": "2"}, "data.max_unusable is 2.0; it must be a share from 0 to 1."),
        ({"data.block_size": "0"}, "data.block_size is 0; it must be at least 1."),
        ({"data.source_column": ""}, "data.source_column is empty; "),
        ({"data.source_column": "target"}, "data.source_column and data.target_column are both "),
        ({"data.document_separator": "x"}, "data.document_separator has no effect with pairs: "),
        ({"trainer.learning_rate": "nan"}, "trainer.learning_rate is nan; it must be a finite "),
        ({"tokenizer.vocab_size": "8"}, "tokenizer.vocab_size has no effect with model.base, "),
        ({"tokenizer.algorithm": "x", "model.model_type": "t5"}, "The group model has both base "),
    ],
)
def test_overrides_that_are_refused(overrides: dict[str, str], message: str) -> None:
    template = read_template("t5-lora")
    assert refused(lambda: with_overrides(template, overrides)).startswith(message)


def test_a_base_for_a_template_from_scratch() -> None:
    template = read_template("t5-scratch")
    message = refused(lambda: with_overrides(template, {"model.base": "x"}))
    assert message.startswith("The group model has both base and model_type: ")


# Templates that are refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t5-finetun", "There is no template 't5-finetun': did you mean t5-finetune, or the path "),
        ("xyz", "There is no template 'xyz': use bart-finetune, classification, "),
        ("xyz.toml", "There is no template file xyz.toml: "),
        ("", "There is no template '': "),
        (5, "There is no template 5: "),
    ],
)
def test_there_is_no_such_template(name: Any, message: str) -> None:
    assert refused(lambda: read_template(name)).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model", " cannot be read as a template: "),
        ('trainer = "x"\n' + FINETUNE, ": trainer must be a table."),
        ("title = 5\n" + FINETUNE, ": title is 5; it must be a string."),
        (FINETUNE + "[train]\n", ": There is no key 'train' here: did you mean trainer."),
        ("[data]\nform = 'text'\n", ": The group model needs base, a checkpoint to fine-tune, or "),
        ("[model]\nbase = 5\n[data]\nform='text'\n", ": model.base is 5; it must be a string."),
        ("[model]\nbase = 'x'\n", ": data.form is missing; it must be 'text' or 'pairs'."),
        (SCRATCH.replace("bpe", "bp") + "[data]\nform='text'\n", ": tokenizer.algorithm is 'bp'; "),
        (SCRATCH.replace("9", "0") + "[data]\nform='text'\n", ": tokenizer.vocab_size is 0; it "),
        (SCRATCH + "[data]\nform='text'\n[peft]\nr = 8\n", ": The group peft has no effect with "),
        (SCRATCH + "path = 'x'\n[data]\nform='text'\n", ": The group tokenizer has path and "),
        (SCRATCH + "size = 5\n[data]\nform='text'\n", ": There is no setting tokenizer.size: "),
        (FINETUNE + "labels = 'yes'\n", ": data.labels is 'yes'; it must be true or false."),
        (FINETUNE + "[trainer]\nseed = 2026-01-01\n", ": trainer.seed is 2026-01-01; it must be "),
        (FINETUNE + "[trainer]\nseed = inf\n", ": trainer.seed is inf; it must be a finite "),
        (FINETUNE.replace("pairs", "text") + "labels = true\n", ": data.labels has no effect with"),
    ],
)
def test_templates_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert refused(lambda: read_template(path)).startswith(f"{path}{message}")


def test_a_template_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"title = '\xff'")
    assert " cannot be read as a template: " in refused(lambda: read_template(path))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_shares_that_are_no_numbers(value: float) -> None:
    refused(lambda: DataSettings(form="text", held_out=value))
    refused(lambda: DataSettings(form="text", max_unusable=value))
