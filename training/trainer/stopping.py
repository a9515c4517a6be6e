"""When a run evaluates and ends: after its last step, or when it no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback


class EvaluateAtEnd(TrainerCallback):
    """Evaluates after the last step too, so that its checkpoint can be the best one."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for an evaluation after the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


class Patience(EarlyStoppingCallback):
    """Early stopping that also counts a lower loss as better, while the figure stays the same.

    Error rates stay at 100 % at first although a model learns. With a perfect figure, such as an
    error rate of 0, only the figure counts.
    """

    def __init__(
        self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0
    ) -> None:
        super().__init__(early_stopping_patience, early_stopping_threshold)
        self.lowest_loss = math.inf
        self._loss = math.inf

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **other: Any
    ) -> None:
        """Count this evaluation."""
        self._loss = metrics["eval_loss"]
        super().on_evaluate(args, state, control, metrics, **other)
        self.lowest_loss = min(self.lowest_loss, self._loss)

    def check_metric_value(self, args: Any, state: Any, control: Any, metric_value: Any) -> None:
        """Count an evaluation without improvement, or begin to count anew."""
        super().check_metric_value(args, state, control, metric_value)
        perfect = 1.0 if args.greater_is_better else 0.0
        if metric_value == state.best_metric != perfect and self._loss < self.lowest_loss:
            self.early_stopping_patience_counter = 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        kept: dict[str, Any] = super().state()
        kept["attributes"]["lowest_loss"] = self.lowest_loss
        return kept


def best_loss(history: Sequence[Mapping[str, Any]], step: int | None) -> float:
    """Return the held-out loss of the evaluation at ``step``."""
    found = (entry for entry in history if entry.get("step") == step and "eval_loss" in entry)
    return float(next(found, {"eval_loss": math.inf})["eval_loss"])
