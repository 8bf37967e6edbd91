"""Muon, one matrix at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    """Return the matrix with all singular values set to 1."""
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def newton_schulz(matrix: Tensor, iterations: int) -> Tensor:
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(iterations):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x


class Muon:
    """The update of one matrix W, which is part of no other."""

    def __init__(self, weight: Tensor, *, momentum: float, iterations: int) -> None:
        self.weight, self.momentum, self.iterations = weight.clone(), momentum, iterations
        self.mean = torch.zeros_like(weight)

    def step(self, gradient: Tensor, *, lr: float, weight_decay: float) -> None:
        self.mean = self.momentum * self.mean + (1 - self.momentum) * gradient
        direction = self.momentum * self.mean + (1 - self.momentum) * gradient
        update = newton_schulz(direction, self.iterations)
        rows, columns = self.weight.shape
        scale = 0.2 * math.sqrt(rows if rows > columns else columns)
        self.weight = self.weight - lr * weight_decay * self.weight - lr * scale * update


class AdamW:
    """The update of any other parameter."""

    def __init__(self, weight: Tensor, *, betas: tuple[float, float], eps: float) -> None:
        self.weight, self.betas, self.eps = weight.clone(), betas, eps
        self.first, self.second, self.count = torch.zeros_like(weight), torch.zeros_like(weight), 0

    def step(self, gradient: Tensor, *, lr: float, weight_decay: float) -> None:
        self.count += 1
        self.first = self.betas[0] * self.first + (1 - self.betas[0]) * gradient
        self.second = self.betas[1] * self.second + (1 - self.betas[1]) * gradient**2
        mean = self.first / (1 - self.betas[0] ** self.count)
        square = self.second / (1 - self.betas[1] ** self.count)
        self.weight = self.weight - lr * weight_decay * self.weight - lr * mean / (square.sqrt() + self.eps)
