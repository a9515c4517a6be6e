"""Models to train: new ones, those of a checkpoint, and LoRA adapters on them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoTokenizer, GenerationConfig

from ..export.checkpoint.hub import find_checkpoint
from ..export.checkpoint.loading import load_model
from ..export.checkpoint.reading import load_config, quiet_transformers
from ..export.families.family import FAMILIES, Family, find_family
from ..runtime.bundle.manifest import Kind
from ..runtime.errors import (
    CheckpointError,
    MissingPackageError,
    OptionError,
    TrainingError,
    nearest,
    reason,
)
from .template import Template

LARGEST_LENGTH = 1 << 20  # tokens; more means that a model has no limit
# What remains of a base's generation settings: others suit the task that it was trained for.
KEPT_SETTINGS = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
# Without sampling, a small model soon repeats itself.
SAMPLING = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 50,
    "top_p": 0.95,
    "repetition_penalty": 1.2,
}


@dataclass(frozen=True)
class Base:
    """A checkpoint to begin with: its folder, its family, and what identifies it."""

    folder: Path
    family: Family
    id: str
    revision: str | None

    @property
    def kind(self) -> Kind:
        """Whether it is a decoder-only model or an encoder-decoder."""
        return self.family.KIND


def find_base(name: str) -> Base:
    """Return the checkpoint in the folder ``name``, or download the Hub id ``name``.

    Raises ``CheckpointError`` if there is none, or if it could not be exported.
    """
    found = find_checkpoint(name, None)
    family = find_family(found.folder)
    family.check(load_config(found.folder))
    return Base(found.folder, family, found.source.id, found.source.revision)


def family_of(model_type: Any) -> Family:
    """Return the family of a model type; raise ``OptionError`` if it cannot be exported."""
    known = {name: family for family in FAMILIES for name in family.MODEL_CLASSES}
    if model_type not in known:
        close = nearest(str(model_type), known)
        hint = f"did you mean {close}" if close else f"use {', '.join(known)}"
        raise OptionError(f"There is no model.model_type {model_type!r:.60}: {hint}.")
    return known[model_type]


def check_model(settings: Mapping[str, Any]) -> None:
    """Raise ``OptionError`` for settings of a new model that its configuration does not have."""
    family_of(settings["model_type"])
    known = CONFIG_MAPPING[settings["model_type"]]().to_dict()
    for name in settings:
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close}?" if close else "see its configuration in Transformers."
            raise OptionError(f"There is no setting model.{name:.60} of a new model; {hint}")


def new_model(settings: Mapping[str, Any], tokenizer: Any) -> Any:
    """Return a model with random weights, which ``torch.manual_seed`` determines.

    ``settings``: a template's group ``model``. Raises ``OptionError`` for settings that do not
    make a model that can be exported.
    """
    check_model(settings)
    family = family_of(settings["model_type"])
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if family.KIND == "encoder-decoder":
        if tokenizer.pad_token_id is None:
            raise OptionError(
                "The tokenizer has no padding token (pad_token), which an encoder-decoder needs: "
                "give another one."
            )
        start = settings.get("decoder_start_token_id", tokenizer.pad_token_id)
        ids |= {"pad_token_id": tokenizer.pad_token_id, "decoder_start_token_id": start}
    try:
        config = CONFIG_MAPPING[settings["model_type"]](
            **{**ids, **settings, "vocab_size": len(tokenizer)}
        )
        family.check(config)
        model: Any = family.MODEL_CLASSES[settings["model_type"]](config)
    except CheckpointError as error:
        raise OptionError(str(error)) from error
    except Exception as error:  # Transformers and torch raise many types
        raise OptionError(
            f"The group model does not make a model ({reason(error)}): correct its values."
        ) from error
    return model


def base_model(base: Base, progress: Callable[[str], None]) -> Any:
    """Return the model of a checkpoint in float32, with every weight loaded.

    Raises ``CheckpointError`` if it is damaged, or an encoder-decoder without a first token.
    """
    model: Any = load_model(base.family, base.folder, progress)
    config = model.config
    if base.kind == "encoder-decoder" and config.decoder_start_token_id is None:
        raise CheckpointError(
            f"The configuration in {base.folder} has no decoder_start_token_id, the first token of "
            "an answer: add it to config.json."
        )
    # `load_model` chose eager attention for these settings, which PyTorch's own ignores.
    scaled = not getattr(config, "scale_attn_weights", True)
    scaled = scaled or getattr(config, "scale_attn_by_inverse_layer_idx", False)
    if model._supports_sdpa and not scaled:  # faster, and keeps less for the backward pass
        model.set_attn_implementation("sdpa")
    return model


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder; raise ``CheckpointError`` if it cannot be read."""
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # Transformers and tokenizers raise many types
        raise CheckpointError(
            f"{folder} has no usable tokenizer ({reason(error)}): give the folder of a tokenizer "
            "that Transformers reads."
        ) from error
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"The tokenizer in {folder} has no end-of-sequence token (eos_token), which training "
            "needs: add it to tokenizer_config.json."
        )
    _check_chat_templates(tokenizer, folder)
    return tokenizer


