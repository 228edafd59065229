"""Muon for the matrices inside the blocks, AdamW for embeddings and norms, under one learning-rate factor."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, num_steps: int = 5) -> Tensor:
    """Push the singular values of a stack of matrices (n, rows, columns) towards 1 by Newton-Schulz iterations.

    Coefficients and method: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step is orthogonalized; parameters are (rows, columns) or stacks of such."""

    def __init__(self, groups: list[dict[str, Any]], momentum: float = 0.95, weight_decay: float = 0.03) -> None:
        super().__init__(groups, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take one step; matrices of equal shape are orthogonalized together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(buffer, group["momentum"])
                rows, columns = parameter.shape[-2:]
                weights, updates = parameter.view(-1, rows, columns), update.view(-1, rows, columns)
                by_shape[min(rows, columns), max(rows, columns)] += [
                    (w.mT, u.mT) if rows > columns else (w, u) for w, u in zip(weights, updates, strict=True)
                ]
            for pairs in by_shape.values():
                steps = orthogonalize(torch.stack([update for _, update in pairs]))
                for (weight, _), step in zip(pairs, steps, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(step.to(weight.dtype), alpha=-group["lr"] * _gain(weight))


def _gain(weight: Tensor) -> float:
    """Scale a step to the size AdamW's would have at the same learning rate (Liu et al. 2025, arXiv 2502.16982)."""
    return 0.2 * float(max(weight.shape)) ** 0.5


class Rates(NamedTuple):
    """Peak learning rates of one model."""

    matrices: float
    embedding: float
    """Of embedding and norms."""


class Optimizers:
    """The two optimizers of one model, or of several, each with rates of its own."""

    def __init__(self, *models: tuple[nn.Module, Rates]) -> None:
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for model, _ in models:
            both: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
            for name, parameter in model.named_parameters():
                both[parameter.ndim < 2 or name.endswith("embedding")].append(parameter)
            matrices.append({"params": both[0]})
            others.append({"params": both[1]})
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)
        self._peaks = [rates.matrices for _, rates in models] + [rates.embedding for _, rates in models]

    def step(self, factor: float, momentum: float) -> None:
        """Step both with their learning rates times ``factor``, then clear the gradients."""
        groups = (*self.muon.param_groups, *self.adam.param_groups)
        for group, peak in zip(groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        for group in self.muon.param_groups:
            group["momentum"] = momentum
        self.muon.step()
        self.adam.step()
        self.muon.zero_grad(set_to_none=True)
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Both states, for a checkpoint."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict gave."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
