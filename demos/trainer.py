"""The training loop of the demo models: seeded, resumable, with a loss curve.

Muon updates hidden matrices, AdamW updates all other parameters. The learning rate is constant
after a short warm-up, and falls to zero over the last part of the steps.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

WARMUP_STEPS = 100
Batch = Any
Loss = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps and learning rates of a training run."""

    steps: int
    seed: int
    muon_learning_rate: float
    adam_learning_rate: float
    decay_share: float  # share of the steps, at the end, in which the learning rate falls to 0
    save_every: int  # steps

    def learning_rate_share(self, step: int) -> float:
        """Return the learning rate at ``step`` as a share of the peak: up, constant, down to 0."""
        remaining = (self.steps - step) / (self.decay_share * self.steps)
        return min(1.0, (step + 1) / WARMUP_STEPS, remaining)


class Trainer:
    """A model and its optimizers; a later start resumes their saved state.

    ``is_hidden_matrix``: whether Muon updates the matrix of this name. The state lies in
    ``folder/training``, the curve in ``folder/loss_curve.csv``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        is_hidden_matrix: Callable[[str], bool],
        plan: Plan,
        folder: Path,
    ) -> None:
        self.model, self.plan, self.step = model, plan, 0
        parameters = dict(model.named_parameters())
        hidden = {n for n, p in parameters.items() if p.ndim == 2 and is_hidden_matrix(n)}
        self.optimizers = [
            torch.optim.Muon(
                [p for name, p in parameters.items() if name in hidden],
                lr=plan.muon_learning_rate,
                weight_decay=0.1,
                momentum=0.95,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [p for name, p in parameters.items() if name not in hidden],
                lr=plan.adam_learning_rate,
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        ]
        self.state_file = folder / "training" / "state.pt"
        self.curve_file = folder / "loss_curve.csv"
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        if self.state_file.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.state_file, weights_only=True)
        if (state["seed"], state["steps"]) != (self.plan.seed, self.plan.steps):
            raise SystemExit(
                f"{self.state_file} belongs to a run with another --seed or --steps: delete it to "
                "start again."
            )
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
            "steps": self.plan.steps,
            "seed": self.plan.seed,
        }
        torch.save(state, partial)
        partial.replace(self.state_file)

    def _record(self, training_loss: float, validation_loss: float, seconds: float) -> None:
        new = self.step <= self.plan.save_every
        with self.curve_file.open("w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(["step", "training_loss", "validation_loss", "seconds"])
            row = [self.step, f"{training_loss:.4f}", f"{validation_loss:.4f}", f"{seconds:.0f}"]
            writer.writerow(row)
        print(
            f"step {self.step} of {self.plan.steps}: training loss {row[1]}, validation {row[2]}",
            flush=True,
        )

    def _update(self, loss: torch.Tensor) -> float:
        share = self.plan.learning_rate_share(self.step)
        rates = (self.plan.muon_learning_rate, self.plan.adam_learning_rate)
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def run(
        self, batches: Iterator[Batch], batch_loss: Loss, validation_loss: Callable[[], float]
    ) -> None:
        """Train up to the last step; save the state and record the losses as planned.

        ``batches`` must start at batch ``self.step``, because a resumed run continues there.
        """
        losses: list[float] = []
        started = time.monotonic()
        while self.step < self.plan.steps:
            losses.append(self._update(batch_loss(next(batches))))
            if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                self.model.eval()
                with torch.no_grad():
                    loss = validation_loss()
                self.model.train()
                self._record(float(np.mean(losses)), loss, time.monotonic() - started)
                self._save()
                losses, started = [], time.monotonic()
