"""From a checkpoint to a bundle: the figures of each step, the card, the task file, failures."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from edgeseq.quantize import quantizing
from edgeseq.quantize.recipes import Recipe, find_recipe
from edgeseq.runtime import BundleError, EdgeseqError, Model, OptionError, load
from edgeseq.runtime.bundle import writing
from edgeseq.runtime.bundle.manifest import CARD_NAME
from edgeseq.runtime.bundle.reading import open_bundle
from edgeseq.runtime.errors import QuantizationError
from edgeseq.runtime.tasks.templates import read_template as read_task
from edgeseq.training import train
from edgeseq.training.bundling import RunFacts, loss_table, make_bundle, write_task
from edgeseq.training.bundling.card import model_card
from edgeseq.training.bundling.loss_table import markdown_table
from edgeseq.training.data import FileFacts
from edgeseq.training.template import Template, read_template, with_overrides
from tests.support.errors import refusal

PAIRS = [(f"a fox and {'the house ' * (i % 4)}{i}", f"he said {i}") for i in range(20)]
TEXT = "Once upon a time there was a clever fox; he said: let us go home!\n" * 12
FACTS = RunFacts(
    base="org/tiny",
    files=[FileFacts("pairs.csv", 1234, "ab" * 32, 200)],
    training_examples=180,
    held_out_examples=20,
    figures={"steps": 40, "seconds": 12.5, "best": {"step": 20}},
)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with held-out pairs and a held-out text."""
    folder = tmp_path_factory.mktemp("held_out")
    lines = [json.dumps({"source": source, "target": target}) for source, target in PAIRS]
    (folder / "held_out.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "held_out.txt").write_text(TEXT, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tiny_t5(seeded_t5: Callable[..., Any], save_t5: Callable[..., Path]) -> Path:
    """A T5 with random weights that writes bytes, nine of them in an answer."""
    model = seeded_t5(vocab_size=384)
    model.generation_config.max_new_tokens = 9
    return save_t5(model)


@pytest.fixture(autouse=True)
def lenient_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate for models with random weights, which lose more than trained ones."""

    def find(name: str, block_size: int | None) -> Recipe:
        return replace(find_recipe(name, block_size), perplexity_rise_limit=10.0)

    monkeypatch.setattr(quantizing, "find_recipe", find)


def template(name: str) -> Template:
    return read_template(name)


def make(checkpoint: Path, out: Path, held_out: Path, precision: str, name: str) -> dict[str, Any]:
    return make_bundle(
        checkpoint,
        out,
        held_out=held_out,
        precision=precision,
        template=template(name),
        facts=FACTS,
        threads=1,
    )


def assert_same(stages: dict[str, dict[str, float]]) -> None:
    """Check that the first two stages, which compute the same, have the same figures."""
    checkpoint, exported, *_ = stages.values()
    for name in checkpoint.keys() - {"size_bytes"}:
        assert exported[name] == pytest.approx(checkpoint[name], rel=1e-4)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_pairs_of_an_encoder_decoder(t5_checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    file = held_out / "held_out.jsonl"
    found = make(t5_checkpoint, tmp_path / "run", file, "int8-weights", "t5-scratch")
    assert found["precision"] == "int8-weights"
    assert found["measured_on"] == "20 held-out pairs"
    stages = found["stages"]
    last = "int8-weights bundle"
    assert [*stages] == ["trained checkpoint", "float32 bundle", last]
    assert {"perplexity", "exact_match", "character_error_rate"} <= stages[last].keys()
    assert_same(stages)
    bundle = open_bundle(tmp_path / "run" / "bundle", verify=True)
    quality = bundle.manifest.quantization.quality
    assert quality is not None
    assert quality.text == "held_out.jsonl"
    assert bundle.manifest.source.id == "run"
    assert names(tmp_path / "run") <= {"bundle", ".bundle.lock"}


def test_answers_of_the_checkpoint_are_compared_with_targets(tiny_t5: Path, tmp_path: Path) -> None:
    """The targets are the model's own answers, so all of them match."""
    with load(make_only(tiny_t5, tmp_path / "first")) as model:
        sources = [source for source, _ in PAIRS]
        pairs = [(s, r.text) for s, r in zip(sources, model.generate(sources), strict=True)]
    lines = [json.dumps({"source": s, "target": t}) for s, t in pairs if t.strip()]
    (tmp_path / "own.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    stages = make(tiny_t5, tmp_path / "run", tmp_path / "own.jsonl", "fp32", "t5-scratch")["stages"]
    assert {stage["exact_match"] for stage in stages.values()} == {1.0}


def test_a_decoder_with_more_layers_than_the_encoder(
    seeded_t5: Callable[..., Any], save_t5: Callable[..., Path], held_out: Path, tmp_path: Path
) -> None:
    checkpoint = save_t5(seeded_t5(num_layers=1, num_decoder_layers=2))
    file = held_out / "held_out.jsonl"
    assert_same(make(checkpoint, tmp_path / "run", file, "fp32", "t5-scratch")["stages"])


def make_only(checkpoint: Path, out: Path) -> Path:
    from edgeseq.export import export_checkpoint

    return export_checkpoint(checkpoint, out).folder


def test_prompts_and_answers_of_a_decoder_only_model(
    checkpoint: Path, held_out: Path, tmp_path: Path
) -> None:
    file = held_out / "held_out.jsonl"
    found = make(checkpoint, tmp_path / "run", file, "int8-weights", "gpt2-finetune")
    assert found["measured_on"] == "20 held-out pairs"
    assert_same(found["stages"])
    assert "bits_per_byte" not in markdown_table(found["stages"])[0]
    quality = open_bundle(tmp_path / "run" / "bundle").manifest.quantization.quality
    assert quality is not None
    assert quality.context_tokens is None


def test_text_in_float32(checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    found = make(checkpoint, tmp_path / "run", held_out / "held_out.txt", "fp32", "gpt2-scratch")
    assert found["precision"] == "fp32"
    assert found["measured_on"].endswith(" tokens of held-out text")
    assert [*found["stages"]] == ["trained checkpoint", "float32 bundle"]
    assert_same(found["stages"])
    assert "exact_match" not in found["stages"]["float32 bundle"]
    assert load(tmp_path / "run" / "bundle", verify=True).generate("The fox", max_new_tokens=2)


def test_the_card(checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    found = make(checkpoint, tmp_path / "run", held_out / "held_out.txt", "int8", "gpt2-scratch")
    bundle = open_bundle(tmp_path / "run" / "bundle", verify=True)
    assert CARD_NAME in bundle.manifest.files
    card = bundle.file(CARD_NAME).read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    head = yaml.safe_load(front)
    assert (head["base_model"], head["pipeline_tag"]) == ("org/tiny", "text-generation")
    [metric] = head["model-index"][0]["results"][0]["metrics"]
    perplexity = found["stages"]["int8 bundle"]["perplexity"]
    assert metric == {"type": "perplexity", "value": pytest.approx(perplexity, rel=1e-4)}
    assert body.startswith("\n# run\n")
    for part in ("`pairs.csv`", "1,234", "ab" * 32, "steps: 40", "`gpt2-scratch`", "[trainer]"):
        assert part in body
    assert all(line in body for line in markdown_table(found["stages"]))


def test_the_card_names_no_folder_of_this_machine(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    found = with_overrides(template("gpt2-lora"), {"model.base": str(checkpoint)})
    facts = replace(FACTS, base=str(checkpoint))
    stages = {"int8 bundle": {"perplexity": 2.0}}
    card = model_card("mine", found, facts, open_bundle(bundle).manifest, stages, "2 pairs")
    assert str(checkpoint) not in card
    assert f"fine-tuned from `{checkpoint.name}`" in card
    assert "base_model" not in card


def test_an_owner_may_change_the_card(checkpoint: Path, held_out: Path, tmp_path: Path) -> None:
    make(checkpoint, tmp_path / "run", held_out / "held_out.txt", "fp32", "gpt2-scratch")
    bundle = tmp_path / "run" / "bundle"
    (bundle / CARD_NAME).write_text("# Mine\n", encoding="utf-8")
    load(bundle).close()
    with pytest.raises(EdgeseqError, match=CARD_NAME):
        open_bundle(bundle, verify=True)


def test_a_bundle_that_loses_too_much(
    checkpoint: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise QuantizationError("Perplexity rises by 9.00%, more than the limit of 0.50%: use X.")

    monkeypatch.setattr(quantizing.Gate, "admit", lose)
    text = held_out / "held_out.txt"
    message = refusal(
        QuantizationError,
        lambda: make(checkpoint, tmp_path / "run", text, "int8", "gpt2-scratch"),
    )
    assert message.startswith("There is no bundle, because perplexity rises by 9.00%, more than")
    assert str(checkpoint) in message
    assert "--resume" in message
    assert names(tmp_path / "run") == set()


def test_too_little_space(
    checkpoint: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda place: SimpleNamespace(free=1 << 20))
    text = held_out / "held_out.txt"
    message = refusal(
        BundleError, lambda: make(checkpoint, tmp_path / "run", text, "int8", "gpt2-scratch")
    )
    assert message.startswith(f"{tmp_path / 'run'} has 0.00105 GB of free space")
    assert names(tmp_path / "run") == set()


def test_too_few_pairs_for_the_gate(tiny_t5: Path, tmp_path: Path) -> None:
    line = json.dumps({"source": "a fox", "target": "he said"})
    (tmp_path / "held_out.jsonl").write_text(line + "\n", encoding="utf-8")
    message = refusal(
        QuantizationError,
        lambda: make(tiny_t5, tmp_path / "run", tmp_path / "held_out.jsonl", "int8", "t5-scratch"),
    )
    assert "needs two pairs" in message
    assert "--precision fp32" in message
    assert names(tmp_path / "run") == set()


def test_pairs_that_are_too_long_are_not_measured(checkpoint: Path, tmp_path: Path) -> None:
    pairs = [*PAIRS[:4], ("a fox " * 80, "he said"), ("a fox", "he said " * 80)]
    lines = [json.dumps({"source": source, "target": target}) for source, target in pairs]
    file = tmp_path / "held_out.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    found = make(checkpoint, tmp_path / "run", file, "fp32", "gpt2-finetune")
    assert found["measured_on"] == "4 held-out pairs"
    file.write_text("\n".join(lines[4:]), encoding="utf-8")
    message = refusal(
        QuantizationError,
        lambda: make(checkpoint, tmp_path / "run", file, "fp32", "gpt2-finetune"),
    )
    assert "too long" in message


def test_what_a_killed_run_left_is_deleted(
    checkpoint: Path, held_out: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (out / ".fp32.partial-0123" / "float32").mkdir(parents=True)
    make(checkpoint, out, held_out / "held_out.txt", "fp32", "gpt2-scratch")
    assert ".fp32.partial-0123" not in names(out)
    again = make(checkpoint, out, held_out / "held_out.txt", "int8", "gpt2-scratch")
    assert open_bundle(out / "bundle").manifest.quantization.recipe == again["precision"]


def test_an_unknown_precision_is_refused_before_the_training(tmp_path: Path) -> None:
    message = refusal(
        OptionError, lambda: train("t5-scratch", [], tmp_path / "run", precision="int9")
    )
    assert message.startswith("precision is 'int9'; it must be one of fp32, int8,")


STAGES = {
    "float32 bundle": {"size_bytes": 2_000_000, "perplexity": 3.14159, "exact_match": 0.5},
    "int8 bundle": {"size_bytes": 500_000, "perplexity": 3.2, "exact_match": 0.25},
}


def test_the_table() -> None:
    assert loss_table(STAGES) == [
        "                  size  perplexity  exact match",
        "float32 bundle  2.0 MB       3.142        50.0%",
        "int8 bundle     0.5 MB         3.2        25.0%",
    ]
    assert markdown_table(STAGES)[:2] == [
        "|  | size | perplexity | exact match |",
        "|---|--:|--:|--:|",
    ]


# The task file


def test_the_prompts_of_training(tmp_path: Path) -> None:
    found = with_overrides(template("t5-finetune"), {"data.source_prefix": "to ISO: "})
    task = read_task(write_task(tmp_path, found, "encoder-decoder", max_new_tokens=40))
    assert task.prompt("encoder-decoder", {"text": "5 May"}) == "to ISO: 5 May"
    assert task.forms["encoder-decoder"].options == {"do_sample": False, "max_new_tokens": 40}
    changes = {"data.form": "pairs", "data.separator": " =>\n", "data.source_prefix": "Q: "}
    found = with_overrides(template("gpt2-finetune"), changes)
    task = read_task(write_task(tmp_path, found, "decoder-only"))
    assert task.prompt("decoder-only", {"text": "5 May"}) == "Q: 5 May =>\n"


def test_a_prefix_with_braces_quotes_and_tabs(tmp_path: Path) -> None:
    prefix = 'A {text} and {x} "here"\t\\n: '
    found = with_overrides(template("t5-finetune"), {"data.source_prefix": json.dumps(prefix)})
    task = read_task(write_task(tmp_path, found, "encoder-decoder"))
    assert task.prompt("encoder-decoder", {"text": "5 May"}) == f"{prefix}5 May"


def test_labels_are_scored(t5_model: Model, tmp_path: Path) -> None:
    labels = ["fox", "house", "he said"]
    path = write_task(
        tmp_path, template("classification"), "encoder-decoder", max_new_tokens=4, labels=labels
    )
    found = t5_model.run(path, "A charming tale.")
    assert found.probabilities is not None
    assert found.probabilities.keys() == {*labels}
    assert "options" not in tomllib.loads(path.read_text(encoding="utf-8"))["encoder-decoder"]