def _check_chat_templates(tokenizer: Any, folder: Path) -> None:
    """Raise ``CheckpointError`` for the name of a chat template that is no plain file name.

    Transformers before 5.10 writes a template into a file of its name, wherever that is
    (CVE-2026-9856).
    """
    templates = getattr(tokenizer, "chat_template", None)
    for name in templates if isinstance(templates, dict) else ():
        plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
        if not plain or not name.isprintable():
            raise CheckpointError(
                f"The tokenizer in {folder} has a chat template with the unsafe name "
                f"{name!r:.100}: get the tokenizer from a source that you trust."
            )


def longest_sequence(model: Any, tokenizer: Any) -> int:
    """Return how many tokens the model and its tokenizer allow; ``LARGEST_LENGTH`` if no limit."""
    config = model.config
    names = ("n_positions", "max_position_embeddings", "model_max_length")
    # T5's n_positions is the length that it was trained with, not a limit.
    own = [] if config.model_type == "t5" else [getattr(config, name, None) for name in names]
    limits = [*own, getattr(tokenizer, "model_max_length", None)]
    return int(min([limit for limit in limits if limit], default=LARGEST_LENGTH, key=int))


def with_lora(model: Any, settings: Mapping[str, Any], kind: Kind) -> Any:
    """Return ``model`` with a new LoRA adapter, which alone is trained.

    ``settings``: a template's group ``peft``. Raises ``OptionError`` if they do not fit the model.
    """
    peft = import_peft()
    task = "SEQ_2_SEQ_LM" if kind == "encoder-decoder" else "CAUSAL_LM"
    from transformers.pytorch_utils import Conv1D

    given = dict(settings)
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    given.setdefault("fan_in_fan_out", transposed)  # GPT-2's matrices are (in, out)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return peft.get_peft_model(model, peft.LoraConfig(task_type=task, **given))
    except Exception as error:  # peft raises many types
        raise OptionError(
            f"The group peft does not fit the model ({reason(error)}): correct its values."
        ) from error


def import_peft() -> Any:
    """Return the package peft; raise ``MissingPackageError`` without it."""
    try:
        import peft
    except ImportError as error:
        raise MissingPackageError(
            f"LoRA needs peft, which cannot be loaded ({reason(error)}): install the extra "
            "'train' (python -m pip install \"edgeseq[cpu,train]\")."
        ) from error
    logging.getLogger("peft").setLevel(logging.ERROR)
    return peft


def trained_generation(model: Any, tokenizer: Any, new_tokens: int | None) -> GenerationConfig:
    """Return the generation defaults of a trained model.

    ``new_tokens``: the length of its longest answer, for a model of pairs, which does not sample;
    None for a model of texts, which does.
    """
    found = model.generation_config.to_dict() if model.generation_config is not None else {}
    kept = {
        name: value
        for name, value in found.items()
        if value is not None and (name.endswith("_token_id") or name in KEPT_SETTINGS)
    }
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        value = getattr(model.config, name, None)
        if value is not None:
            kept.setdefault(name, value)
    kept.setdefault("eos_token_id", tokenizer.eos_token_id)
    if new_tokens is None:
        return GenerationConfig(**kept, **SAMPLING)
    return GenerationConfig(**kept, max_new_tokens=new_tokens)


def save_checkpoint(
    model: Any, tokenizer: Any, folder: Path, *, adapter: Path | None = None
) -> None:
    """Write a trained model to ``folder``, as Transformers reads it; LoRA is merged first.

    ``adapter``: where the adapter alone is written too. The model cannot be trained further.
    """
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if hasattr(model, "merge_and_unload"):
            if adapter is not None:
                model.save_pretrained(adapter)
            generation = model.generation_config
            model = model.merge_and_unload()
            model.generation_config = generation
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def check_template(template: Template) -> None:
    """Raise an error for a template that does not fit its own kind of model."""
    if template.from_scratch:
        check_model(template.model)
        kind = family_of(template.model["model_type"]).KIND
        check_form(template, kind)


def check_form(template: Template, kind: Kind) -> None:
    """Raise ``TrainingError`` for texts and a model that needs pairs."""
    if kind == "encoder-decoder" and template.data.form == "text":
        raise TrainingError(
            "An encoder-decoder is trained on pairs: set data.form to 'pairs', or use a "
            "decoder-only model such as GPT-2 for texts."
        )


def parameter_count(model: Any, *, trained: bool = False) -> int:
    """Return the number of parameters, or of those that are trained."""
    parameters: list[torch.nn.Parameter] = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad or not trained)
