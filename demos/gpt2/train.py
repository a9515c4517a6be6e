"""Train the demo GPT-2 from scratch on public-domain fairy tales.

    python -m demos.gpt2.train --texts FOLDER --out demos/gpt2/checkpoint

Training is seeded: ``--seed`` alone determines the weights, the order of the stories and the
windows. The state is saved every 250 steps in ``OUT/../training``, and a later start continues
there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from demos.gpt2.corpus import END_OF_TEXT, encode, epoch_windows, read_stories, split_stories
from demos.gpt2.tokenizer import save_tokenizer, train_tokenizer
from demos.trainer import Plan, Trainer

VOCABULARY = 4096
CONTEXT = 512
BATCH = 8
# Without sampling, a small model soon repeats itself.
GENERATION_DEFAULTS = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 50,
    "top_p": 0.95,
    "repetition_penalty": 1.2,
}


def build_model(end_of_text: int) -> GPT2LMHeadModel:
    """Return a GPT-2 of 3.5 M parameters: 6 layers of width 192, embedding and lm_head tied."""
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=192,
        n_layer=6,
        n_head=6,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    return GPT2LMHeadModel(config)


def batches(stories: list[np.ndarray], seed: int, first: int) -> Iterator[torch.Tensor]:
    """Yield batches ``(BATCH, CONTEXT + 1)`` without end, from batch number ``first`` on."""
    epoch = 0
    while True:
        windows = epoch_windows(stories, CONTEXT, np.random.default_rng([seed, epoch]))
        count = len(windows) // BATCH
        for i in range(min(first, count), count):
            yield torch.from_numpy(windows[i * BATCH : (i + 1) * BATCH].copy())
        first = max(0, first - count)
        epoch += 1


def batch_loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy in nats per token of ``batch``, (rows, CONTEXT + 1)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch[:, :-1]).logits
    return cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def validation_loss(model: torch.nn.Module, stories: list[np.ndarray]) -> float:
    """Return the mean cross-entropy in nats per token on fixed windows of validation stories."""
    windows = epoch_windows(stories, CONTEXT, np.random.default_rng(0))
    usable = len(windows) // BATCH * BATCH
    losses = [
        batch_loss(model, torch.from_numpy(windows[i : i + BATCH].copy())).item()
        for i in range(0, usable, BATCH)
    ]
    return float(np.mean(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo GPT-2.")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the stories")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    training, validation = split_stories(read_stories(arguments.texts))
    tokenizer: Tokenizer = train_tokenizer(training, VOCABULARY)
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    torch.manual_seed(arguments.seed)
    model = build_model(end_of_text)
    compiled = torch.compile(model)
    plan = Plan(
        steps=arguments.steps,
        seed=arguments.seed,
        muon_learning_rate=3e-3,
        adam_learning_rate=3e-3,
        decay_share=0.4,
        save_every=250,
    )
    trainer = Trainer(model, lambda name: ".h." in name, plan, arguments.out.parent)
    encoded, held_back = encode(training, tokenizer), encode(validation, tokenizer)
    trainer.run(
        batches(encoded, arguments.seed, trainer.step),
        lambda batch: batch_loss(compiled, batch),
        lambda: validation_loss(compiled, held_back),
    )
    save_tokenizer(tokenizer, arguments.out, CONTEXT)
    model.generation_config = GenerationConfig(
        bos_token_id=end_of_text, eos_token_id=end_of_text, **GENERATION_DEFAULTS
    )
    model.half().save_pretrained(arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
