"""Transformers' trainer with edgeseq's batches, optimizer, checkpoints and held-out figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    GenerationConfig,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)
from transformers.trainer_utils import SchedulerType

from ..tokens.examples import Batch, Collator, Examples, HeldOut, Ids
from .answers import answer_figures, answers, held_out_loss, token_loss
from .checkpoints import Checkpoints, Mark, saving
from .optimizer import MuonAdamW, hidden_matrices
from .settings import OwnSettings
from .stopping import EvaluateAtEnd, Patience, best_loss

DECAY_SHARE = 0.4  # of the steps, at the end, in which warmup_stable_decay falls to 0


class Trainer(Seq2SeqTrainer):
    """A trainer whose checkpoints are complete or not used, and whose batches follow the seed.

    ``tokens_seen`` counts the tokens of all batches since the process began.
    """

    def __init__(
        self,
        model: Any,
        arguments: Seq2SeqTrainingArguments,
        own: OwnSettings,
        *,
        tokenizer: Any,
        examples: Examples,
        held_out: HeldOut,
        collator: Collator,
        generation: GenerationConfig,
        checkpoints: Checkpoints,
        callbacks: Sequence[TrainerCallback],
        muon: bool,
    ) -> None:
        self._own, self._muon = own, muon
        self._examples, self._held_out, self._collate = examples, held_out, collator
        self._tokenizer, self._generation = tokenizer, generation
        self._checkpoints = checkpoints
        self.tokens_seen = 0
        self._trained: Any = model
        self.found_answers: list[str] = []
        stopping: list[TrainerCallback] = [EvaluateAtEnd()]
        if own.early_stopping_patience is not None:
            stopping.append(Patience(own.early_stopping_patience, own.early_stopping_threshold))
        super().__init__(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=_Rows(examples),
            eval_dataset=_Rows(examples),  # Transformers wants one; `evaluate` reads `held_out`
            compute_loss_func=partial(token_loss, smoothing=arguments.label_smoothing_factor),
            callbacks=[*stopping, *callbacks],
        )
        self.pop_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches, each epoch's from the seed and the epoch's number."""
        size = self.args.per_device_train_batch_size * max(1, self.args.n_gpu)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return _Loader(
            _Rows(self._examples),
            batch_sampler=_EpochBatches(self._examples, size, seed),
            collate_fn=self._collate,
            generator=torch.Generator(),  # the loader must not use the model's random numbers
        )

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer that ``optim`` names; ``muon`` is edgeseq's."""
        if self._muon and self.optimizer is None:
            arguments, own = self.args, self._own
            matrices, others = hidden_matrices(self._trained)
            self.optimizer = MuonAdamW(
                matrices,
                others,
                lr=arguments.learning_rate,
                other_lr=own.other_learning_rate or arguments.learning_rate,
                weight_decay=arguments.weight_decay,
                betas=(arguments.adam_beta1, arguments.adam_beta2),
                eps=arguments.adam_epsilon,
            )
        found: torch.optim.Optimizer = super().create_optimizer()
        return found

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Return the schedule of the learning rate; ``warmup_stable_decay`` has a default decay."""
        if self.args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
            decay = {
                "num_decay_steps": int(DECAY_SHARE * num_training_steps),
                "decay_type": "linear",
            }
            given: Any = self.args.lr_scheduler_kwargs or {}
            self.args.lr_scheduler_kwargs = {**decay, **given}
        chosen: Any = optimizer
        return super().create_scheduler(num_training_steps, chosen)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> Any:
        """Train on one batch, and count its tokens."""
        read = int(inputs["attention_mask"].sum())
        if "decoder_input_ids" in inputs:
            read += int((inputs["labels"] >= 0).sum())
        self.tokens_seen += read
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
        **_: Any,
    ) -> dict[str, float]:
        """Return the figures on the held-out examples, and tell the callbacks."""
        found = {f"{metric_key_prefix}_{name}": value for name, value in self.measure().items()}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def measure(self) -> dict[str, float]:
        """Return loss and perplexity on the held-out examples, and of pairs the error rates."""
        model, device = self._trained, self.args.device
        model.eval()
        size = self.args.per_device_eval_batch_size
        autocast = self.compute_loss_context_manager()
        found = held_out_loss(model, self._held_out, self._collate, size, device, autocast)
        pairs = self._held_out.pairs
        if pairs is not None and len(pairs):
            texts = answers(model, self._tokenizer, pairs, self._generation, device)
            self.found_answers = texts
            found |= answer_figures(texts, self._held_out.targets)
        model.train()
        return found

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Return whether the figures are the best so far; of equal ones the lower loss is."""
        if super()._determine_best_metric(metrics, trial):
            return True
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        before = best_loss(self.state.log_history, self.state.best_global_step)
        if metrics[name] != self.state.best_metric or not metrics["eval_loss"] < before:
            return False
        self.state.best_global_step = self.state.global_step
        return True

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        path = self._checkpoints.path(self.state.global_step)
        with saving(path):
            self._checkpoints.begin(self.state.global_step)
            super()._save_checkpoint(model, trial)
            self._checkpoints.complete(
                Mark(
                    step=self.state.global_step,
                    best_step=self.state.best_global_step,
                    finished=bool(self.control.should_training_stop),
                )
            )

    def _rotate_checkpoints(self, use_mtime: bool = False, output_dir: Any = None) -> None:
        """Do nothing: `Checkpoints.complete` deletes old ones after the marker is written."""

    def _load_best_model(self) -> None:
        """Load the best checkpoint from the run's folder, which may have moved since."""
        if self.state.best_global_step is not None:
            path = self._checkpoints.path(self.state.best_global_step)
            self.state.best_model_checkpoint = str(path)
        super()._load_best_model()

    def load_step(self, step: int) -> None:
        """Load the weights of a checkpoint."""
        self.state.best_model_checkpoint = str(self._checkpoints.path(step))
        self.state.best_global_step = step
        super()._load_best_model()


class _Rows(Dataset[tuple[Ids, Ids]]):
    """The rows of examples, as a loader reads them."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, number: int) -> tuple[Ids, Ids]:
        return self._examples.row(number)

    def __len__(self) -> int:
        return self._examples.batch_count(1)


class _EpochBatches(Sampler[list[int]]):
    """The batches of an epoch, which ``set_epoch`` chooses."""

    def __init__(self, examples: Examples, size: int, seed: int) -> None:
        self._examples, self._size, self._seed = examples, size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._examples.batches(self._size, self._seed, self._epoch))

    def __len__(self) -> int:
        return self._examples.batch_count(self._size)


class _Loader(DataLoader[Any]):
    """A loader that passes the epoch on to its batches."""

    def set_epoch(self, epoch: int) -> None:
        batches: Any = self.batch_sampler
        batches.set_epoch(epoch)
