"""Choices: which of the user's labels fits a text, with a probability for each."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from edgeseq.runtime import Model, PromptError

from .worker import Job


class Chosen(NamedTuple):
    """The labels with their probabilities, the most probable first."""

    rows: list[tuple[str, float]]
    cut_tokens: int  # tokens of the text that the model did not read


def split_labels(line: str) -> list[str]:
    """Return the labels of a line, which commas separate."""
    return list(dict.fromkeys(label for part in line.split(",") if (label := part.strip())))


async def choose(
    job: Job, model: Model, lock: asyncio.Lock, question: str, text: str, labels: list[str]
) -> Chosen:
    """Return the probability of each label after ``question``, whose ``{text}`` is the text."""
    if len(labels) < 2:
        raise PromptError("Type at least two labels, with commas between them.")
    if "{text}" not in question:
        raise PromptError("The prompt needs {text}, where the selected text is put.")
    prompt = question.replace("{text}", text.strip())
    reads_source = model.bundle.manifest.kind == "encoder-decoder"
    # A decoder-only model continues the prompt, so that a label begins with a space.
    spelled = labels if reads_source else [f" {label}" for label in labels]
    async with lock:
        [result] = await asyncio.to_thread(
            model.generate,
            prompt,
            choices=spelled,
            truncation="right" if reads_source else "left",  # the question stays
            cancel=job.cancelled,
        )
    found = result.choices or ()
    return Chosen([(c.text.strip(), c.probability) for c in found], result.truncated_tokens)
