"""training/run.py: runs of tiny models from files to a checkpoint, and what --resume continues."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from edgeseq.export import export_checkpoint
from edgeseq.runtime import load
from edgeseq.runtime.concurrency.file_lock import lock_file
from edgeseq.runtime.errors import CheckpointError, OptionError, TrainingError
from edgeseq.training import TrainingResult
from edgeseq.training.trainer.trainer import Trainer
from tests.support.checkpoints import (
    byte_level_tokenizer,
    seeded_gpt2,
    seeded_t5,
    unigram_tokenizer,
)
from tests.support.date_pairs import write_date_pairs
from tests.support.errors import VALUE, refusal
from tests.support.training_runs import STORY, run, tiny_template

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_date_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl", 120)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def t5_run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    out = tmp_path_factory.mktemp("runs") / "t5"
    return run(tiny_template("t5-scratch"), pairs, out)


@pytest.fixture(scope="module")
def gpt2_run(story: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    out = tmp_path_factory.mktemp("runs") / "gpt2"
    return run(tiny_template("gpt2-scratch"), story, out)


@pytest.fixture(scope="module")
def gpt2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "gpt2"
    seeded_gpt2(initializer_range=0.1).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "t5"
    tokenizer = unigram_tokenizer()
    seeded_t5(vocab_size=len(tokenizer), eos_token_id=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def digest(result: TrainingResult) -> str:
    """Return a hash of the weights; a comparison of bytes would print a long difference."""
    return hashlib.sha256((result.checkpoint / WEIGHTS).read_bytes()).hexdigest()


def figures_of(result: TrainingResult) -> list[dict[str, Any]]:
    path = result.checkpoint.parent / "figures.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pairs_train_an_encoder_decoder(t5_run: TrainingResult) -> None:
    losses = [record["held_out_loss"] for record in figures_of(t5_run) if "held_out_loss" in record]
    assert losses[-1] < losses[0]
    assert {"exact_match", "character_error_rate", "perplexity"} <= t5_run.figures.keys()
    assert AutoModelForSeq2SeqLM.from_pretrained(t5_run.checkpoint).config.model_type == "t5"


def test_text_trains_a_decoder_only_model(gpt2_run: TrainingResult) -> None:
    losses = [
        record["held_out_loss"] for record in figures_of(gpt2_run) if "held_out_loss" in record
    ]
    assert losses[-1] < losses[0]
    assert gpt2_run.figures["bits_per_byte"] > 0
    assert AutoModelForCausalLM.from_pretrained(gpt2_run.checkpoint).config.n_layer == 1


def test_a_run_leaves_its_settings_figures_and_held_out_data(t5_run: TrainingResult) -> None:
    out = t5_run.checkpoint.parent
    names = {path.name for path in out.iterdir()}
    expected = {"template.toml", "run.json", "figures.jsonl", "curves.png", "held_out.jsonl"}
    assert expected | {"checkpoint", "checkpoints", "tokenizer", "task.toml"} == names
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    held_out = [json.loads(line) for line in t5_run.held_out.read_text("utf-8").splitlines()]
    assert len(held_out) == 12
    assert held_out[0].keys() == {"source", "target"}


def test_a_trained_model_can_be_exported(gpt2_run: TrainingResult, tmp_path: Path) -> None:
    bundle = export_checkpoint(gpt2_run.checkpoint, tmp_path / "bundle")
    assert bundle.manifest.generation["do_sample"] is True


def test_answers_of_a_model_of_pairs_are_greedy_and_limited(t5_run: TrainingResult) -> None:
    settings = json.loads((t5_run.checkpoint / "generation_config.json").read_text("utf-8"))
    assert settings["max_new_tokens"] > 10
    assert not settings.get("do_sample", False)


def test_progress_has_loss_held_out_figures_and_samples(pairs: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    template = tiny_template("t5-scratch", trainer__max_steps=4, trainer__eval_samples=1)
    run(template, pairs, tmp_path / "out", progress=lines.append)
    text = "\n".join(lines)
    for part in (
        "12 held out",
        "parameters",
        "GB of memory",
        "held-out loss",
        "exact match",
        " -> ",
    ):
        assert part in text


def test_nothing_is_printed_beside_progress(
    pairs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tiny_template("t5-scratch", trainer__max_steps=2), pairs, tmp_path / "out")
    assert capfd.readouterr() == ("", "")


class Interrupts:
    """Raises ``KeyboardInterrupt`` in a chosen training step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: int | None = None
        step = Trainer.training_step

        def training_step(trainer: Trainer, *arguments: Any) -> Any:
            if trainer.state.global_step == self.at:
                self.at = None
                raise KeyboardInterrupt
            return step(trainer, *arguments)

        monkeypatch.setattr(Trainer, "training_step", training_step)


