"""Optimizers as their papers write them, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Lion:
    """Chen et al., arXiv 2302.06675, algorithm 2."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.momentum = weight.clone(), torch.zeros_like(weight)

    def step(self, gradient: Tensor, *, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        direction = betas[0] * self.momentum + (1 - betas[0]) * gradient
        self.weight = self.weight - lr * (direction.sign() + weight_decay * self.weight)
        self.momentum = betas[1] * self.momentum + (1 - betas[1]) * gradient


class ScheduleFreeAdamW:
    """Defazio et al., arXiv 2405.15682, algorithm 1: gradients at y, steps of z, x their average."""

    def __init__(self, weight: Tensor) -> None:
        self.x, self.z, self.square = weight.clone(), weight.clone(), torch.zeros_like(weight)
        self.count, self.highest_rate, self.total = 0, 0.0, 0.0

    def where(self, beta: float) -> Tensor:
        """Return y, where the next gradient is to be taken."""
        return (1 - beta) * self.z + beta * self.x

    def step(self, gradient: Tensor, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        y = self.where(betas[0])
        self.count += 1
        self.square = betas[1] * self.square + (1 - betas[1]) * gradient**2
        scale = (self.square / (1 - betas[1] ** self.count)).sqrt() + eps
        self.z = self.z - lr * (gradient / scale + weight_decay * y)
        self.highest_rate = max(self.highest_rate, lr)
        self.total += self.highest_rate**2
        share = self.highest_rate**2 / self.total
        self.x = (1 - share) * self.x + share * self.z


def sharpest(weight: Tensor, gradient: Callable[[Tensor], Tensor], rho: float) -> Tensor:
    """Return the gradient where the loss within `rho` of the weight is highest (Foret et al., equations 2 and 3)."""
    first = gradient(weight)
    return gradient(weight + rho * first / first.norm())
