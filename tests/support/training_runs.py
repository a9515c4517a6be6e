"""Small training runs: templates of tiny models, and their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeseq.training import Template, TrainingResult, read_template, train, with_overrides

TINY = {
    "t5-scratch": {
        "model.d_model": 32,
        "model.d_kv": 8,
        "model.num_heads": 4,
        "model.d_ff": 48,
        "model.num_layers": 1,
        "model.num_decoder_layers": 1,
        "tokenizer.vocab_size": 400,
        "trainer.max_steps": 12,
        "trainer.per_device_train_batch_size": 16,
        "trainer.eval_steps": 4,
        "trainer.logging_steps": 2,
        "trainer.warmup_ratio": 0.2,
        "trainer.eval_answers": 8,
    },
    "gpt2-scratch": {
        "model.n_embd": 32,
        "model.n_layer": 1,
        "model.n_head": 4,
        "model.n_positions": 64,
        "tokenizer.vocab_size": 300,
        "data.block_size": 32,
        "trainer.max_steps": 12,
        "trainer.per_device_train_batch_size": 4,
        "trainer.eval_steps": 4,
        "trainer.logging_steps": 2,
        "trainer.warmup_ratio": 0.2,
        "trainer.eval_answers": 8,
    },
}
SENTENCE = "Once upon a time number {} went into the forest and met {} foxes."
STORY = "\n\n".join(SENTENCE.format(i, 3 * i % 7) for i in range(120)) + "\n"


def tiny_template(name: str, **changes: Any) -> Template:
    """Return a template whose model is tiny; ``changes``: settings, ``trainer__max_steps=3``."""
    changes = {place.replace("__", "."): value for place, value in changes.items()}
    settings = {**TINY.get(name, {}), **changes}
    return with_overrides(read_template(name), {k: _text(v) for k, v in settings.items()})


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def run(template: Template, data: Path, out: Path, **options: Any) -> TrainingResult:
    """Train with one thread."""
    return train(template, [data], out, threads=1, **options)