@pytest.fixture
def interrupts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupts]:
    yield Interrupts(monkeypatch)


@pytest.mark.parametrize("step", [1, 4, 9, 11])
def test_an_interrupted_run_of_pairs_ends_with_the_same_weights(
    t5_run: TrainingResult, pairs: Path, tmp_path: Path, interrupts: Interrupts, step: int
) -> None:
    interrupts.at = step
    template = tiny_template("t5-scratch")
    with pytest.raises(KeyboardInterrupt, match=r"step .*--resume"):
        run(template, pairs, tmp_path / "out")
    resumed = run(template, pairs, tmp_path / "out", resume=True)
    assert digest(resumed) == digest(t5_run)
    assert resumed.figures == t5_run.figures
    own, others = figures_of(resumed), figures_of(t5_run)
    assert [record["step"] for record in own] == [record["step"] for record in others]


def test_an_interrupted_run_of_text_ends_with_the_same_weights(
    story: Path, tmp_path: Path, interrupts: Interrupts
) -> None:
    changes = {"trainer__gradient_accumulation_steps": 2, "model__resid_pdrop": 0.1}
    template = tiny_template("gpt2-scratch", **changes)
    expected = run(template, story, tmp_path / "straight")
    interrupts.at = 10
    with pytest.raises(KeyboardInterrupt):
        run(template, story, tmp_path / "out")
    resumed = run(template, story, tmp_path / "out", resume=True)
    assert digest(resumed) == digest(expected)


def test_early_stopping_counts_on_after_an_interruption(
    pairs: Path, tmp_path: Path, interrupts: Interrupts
) -> None:
    template = tiny_template(
        "t5-scratch",
        trainer__max_steps=40,
        trainer__learning_rate=1e-9,
        trainer__early_stopping_patience=3,
        trainer__metric_for_best_model="exact_match",
    )
    straight = run(template, pairs, tmp_path / "straight")
    interrupts.at = 10
    with pytest.raises(KeyboardInterrupt):
        run(template, pairs, tmp_path / "out")
    resumed = run(template, pairs, tmp_path / "out", resume=True)
    assert resumed.figures["steps"] == straight.figures["steps"] == 16


