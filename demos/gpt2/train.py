"""Train the demo GPT-2 from scratch on public-domain fairy tales.

    python demos/gpt2/train.py --texts FOLDER --out demos/gpt2/checkpoint

Seeded: the weights, the order of the stories and the windows follow from ``--seed`` alone. The
state is saved every 250 steps in ``OUT/../training`` and a later start goes on from there. Hidden
matrices are updated by Muon, all else by AdamW; the learning rate is constant after a short
warm-up and falls to zero over the last 40 % of the steps.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from corpus import END_OF_TEXT, encode, epoch_windows, read_stories, split_stories
from tokenizer import save_tokenizer, train_tokenizer
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

VOCABULARY = 4096
CONTEXT = 512
BATCH = 8
MUON_LEARNING_RATE = 3e-3
ADAM_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
DECAY_SHARE = 0.4
SAVE_EVERY = 250
# A small model left to its most probable tokens soon repeats itself.
GENERATION_DEFAULTS = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 50,
    "top_p": 0.95,
    "repetition_penalty": 1.2,
}


def build_model(end_of_text: int) -> GPT2LMHeadModel:
    """3.5 M parameters: 6 layers of width 192, embedding and output tied."""
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


def build_optimizers(model: GPT2LMHeadModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms and biases."""
    matrices = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
    others = [p for name, p in model.named_parameters() if ".h." not in name or p.ndim != 2]
    return [
        torch.optim.Muon(
            matrices,
            lr=MUON_LEARNING_RATE,
            weight_decay=0.1,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=ADAM_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate_share(step: int, steps: int) -> float:
    """The share of the peak learning rate at ``step``: up, constant, down to zero."""
    remaining = (steps - step) / (DECAY_SHARE * steps)
    return min(1.0, (step + 1) / WARMUP_STEPS, remaining)


def batches(stories: list[np.ndarray], seed: int, first: int) -> Iterator[torch.Tensor]:
    """Batches ``(BATCH, CONTEXT + 1)`` without end, from batch number ``first`` on."""
    epoch = 0
    while True:
        windows = epoch_windows(stories, CONTEXT, np.random.default_rng([seed, epoch]))
        count = len(windows) // BATCH
        for i in range(min(first, count), count):
            yield torch.from_numpy(windows[i * BATCH : (i + 1) * BATCH].copy())
        first = max(0, first - count)
        epoch += 1


def batch_loss(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats per token of ``batch`` (rows, CONTEXT + 1)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch[:, :-1]).logits
    return cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def validation_loss(model: torch.nn.Module, stories: list[np.ndarray]) -> float:
    """Mean cross-entropy in nats per token over fixed windows of the validation stories."""
    windows = epoch_windows(stories, CONTEXT, np.random.default_rng(0))
    usable = len(windows) // BATCH * BATCH
    losses = [
        batch_loss(model, torch.from_numpy(windows[i : i + BATCH].copy())).item()
        for i in range(0, usable, BATCH)
    ]
    return float(np.mean(losses))


class Trainer:
    """The model, its optimizers and the place where both are kept between starts."""

    def __init__(self, end_of_text: int, state_folder: Path, seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        self.model = build_model(end_of_text)
        self.optimizers = build_optimizers(self.model)
        self.compiled = torch.compile(self.model)
        self.state_file = state_folder / "state.pt"
        self.curve_file = state_folder.parent / "loss_curve.csv"
        self.seed, self.steps, self.step = seed, steps, 0
        state_folder.mkdir(parents=True, exist_ok=True)
        if self.state_file.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.state_file, weights_only=True)
        if (state["seed"], state["steps"]) != (self.seed, self.steps):
            raise SystemExit(f"{self.state_file} is of another run: remove it to start anew.")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]

    def _save(self) -> None:
        partial = self.state_file.with_suffix(".partial")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "steps": self.steps,
            "seed": self.seed,
        }
        torch.save(state, partial)
        partial.replace(self.state_file)

    def _record(self, training_loss: float, validation: float, seconds: float) -> None:
        new = self.step <= SAVE_EVERY
        with self.curve_file.open("w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(["step", "tokens", "training_loss", "validation_loss", "seconds"])
            tokens = self.step * BATCH * CONTEXT
            row = [self.step, tokens, f"{training_loss:.4f}", f"{validation:.4f}", f"{seconds:.0f}"]
            writer.writerow(row)
        print(f"step {self.step}/{self.steps}  {row[2]}  validation {row[3]}", flush=True)

    def _update(self, batch: torch.Tensor) -> float:
        share = learning_rate_share(self.step, self.steps)
        rates = (MUON_LEARNING_RATE, ADAM_LEARNING_RATE)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
        loss = batch_loss(self.compiled, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def run(self, training: list[np.ndarray], validation: list[np.ndarray]) -> None:
        """Train up to the last step, saving and recording every ``SAVE_EVERY`` steps."""
        losses: list[float] = []
        started = time.monotonic()
        for batch in batches(training, self.seed, self.step):
            if self.step >= self.steps:
                return
            losses.append(self._update(batch))
            if self.step % SAVE_EVERY == 0 or self.step == self.steps:
                loss = validation_loss(self.compiled, validation)
                self._record(float(np.mean(losses)), loss, time.monotonic() - started)
                self._save()
                losses, started = [], time.monotonic()


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
    state_folder = arguments.out.parent / "training"
    trainer = Trainer(end_of_text, state_folder, arguments.seed, arguments.steps)
    trainer.run(encode(training, tokenizer), encode(validation, tokenizer))
    save_tokenizer(tokenizer, arguments.out, CONTEXT)
    trainer.model.generation_config = GenerationConfig(
        bos_token_id=end_of_text, eos_token_id=end_of_text, **GENERATION_DEFAULTS
    )
    trainer.model.half().save_pretrained(arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
