"""The memory that training needs, estimated before it begins, and what to change if it is short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...runtime.errors import TrainingError
from ..tokens.examples import Collator
from .answers import token_loss

STATES = {"muon": 1, "sgd": 0, "adafactor": 0.1}  # values per trained weight; AdamW has 2
FLOAT_BYTES = 4
RESERVE = 400 << 20  # bytes for temporary buffers and the rest of the process
LIMITS = (  # of control groups, version 2 and 1: the limit, and what is used
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
GROUP_FILES = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The bytes that a run needs beyond what the process has now."""

    gradients: int
    optimizer: int
    per_row: int  # activations, logits and their gradients of one row of the longest batch

    def total(self, rows: int) -> int:
        """Return the bytes with ``rows`` rows in a batch."""
        return self.gradients + self.optimizer + self.per_row * rows + RESERVE


def estimate(model: Any, optim: str, longest: tuple[int, int], collate: Collator) -> Estimate:
    """Measure what a row of the ``longest`` ids and labels keeps for the backward pass."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    states = next((count for name, count in STATES.items() if name in optim), 2)
    return Estimate(
        gradients=trained,
        optimizer=int(trained * states),
        per_row=_row_bytes(model, longest, collate),
    )


def _row_bytes(model: Any, longest: tuple[int, int], collate: Collator) -> int:
    """Return the bytes that a forward pass of one row keeps, and the gradient of its logits."""
    ids, labels = (np.full(length, 1, np.int64) for length in longest)
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in collate([(ids, labels)]).items()}
    targets = batch.pop("labels")
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    state = torch.random.get_rng_state()
    was_training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(**batch, use_cache=False)
        loss = token_loss(outputs, targets)
    logits = outputs.logits
    found = sum(kept.values()) + 2 * int(logits.numel()) * FLOAT_BYTES
    del loss, outputs, alive[:]
    model.train(was_training)
    torch.random.set_rng_state(state)
    return found


def available_bytes(device: torch.device) -> int:
    """Return the memory that this process may still use, on the processor or on the GPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil  # late: accelerate needs it too

    return min(int(psutil.virtual_memory().available), *_group_bytes(), 1 << 60)


def _group_bytes() -> list[int]:
    found = []
    for limit, used in LIMITS:
        try:
            values = [(GROUP_FILES / name).read_text("utf-8").strip() for name in (limit, used)]
            found.append(int(values[0]) - int(values[1]))
        except (OSError, ValueError):  # no such group, or no limit ("max")
            continue
    return found


def check_memory(
    need: Estimate,
    *,
    rows: int,
    accumulation: int,
    available: int,
    has_lora: bool,
    report: Callable[[str], None],
) -> None:
    """Report the memory that training needs; raise ``TrainingError`` if there is less.

    ``rows``: rows in a batch. ``accumulation``: batches of an update.
    """
    total = need.total(rows)
    report(f"training needs about {_gb(total)} of memory; {_gb(available)} are available")
    if total <= available:
        return
    fitting = [
        size for size in range(1, rows) if rows % size == 0 and need.total(size) <= available
    ]
    if fitting:
        size = fitting[-1]
        proposal = (
            f"pass --trainer.per_device_train_batch_size {size} and "
            f"--trainer.gradient_accumulation_steps {accumulation * rows // size}"
        )
    elif not has_lora and need.per_row + RESERVE <= available:
        proposal = "use a template with LoRA, or a smaller model"
    else:
        proposal = "use shorter texts (the lengths in the group data) or a smaller model"
    raise TrainingError(
        f"Training needs about {_gb(total)} of memory, and {_gb(available)} are available: "
        f"{proposal}."
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