def test_a_run_that_was_killed_after_its_last_step_only_writes_the_checkpoint(
    t5_run: TrainingResult, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    template = tiny_template("t5-scratch")
    with monkeypatch.context() as patch:
        patch.setattr("edgeseq.training.models.save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            run(template, pairs, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint").exists()
    resumed = run(template, pairs, tmp_path / "out", resume=True)
    assert digest(resumed) == digest(t5_run)


def test_a_folder_with_a_run_is_not_used_again(t5_run: TrainingResult, pairs: Path) -> None:
    out = t5_run.checkpoint.parent
    refusal(TrainingError, lambda: run(tiny_template("t5-scratch"), pairs, out), match="finished")


def test_an_interrupted_run_needs_resume(
    pairs: Path, tmp_path: Path, interrupts: Interrupts
) -> None:
    interrupts.at = 0
    template, out = tiny_template("t5-scratch"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(template, pairs, out)
    refusal(TrainingError, lambda: run(template, pairs, out), match="--resume")
    other = tiny_template("t5-scratch", trainer__learning_rate=0.5)
    refusal(TrainingError, lambda: run(other, pairs, out, resume=True), match="learning_rate")
    data = write_date_pairs(tmp_path / "pairs.jsonl", 120, seed=7)
    match = "data was .*pairs.jsonl"
    refusal(TrainingError, lambda: run(template, data, out, resume=True), match=match)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_process_began_in_the_meantime_is_left_alone(
    t5_run: TrainingResult,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resume: bool,
) -> None:
    """It began after this process had looked at the folder, and ended before it took the lock."""
    out = tmp_path / "out"

    def lock_later(*arguments: Any) -> Any:
        shutil.copytree(t5_run.checkpoint.parent, out)
        return lock_file(*arguments)

    monkeypatch.setattr("edgeseq.training.run.lock_file", lock_later)
    template = tiny_template("t5-scratch", trainer__seed=7)
    match = "in the meantime" if resume else "holds a finished run"
    refusal(TrainingError, lambda: run(template, pairs, out, resume=resume), match=match)


def test_another_folder_is_left_alone(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    template = tiny_template("t5-scratch")
    refusal(TrainingError, lambda: run(template, pairs, tmp_path), match="no training run")
    match = "is a file"
    refusal(TrainingError, lambda: run(template, pairs, tmp_path / "file"), match=match)


def test_a_decoder_only_model_learns_the_answers_of_pairs(
    gpt2_base: Path, pairs: Path, tmp_path: Path
) -> None:
    template = tiny_template(
        "gpt2-finetune",
        model__base=gpt2_base,
        data__form="pairs",
        trainer__max_steps=12,
        trainer__eval_steps=4,
        trainer__optim="muon",
        trainer__learning_rate=3e-3,
        trainer__per_device_train_batch_size=16,
        trainer__gradient_accumulation_steps=1,
        trainer__eval_answers=8,
    )
    result = run(template, pairs, tmp_path / "out")
    assert result.figures["loss"] < result.figures["base_loss"]
    held_out = json.loads(result.held_out.read_text("utf-8").splitlines()[0])
    assert held_out["source"].endswith("\n")
    assert 0 <= result.figures["exact_match"] <= 1


LORA: dict[str, Any] = {
    "trainer__max_steps": 6,
    "trainer__eval_steps": 3,
    "trainer__learning_rate": 1e-2,
    "trainer__gradient_accumulation_steps": 1,
    "trainer__eval_answers": 8,
}


def test_a_merged_gpt2_generates_what_its_adapter_does(
    gpt2_base: Path, story: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    template = tiny_template("gpt2-lora", model__base=gpt2_base, data__block_size=32, **LORA)
    result = run(template, story, tmp_path / "out")
    assert result.figures["loss"] < result.figures["base_loss"]
    merged = AutoModelForCausalLM.from_pretrained(result.checkpoint).eval()
    base = AutoModelForCausalLM.from_pretrained(gpt2_base)
    before = base.transformer.h[0].attn.c_attn.weight.clone()
    adapted = PeftModel.from_pretrained(base, str(result.checkpoint.parent / "adapter")).eval()
    ids = AutoTokenizer.from_pretrained(gpt2_base)("Once upon", return_tensors="pt").input_ids
    options: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0}
    options |= {"max_new_tokens": 20, "pad_token_id": 0}
    wanted = adapted.generate(ids, **options).tolist()
    assert merged.generate(ids, **options).tolist() == wanted
    assert not torch.equal(merged.transformer.h[0].attn.c_attn.weight, before)
    prompt = ids[0].tolist()
    bundle = export_checkpoint(result.checkpoint, tmp_path / "bundle").folder
    assert new_tokens(bundle, prompt) == wanted[0][len(prompt) :]


def test_a_lora_of_t5_resumes_and_merges(
    t5_base: Path, pairs: Path, tmp_path: Path, interrupts: Interrupts
) -> None:
    from peft import PeftModel

    template = tiny_template("t5-lora", model__base=t5_base, **LORA)
    straight = run(template, pairs, tmp_path / "straight")
    interrupts.at = 4
    with pytest.raises(KeyboardInterrupt):
        run(template, pairs, tmp_path / "out")
    resumed = run(template, pairs, tmp_path / "out", resume=True)
    assert digest(resumed) == digest(straight)
    assert resumed.figures == straight.figures
    assert straight.figures["loss"] < straight.figures["base_loss"]
    assert not (resumed.checkpoint / "adapter_config.json").exists()
    base = AutoModelForSeq2SeqLM.from_pretrained(t5_base)
    adapted = PeftModel.from_pretrained(base, str(resumed.checkpoint.parent / "adapter")).eval()
    ids = AutoTokenizer.from_pretrained(t5_base)("Once upon", return_tensors="pt").input_ids
    found = adapted.generate(input_ids=ids, do_sample=False, num_beams=1, max_new_tokens=20)
    bundle = export_checkpoint(resumed.checkpoint, tmp_path / "bundle").folder
    assert new_tokens(bundle, ids[0].tolist()) == found[0].tolist()[1:]


def new_tokens(bundle: Path, prompt: list[int]) -> list[int]:
    """Return the ids that a bundle generates greedily."""
    with load(bundle) as model:
        options: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        [result] = model.generate_ids(
            [prompt], max_new_tokens=20, repetition_penalty=1.0, **options
        )
    return list(result.token_ids)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"trainer__learning_rat": 1}, OptionError, "did you mean learning_rate"),
        ({"trainer__learning_rate": "fast"}, OptionError, "learning_rate is 'fast'"),
        ({"trainer__eval_answers": -1}, OptionError, "eval_answers"),
        ({"trainer__output_dir": "x"}, OptionError, "output_dir"),
        ({"trainer__lr_scheduler_type": "steep"}, OptionError, "steep"),
        ({"trainer__optim": "best"}, OptionError, "best"),
        ({"model__d_modle": 8}, OptionError, "did you mean d_model"),
        ({"model__model_type": "t6"}, OptionError, "t6"),
        ({"model__num_heads": "many"}, OptionError, "num_heads is 'many'"),
        ({"data__form": "text"}, TrainingError, "pairs"),
        ({"data__max_target_length": 3}, TrainingError, "max_target_length"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_leaves_nothing(
    pairs: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    out = tmp_path / "out"
    template = tiny_template("t5-scratch", **changes)
    refusal(error, lambda: run(template, pairs, out), match=match, ending=VALUE)
    assert list(tmp_path.iterdir()) == []


def test_a_base_of_an_unknown_family_is_one_sentence(pairs: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    template = tiny_template("t5-finetune")
    refusal(
        CheckpointError,
        lambda: run(template, pairs, tmp_path / "out", base=str(base)),
        match="'bert' is not supported",
    )
    assert not (tmp_path / "out").exists()


def test_a_template_of_a_new_model_takes_no_base(pairs: Path, tmp_path: Path) -> None:
    template = tiny_template("t5-scratch")
    refusal(OptionError, lambda: run(template, pairs, tmp_path / "out", base="x"), match="base")


def test_a_model_that_diverges_is_one_sentence(pairs: Path, tmp_path: Path) -> None:
    template = tiny_template(
        "t5-scratch", trainer__learning_rate=1e30, trainer__optim="sgd", trainer__max_grad_norm=0
    )
    out = tmp_path / "out"
    refusal(TrainingError, lambda: run(template, pairs, out), match="learning_rate")
    assert not (out / "checkpoint").exists()


def test_too_little_memory_is_refused_with_a_proposal(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeseq.training.run.available_bytes", lambda device: 430_000_000)
    template = tiny_template("t5-scratch", trainer__per_device_train_batch_size=96)
    match = "--trainer.per_device_train_batch_size [0-9]+ and --trainer.gradient_accumulation_steps"
    refusal(TrainingError, lambda: run(template, pairs, tmp_path / "out"), match=match)
    assert not (tmp_path / "out").exists()


def test_too_little_space_on_the_disk_is_refused(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeseq.training.run.PLACES", 10**9)
    template = tiny_template("t5-scratch")
    refusal(TrainingError, lambda: run(template, pairs, tmp_path / "out"), match="free space")


def test_a_long_prompt_leaves_room_for_its_answer(gpt2_base: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"source": f"{i} " + "x" * (70 + i % 9), "target": "yes"} for i in range(30)]
    rows.append({"source": "short", "target": "y" * 40})
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    template = tiny_template(
        "gpt2-finetune",
        model__base=gpt2_base,
        data__form="pairs",
        trainer__max_steps=1,
        trainer__gradient_accumulation_steps=1,
    )
    assert run(template, data, tmp_path / "out").figures["steps"] == 1


def test_a_decoder_can_be_deeper_than_its_encoder(pairs: Path, tmp_path: Path) -> None:
    template = tiny_template("t5-scratch", model__num_decoder_layers=2, trainer__max_steps=1)
    assert run(template, pairs, tmp_path / "out").figures["steps"] == 1
