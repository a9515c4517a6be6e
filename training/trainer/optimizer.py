"""The optimizer ``muon``: Muon for hidden matrices, AdamW for all other parameters.

Muon: https://kellerjordan.github.io/posts/muon/, with the learning rate of AdamW as in
https://arxiv.org/abs/2502.16982. Unlike ``torch.optim.Muon`` it computes in float32, because
bfloat16 is slow on processors without instructions for it. Both are one object, so that a trainer
saves, restores and schedules them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.nn import Embedding, Module, Parameter

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the iteration
NEWTON_SCHULZ_STEPS = 5
MATCH_ADAMW = 0.2  # the root mean square of AdamW's updates
MOMENTUM = 0.95


class MuonAdamW(torch.optim.Optimizer):
    """Muon for ``matrices``, AdamW for ``others``.

    Weight decay applies to the matrices alone.
    """

    def __init__(
        self,
        matrices: Sequence[Parameter],
        others: Sequence[Parameter],
        *,
        lr: float,
        other_lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        groups = [
            {"params": list(matrices), "kind": "muon", "lr": lr, "weight_decay": weight_decay},
            {"params": list(others), "kind": "adamw", "lr": other_lr, "weight_decay": 0.0},
        ]
        defaults = {"lr": lr, "momentum": MOMENTUM, "betas": betas, "eps": eps}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            (self._muon if group["kind"] == "muon" else self._adamw)(parameters, group)
        return loss

    def _muon(self, parameters: Iterable[Parameter], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        by_shape: dict[tuple[int, ...], list[tuple[Parameter, torch.Tensor]]] = {}
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            update = gradient.lerp(state["momentum_buffer"], momentum)  # Nesterov
            by_shape.setdefault(tuple(update.shape), []).append((parameter, update))
        for shape, updates in by_shape.items():
            scale = MATCH_ADAMW * max(shape) ** 0.5 * group["lr"]
            directions = orthogonalized(torch.stack([update.float() for _, update in updates]))
            for (parameter, _), direction in zip(updates, directions, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction.to(parameter.dtype), alpha=-scale)

    def _adamw(self, parameters: Iterable[Parameter], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1
            state["exp_avg"].lerp_(gradient, 1 - first)
            state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
            root = (1 - second ** state["step"]) ** 0.5
            deviation = (state["exp_avg_sq"].sqrt() / root).add_(group["eps"])
            size = group["lr"] / (1 - first ** state["step"])
            parameter.addcdiv_(state["exp_avg"], deviation, value=-size)


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """Return the nearest matrices whose singular values are about 1; ``(count, rows, columns)``.

    Source: five steps of a quintic Newton-Schulz iteration.
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if is_tall else matrices
    found = found / (found.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * (gram @ gram)) @ found
    result: torch.Tensor = found.mT if is_tall else found
    return result


def hidden_matrices(model: Module) -> tuple[list[Parameter], list[Parameter]]:
    """Return the trained matrices without embeddings and lm_head, and all other parameters."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    tables = [module for module in model.modules() if isinstance(module, Embedding)]
    apart = {id(module.weight) for module in (*tables, head) if module is not None}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hidden = [p for p in trained if p.ndim == 2 and id(p) not in apart]
    kept = {id(parameter) for parameter in hidden}
    return hidden, [parameter for parameter in trained if id(parameter) not in kept]
