"""Train a checkpoint that copies: the demo GPT-2 learns to quote and to correct a passage.

    python benchmarks/copying_model.py --texts FOLDER --out FOLDER

Prompt lookup decoding helps if an output repeats its input, which the demo model does not do. This
checkpoint is only for the benchmark of prompt lookup decoding (``prompt_lookup.py``). It learns
from texts of the form

    Quote: <a passage>

    <the passage again>

and the same with ``Correct:`` and a passage in which letters are missing or doubled. The folder of
texts holds UTF-8 ``*.txt`` files, as for the demo GPT-2; the last tenth is not used for
training. All random choices are seeded. 300 steps take about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, GPT2LMHeadModel, GPT2TokenizerFast

CHECKPOINT = Path(__file__).resolve().parent.parent / "demos" / "gpt2" / "checkpoint"
BATCH = 16
LEARNING_RATE = 1.5e-3
ERROR_SHARE = 0.04  # of a passage's letters, for ``Correct:``


def passages(folder: Path) -> list[str]:
    """Return passages of 40 to 89 words, in the order of the files."""
    found = []
    for file in sorted(folder.glob("*.txt")):
        words = re.sub(r"\s+", " ", file.read_text(encoding="utf-8")).split(" ")
        sizes = np.random.default_rng(0).integers(40, 90, len(words) // 40)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        found += [" ".join(words[a:b]) for a, b in zip(starts, ends, strict=True) if b < len(words)]
    return found


def with_errors(text: str, rng: np.random.Generator) -> str:
    """Return ``text`` with some letters missing or doubled."""
    draws = rng.random(len(text))
    letters = [
        "" if draw < ERROR_SHARE / 2 else 2 * letter if draw < ERROR_SHARE else letter
        for letter, draw in zip(text, draws, strict=True)
    ]
    return "".join(letters)


def prompt_of(passage: str, task: str, rng: np.random.Generator) -> str:
    """Return the prompt for a passage; ``task``: "Quote" or "Correct"."""
    shown = passage if task == "Quote" else with_errors(passage, rng)
    return f"{task}: {shown}\n\n"


def batch_of(
    texts: list[str], tokenizer: GPT2TokenizerFast, rng: np.random.Generator, context: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels, both (rows, n) int64; a label of -100 has no loss."""
    rows, labels = [], []
    for text in texts:
        task = "Correct" if rng.random() < 0.4 else "Quote"
        prompt = tokenizer(prompt_of(text, task, rng)).input_ids
        answer = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        if task == "Quote" and rng.random() < 0.3:  # so that it quotes unlikely tokens, too
            answer = rng.integers(1, len(tokenizer), len(answer)).tolist()
            prompt = [*tokenizer("Quote: ").input_ids, *answer, *tokenizer("\n\n").input_ids]
        rows.append((prompt + answer)[:context])
        labels.append(([-100] * len(prompt) + answer)[:context])
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    wanted = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
    return ids, wanted


def main() -> None:
    """Train and write the checkpoint."""
    parser = argparse.ArgumentParser(description="Teach the demo GPT-2 to copy.")
    parser.add_argument("--texts", type=Path, required=True, help="folder of texts")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tokenizer = GPT2TokenizerFast.from_pretrained(CHECKPOINT)
    model = GPT2LMHeadModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    texts = passages(arguments.texts)
    training = texts[: len(texts) * 9 // 10]
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=arguments.steps, pct_start=0.1
    )
    for step in range(1, arguments.steps + 1):
        chosen = [training[i] for i in rng.integers(len(training), size=BATCH)]
        ids, labels = batch_of(chosen, tokenizer, rng, model.config.n_positions)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids).logits
        loss = cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step}, loss {loss.item():.3f}", file=sys.stderr, flush=True)
        if step % 50 == 0 or step == arguments.steps:
            tokenizer.save_pretrained(arguments.out)
            model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0)
            model.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
