"""The settings of a run: Transformers' training arguments, peft's names, and edgeseq's own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments

from ...runtime.errors import OptionError, nearest, reason
from ..models import check_template, import_peft
from ..template import Template

MUON = "muon"
SET_BY_EDGESEQ = {  # settings of Transformers that would change what a run's folder holds
    "output_dir",
    "overwrite_output_dir",
    "resume_from_checkpoint",
    "do_train",
    "do_eval",
    "do_predict",
    "eval_strategy",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_safetensors",
    "save_only_model",
    "load_best_model_at_end",
    "restore_callback_states_from_checkpoint",
    "ignore_data_skip",
    "logging_strategy",
    "logging_dir",
    "log_level",
    "report_to",
    "run_name",
    "disable_tqdm",
    "push_to_hub",
    "greater_is_better",
    "remove_unused_columns",
    "predict_with_generate",
    "group_by_length",
    "dataloader_num_workers",
    "auto_find_batch_size",
    "deepspeed",
    "fsdp",
    "fsdp_config",
    "local_rank",
}
LOSS_FIGURES, TEXT_FIGURES = ("loss", "perplexity"), ("bits_per_byte",)
ANSWER_FIGURES = ("exact_match", "word_error_rate", "character_error_rate")


@dataclass(frozen=True, kw_only=True)
class OwnSettings:
    """The settings of the group ``trainer`` that Transformers does not have."""

    early_stopping_patience: int | None = None  # evaluations without a better one; None: never
    early_stopping_threshold: float = 0.0
    other_learning_rate: float | None = None  # of AdamW beside Muon; None: learning_rate
    eval_answers: int = 256  # held-out pairs that the model answers at each evaluation
    eval_samples: int = 0  # answers or continuations that are shown at each evaluation


_OWN = {field.name: field for field in fields(OwnSettings)}
_THEIRS = {field.name: field for field in fields(Seq2SeqTrainingArguments) if field.init}


def check_names(template: Template) -> None:
    """Raise an error for a name that Transformers or peft does not know.

    The groups ``model`` of a new model, ``trainer`` and ``peft`` are checked.
    """
    check_template(template)
    allowed = {*(_THEIRS.keys() - SET_BY_EDGESEQ), *_OWN}
    for name in template.trainer:
        if name in SET_BY_EDGESEQ:
            raise OptionError(f"edgeseq sets trainer.{name} itself: leave it out.")
        if name not in allowed:
            close = nearest(name, allowed)
            hint = f"did you mean {close}?" if close else "see Transformers' TrainingArguments."
            raise OptionError(f"There is no setting trainer.{name:.60}; {hint}")
    if template.peft:
        known = {field.name for field in fields(import_peft().LoraConfig) if field.init}
        for name in template.peft:
            if name not in known or name in ("task_type", "peft_type", "inference_mode"):
                close = nearest(name, known)
                hint = f"did you mean {close}?" if close else "see peft's LoraConfig."
                raise OptionError(f"There is no setting peft.{name:.60}; {hint}")


def own_settings(template: Template) -> OwnSettings:
    """Return edgeseq's own settings; raise ``OptionError`` for a bad value."""
    found = OwnSettings(**{name: v for name, v in template.trainer.items() if name in _OWN})
    for name in _OWN:
        value, default = getattr(found, name), _OWN[name].default
        if value is None and default is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = name in ("early_stopping_patience", "eval_answers", "eval_samples")
        if not is_number or (whole and not isinstance(value, int)) or value < 0:
            kind = "an integer" if whole else "a number"
            raise OptionError(f"trainer.{name} is {value!r:.60}; it must be {kind} of 0 or more.")
    return found


def training_arguments(template: Template, checkpoints: Path) -> Seq2SeqTrainingArguments:
    """Return Transformers' arguments; raise ``OptionError`` for a value that it refuses."""
    given = {name: value for name, value in template.trainer.items() if name in _THEIRS}
    for name, value in given.items():
        _check_type(name, value)
    if given.get("optim") == MUON:
        del given["optim"]
    given.pop("metric_for_best_model", None)
    best = _best_metric(template)
    given["greater_is_better"] = best == "exact_match"
    given.setdefault("eval_steps", 0.1)
    given.setdefault("logging_steps", 10)
    given.setdefault("eval_on_start", not template.from_scratch)  # the figures of the base
    given.setdefault("data_seed", given.get("seed", 42))
    # Said explicitly, because Transformers otherwise refuses bfloat16 on processors.
    given.setdefault("use_cpu", not torch.accelerator.is_available())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Seq2SeqTrainingArguments(
                output_dir=str(checkpoints),
                eval_strategy="steps",
                save_strategy="steps",
                save_steps=given["eval_steps"],
                save_total_limit=None,  # `Checkpoints` deletes old ones
                load_best_model_at_end=True,
                metric_for_best_model=best,
                restore_callback_states_from_checkpoint=True,
                logging_strategy="steps",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                **given,
            )
    except Exception as error:  # Transformers raises many types
        why = reason(error).partition(", please select")[0]  # long lists of names follow
        raise OptionError(f"The group trainer is not valid ({why}): correct its values.") from error


def _best_metric(template: Template) -> str:
    """Return the figure that chooses the best checkpoint; raise ``OptionError`` for no figure."""
    answered = template.data.form == "pairs" and own_settings(template).eval_answers > 0
    of_form = (
        ANSWER_FIGURES if answered else (() if template.data.form == "pairs" else TEXT_FIGURES)
    )
    known = (*LOSS_FIGURES, *of_form)
    chosen = template.trainer.get("metric_for_best_model")
    if chosen is None:
        return "character_error_rate" if answered else "loss"
    name = str(chosen).removeprefix("eval_")
    if name not in known:
        raise OptionError(
            f"trainer.metric_for_best_model is {chosen!r:.60}; it must be one of "
            f"{', '.join(known)}."
        )
    return name


def _check_type(name: str, value: Any) -> None:
    """Raise ``OptionError`` for a text where Transformers has a number, and the like."""
    field = _THEIRS[name]
    default = field.default if field.default is not MISSING else None
    expected: tuple[type, ...] | None = None
    if isinstance(default, bool):
        expected = (bool,)
    elif isinstance(default, float):
        expected = (float, int)
    elif isinstance(default, int):
        expected = (float, int) if name in ("logging_steps", "eval_steps") else (int,)
    if expected is None:
        return
    if not isinstance(value, expected) or (bool not in expected and isinstance(value, bool)):
        spoken = {bool: "true or false", int: "an integer", float: "a number"}[expected[0]]
        raise OptionError(f"trainer.{name} is {value!r:.60}; it must be {spoken}.")


def uses_muon(trainer: Mapping[str, Any]) -> bool:
    """Return whether a group ``trainer`` asks for edgeseq's optimizer ``muon``."""
    return trainer.get("optim") == MUON
