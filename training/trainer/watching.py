"""Watch a run: lines of progress, the file of figures, and samples of what the model writes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ...runtime.errors import TrainingError
from ...runtime.progress import clock_time
from .checkpoints import saving

LINE_INTERVAL_S = 10.0  # seconds between two lines of progress
PERCENT = ("exact_match", "word_error_rate", "character_error_rate")
SAMPLE_TOKENS = 40  # of a continuation
TOO_LONG = 300  # characters of a sample that are shown
Report = Callable[[str], None]


class Figures:
    """The file of figures: a line of JSON for each logged step and each evaluation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """Return all records; a line that was being written when the run ended is left out."""
        found = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
        return found

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        with saving(self.path), self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record) + "\n")

    def keep_until(self, step: int) -> None:
        """Delete the records after ``step``, which a resumed run writes again."""
        lines = [json.dumps(record) for record in self.records() if record["step"] <= step]
        self.path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


class Watcher(TrainerCallback):
    """Reports the progress of a run and records its figures.

    ``tokens_seen``: returns the tokens of all batches so far. ``samples``: called after each
    evaluation, returns lines to show.
    """

    def __init__(
        self,
        figures: Figures,
        report: Report,
        tokens_seen: Callable[[], int],
        samples: Callable[[], Sequence[str]],
        clock: Callable[[], float] = time.perf_counter,  # seconds
    ) -> None:
        self._figures, self._report = figures, report
        self._tokens_seen, self._samples, self._clock = tokens_seen, samples, clock
        self._trained_s = 0.0  # seconds of training steps, without evaluations
        self._step_s = self._shown_s = 0.0
        self._first_step = 0
        self._evaluation: dict[str, float] = {}
        self._started_s = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._first_step = state.global_step
        self._started_s = self._shown_s = self._clock()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock of a step."""
        self._step_s = self._clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the time of the step."""
        self._trained_s += self._clock() - self._step_s

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Record the loss, and show it if the last line is some seconds old."""
        if not logs or "loss" not in logs:
            return
        speed = self._tokens_seen() / self._trained_s if self._trained_s else 0.0
        self._figures.add(
            {
                "step": state.global_step,
                "epoch": round(state.epoch, 4),
                "loss": logs["loss"],
                "learning_rate": logs.get("learning_rate"),
                "grad_norm": logs.get("grad_norm"),
                "tokens_per_second": round(speed, 1),
            }
        )
        if self._clock() - self._shown_s >= LINE_INTERVAL_S:
            self._shown_s = self._clock()
            self._report(self._line(state, logs["loss"], speed))

    def _line(self, state: Any, loss: float, speed: float) -> str:
        done = state.global_step - self._first_step
        elapsed = self._clock() - self._started_s
        left = elapsed / done * (state.max_steps - state.global_step)
        return (
            f"step {state.global_step:,} of {state.max_steps:,}: loss {loss:.3f}, "
            f"{speed:,.0f} tokens/s, {clock_time(left)} left"
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        """Record the held-out figures and show them."""
        figures = {name.removeprefix("eval_"): value for name, value in found["metrics"].items()}
        if not math.isfinite(figures["loss"]):
            raise TrainingError(
                f"The held-out loss at step {state.global_step:,} is not a finite number: begin "
                "again in another folder with a lower --trainer.learning_rate."
            )
        own = {f"held_out_{name}": value for name, value in figures.items()}
        self._figures.add({"step": state.global_step, "epoch": round(state.epoch, 4), **own})
        self._shown_s = self._clock()
        self._report(f"step {state.global_step:,}: held-out {spoken(figures)}")
        for line in self._samples():
            self._report(line)


def spoken(figures: Mapping[str, float]) -> str:
    """Return figures as a part of a sentence."""
    parts = []
    for name, value in figures.items():
        digits = f"{value:.1%}" if name.removeprefix("base_") in PERCENT else f"{value:.4g}"
        parts.append(f"{name.replace('_', ' ')} {digits}")
    return ", ".join(parts)


def sample_answers(
    prompts: Sequence[str], found: Sequence[str], expected: Sequence[str], count: int
) -> list[str]:
    """Return lines with the first ``count`` answers."""
    lines = []
    for prompt, text, target in list(zip(prompts, found, expected, strict=False))[:count]:
        verdict = "as expected" if text == target else f"expected {target!r:.{TOO_LONG}}"
        lines.append(f"  {prompt!r:.{TOO_LONG}} -> {text!r:.{TOO_LONG}} ({verdict})")
    return lines


@torch.no_grad()
def sample_continuations(
    model: Any, tokenizer: Any, texts: Sequence[str], count: int, device: Any
) -> list[str]:
    """Return lines with greedy continuations of the first words of ``count`` held-out texts."""
    lines = []
    model.eval()
    for text in texts[:count]:
        begin = " ".join(text.split()[:8])
        ids = tokenizer(begin, return_tensors="pt").input_ids.to(device)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            repetition_penalty=1.2,
            max_new_tokens=SAMPLE_TOKENS,
            pad_token_id=tokenizer.eos_token_id,
        )
        new = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        lines.append(f"  {begin!r:.{TOO_LONG}} -> {new!r:.{TOO_LONG}}")
    model.train()
    return lines
