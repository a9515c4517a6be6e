"""Train the demo T5 from scratch to pronounce and spell English words.

    python -m demos.t5.train --out demos/t5/checkpoint

Training is seeded: ``--seed`` alone determines the weights and the order of the words. The split of
the dictionary is always the same. The state is saved every 250 steps in ``OUT/../training``, and a
later start continues there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from demos.t5.dictionary import Dictionary, Pair, read_dictionary, split, training_pairs
from demos.t5.tokenizer import END, PAD, build_tokenizer, save_tokenizer
from demos.trainer import Plan, Trainer

SHAPES = ((10, 576), (12, 480), (16, 360), (32, 180))  # longest text in tokens, pairs in a batch
IGNORED = -100  # a label that the loss ignores
NEW_TOKENS = 32  # the longest word has 28 phonemes
Example = tuple[list[int], list[int]]  # the token ids of a source and its target
Batch = tuple[torch.Tensor, torch.Tensor]  # source and labels, (pairs, length) each


def build_model(tokenizer: Tokenizer) -> T5ForConditionalGeneration:
    """Return a T5 of 3.0 M parameters: 4 encoder and 2 decoder layers of width 192."""
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=192,
        d_kv=32,
        num_heads=6,
        d_ff=512,
        num_layers=4,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.1,
        pad_token_id=tokenizer.token_to_id(PAD),
        eos_token_id=tokenizer.token_to_id(END),
        decoder_start_token_id=tokenizer.token_to_id(PAD),
    )
    return T5ForConditionalGeneration(config)


def encode(pairs: Sequence[Pair], tokenizer: Tokenizer) -> list[Example]:
    """Return the token ids of each pair; source and target end with the end-of-sequence token."""
    sources = tokenizer.encode_batch([source for source, _ in pairs])
    targets = tokenizer.encode_batch([target for _, target in pairs])
    return [(s.ids, t.ids) for s, t in zip(sources, targets, strict=True)]


def batches_of(examples: Sequence[Example], order: Sequence[int]) -> list[Batch]:
    """Return the examples in batches of similar length; the last few examples are left out.

    ``order``: the examples' indices, in the order in which batches take them.
    """
    batches = []
    shortest = 0
    for length, size in SHAPES:
        fitting = [i for i in order if shortest < max(map(len, examples[i])) <= length]
        shortest = length
        for start in range(0, len(fitting) - size + 1, size):
            chosen = [examples[i] for i in fitting[start : start + size]]
            source = np.zeros((size, length), np.int64)
            labels = np.full((size, length), IGNORED, np.int64)
            for row, (source_ids, target_ids) in enumerate(chosen):
                source[row, : len(source_ids)] = source_ids
                labels[row, : len(target_ids)] = target_ids
            batches.append((torch.from_numpy(source), torch.from_numpy(labels)))
    return batches


def training_batches(
    words: Dictionary, tokenizer: Tokenizer, seed: int, first: int
) -> Iterator[Batch]:
    """Yield batches without end, from batch number ``first`` on."""
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        examples = encode(training_pairs(words, rng), tokenizer)
        batches = batches_of(examples, rng.permutation(len(examples)).tolist())
        for i in rng.permutation(len(batches))[first:]:
            yield batches[i]
        first = max(0, first - len(batches))
        epoch += 1


def batch_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy in nats per target token."""
    source, labels = batch
    start = labels.new_zeros(len(labels), 1)  # the padding token starts the decoder
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(
            input_ids=source,
            attention_mask=source.ne(0),
            decoder_input_ids=torch.cat([start, labels[:, :-1].clamp(min=0)], dim=1),
            use_cache=False,
        ).logits
    return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo T5.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    words = split(read_dictionary())
    tokenizer = build_tokenizer()
    torch.manual_seed(arguments.seed)
    model = build_model(tokenizer)
    compiled = torch.compile(model)
    plan = Plan(
        steps=arguments.steps,
        seed=arguments.seed,
        muon_learning_rate=3e-3,
        adam_learning_rate=3e-3,
        decay_share=0.5,
        save_every=250,
    )
    trainer = Trainer(model, lambda name: ".block." in name, plan, arguments.out.parent)
    examples = encode(training_pairs(words.validation, np.random.default_rng(0)), tokenizer)
    validation = batches_of(examples, range(len(examples)))
    trainer.run(
        training_batches(words.training, tokenizer, arguments.seed, trainer.step),
        lambda batch: batch_loss(compiled, batch),
        lambda: float(np.mean([batch_loss(model, batch).item() for batch in validation])),
    )
    save_tokenizer(tokenizer, arguments.out)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=model.config.decoder_start_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        max_new_tokens=NEW_TOKENS,
    )
    model.half().save_pretrained(arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
