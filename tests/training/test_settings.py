"""training/trainer/settings.py: names and values of Transformers, of peft and of edgeseq."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeseq.runtime.errors import OptionError
from edgeseq.training import read_template, template_names
from edgeseq.training.trainer.settings import check_names, own_settings, training_arguments
from tests.support.errors import VALUE, refusal
from tests.support.training_runs import tiny_template


@pytest.mark.parametrize("name", template_names())
def test_every_template_has_known_names_and_values(name: str, tmp_path: Path) -> None:
    template = read_template(name)
    check_names(template)
    own_settings(template)
    arguments = training_arguments(template, tmp_path)
    assert arguments.load_best_model_at_end
    assert arguments.report_to == []


@pytest.mark.parametrize(
    ("form", "best", "greater"), [("pairs", "character_error_rate", False), ("text", "loss", False)]
)
def test_the_best_checkpoint_has_the_lowest_error(
    form: str, best: str, greater: bool, tmp_path: Path
) -> None:
    arguments = training_arguments(tiny_template("gpt2-finetune", data__form=form), tmp_path)
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == (best, greater)


def test_exact_match_is_better_if_it_is_higher(tmp_path: Path) -> None:
    template = tiny_template("t5-scratch", trainer__metric_for_best_model="exact_match")
    assert training_arguments(template, tmp_path).greater_is_better


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"trainer__learning_rat": 1}, "did you mean learning_rate"),
        ({"trainer__save_steps": 5}, "edgeseq sets trainer.save_steps"),
        ({"peft__lora_alph": 5}, "did you mean lora_alpha"),
        ({"peft__task_type": "CAUSAL_LM"}, "task_type"),
    ],
)
def test_an_unknown_name_is_refused(changes: dict[str, Any], match: str) -> None:
    template = tiny_template("gpt2-lora", **changes)
    refusal(OptionError, lambda: check_names(template), match=match, ending=VALUE)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"trainer__learning_rate": "fast"}, "must be a number"),
        ({"trainer__per_device_train_batch_size": 1.5}, "must be an integer"),
        ({"trainer__bf16": "perhaps"}, "must be true or false"),
        ({"trainer__lr_scheduler_type": "steep"}, "steep"),
        ({"trainer__optim": "best"}, "best is not a valid OptimizerNames"),
    ],
)
def test_a_wrong_value_is_refused(changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    template = tiny_template("t5-scratch", **changes)
    refusal(OptionError, lambda: training_arguments(template, tmp_path), match=match)


def test_only_a_figure_can_choose_the_best_checkpoint(tmp_path: Path) -> None:
    template = tiny_template("t5-scratch", trainer__metric_for_best_model="bleu")
    match = "must be one of loss, perplexity, exact_match"
    refusal(OptionError, lambda: training_arguments(template, tmp_path), match=match, ending=VALUE)


def test_without_answers_the_loss_chooses(tmp_path: Path) -> None:
    template = tiny_template("t5-scratch", trainer__eval_answers=0)
    assert training_arguments(template, tmp_path).metric_for_best_model == "loss"
