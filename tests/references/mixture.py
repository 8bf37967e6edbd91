"""Mixtures as sums of probabilities, and EM for their weights with a posterior for each character."""

from __future__ import annotations

import torch
from torch import Tensor


def distribution(members: list, weights: list[float], tokens: Tensor) -> Tensor:
    """p(next character | tokens so far), (B, T, V): the sum of the members' softmaxes, each times its weight."""
    total = torch.zeros(())
    for member, weight in zip(members, weights, strict=True):
        logits = member(tokens)
        exponentials = (logits - logits.amax(dim=-1, keepdim=True)).exp()
        total = total + weight * exponentials / exponentials.sum(dim=-1, keepdim=True)
    return total


def nll(members: list, weights: list[float], window: Tensor) -> Tensor:
    """−log p of each character of `window` but the first, (B, T)."""
    p = distribution(members, weights, window[:, :-1])
    rows = [[-p[b, t, window[b, t + 1]].log() for t in range(window.shape[1] - 1)] for b in range(len(window))]
    return torch.stack([torch.stack(row) for row in rows])


def em_step(probabilities: list[list[float]], weights: list[float]) -> list[float]:
    """One iteration, `probabilities[k][n]` being what member k gives character n: the mean posterior of each member."""
    num_characters = len(probabilities[0])
    total = [0.0] * len(weights)
    for n in range(num_characters):
        joint = [weight * row[n] for weight, row in zip(weights, probabilities, strict=True)]
        for k, value in enumerate(joint):
            total[k] += value / sum(joint)
    return [value / num_characters for value in total]
