"""Measure a GPT-2 checkpoint on held-out stories: perplexity and bits per byte.

    python -m demos.gpt2.evaluate --texts FOLDER/heldout --checkpoint demos/gpt2/checkpoint

The folder holds UTF-8 ``*.txt`` files with two blank lines before each story. Every story is read
alone, after the end-of-text token. Windows have the size of the model's context and overlap by
half. Each token is predicted once, with at least half a context before it if the story has that
much. The end of a story is predicted too, but counts as no byte.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

END_OF_TEXT = "<|endoftext|>"


def read_stories(folder: Path) -> list[str]:
    """Return the stories of every ``*.txt`` directly in ``folder``, in order of the file names."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise SystemExit(f"{folder} contains no .txt files: pass the folder of the stories.")
    texts = (file.read_text(encoding="utf-8").rstrip("\n") for file in files)
    return [story for text in texts for story in text.split("\n\n\n") if story.strip()]


@torch.no_grad()
def story_nats(model: GPT2LMHeadModel, ids: list[int]) -> float:
    """Return the total cross-entropy in nats of ``ids[1:]``, given the tokens before each."""
    context = model.config.n_positions
    nats, done = 0.0, 0  # predicted so far: ids[1 : done + 1]
    while done < len(ids) - 1:
        start = 0 if done == 0 else done - context // 2
        window = torch.tensor(ids[start : start + context + 1])
        logits = model(window[None, :-1]).logits[0, done - start :].float()
        nats += cross_entropy(logits, window[done - start + 1 :], reduction="sum").item()
        done = start + len(window) - 1
    return nats


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate the demo GPT-2.")
    parser.add_argument("--texts", type=Path, required=True, help="folder of held-out stories")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file to write the figures to")
    arguments = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(arguments.checkpoint / "tokenizer.json"))
    model = GPT2LMHeadModel.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()
    stories = read_stories(arguments.texts)
    end = tokenizer.token_to_id(END_OF_TEXT)
    encoded = [[end, *found.ids, end] for found in tokenizer.encode_batch(stories)]
    nats = sum(story_nats(model, ids) for ids in encoded)
    tokens = sum(len(ids) - 1 for ids in encoded)
    size_bytes = sum(len(story.encode()) for story in stories)
    figures = {
        "stories": len(stories),
        "bytes": size_bytes,
        "tokens": tokens,
        "nats_per_token": round(nats / tokens, 4),
        "perplexity": round(math.exp(nats / tokens), 3),
        "bits_per_byte": round(nats / size_bytes / math.log(2), 4),
    }
    print(json.dumps(figures))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
