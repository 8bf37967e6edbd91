"""Evaluation the slow way: each character by itself, after running `forward` on nothing but its context."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from charlab.models.contract import AutoregressiveModel


def blocks_slowly(model: AutoregressiveModel, ids: Tensor, context_length: int) -> list[float]:
    """Return the nll of every character but the first; block k begins after character k · T."""
    scores = []
    for position in range(1, len(ids)):
        start = (position - 1) // context_length * context_length
        scores.append(_nll_of_one(model, ids, start, position))
    return scores


def sliding_slowly(model: AutoregressiveModel, ids: Tensor, context_length: int, stride: int) -> list[float]:
    """Return the nll of every character but the first; windows end at T, T + stride, T + 2 stride … and at the end."""
    scores = []
    for position in range(1, len(ids)):
        end = context_length
        while end < position:
            end += stride
        start = max(0, min(end, len(ids) - 1) - context_length)
        scores.append(_nll_of_one(model, ids, start, position))
    return scores


def one_pass_slowly(model: AutoregressiveModel, ids: Tensor) -> list[float]:
    """Return the nll of every character but the first, given everything before it."""
    return [_nll_of_one(model, ids, 0, position) for position in range(1, len(ids))]


def windows_slowly(model: AutoregressiveModel, ids: Tensor, starts: list[int], context_length: int) -> float:
    """Return the mean nll over windows."""
    scores = [
        _nll_of_one(model, ids, start, position)
        for start in starts
        for position in range(start + 1, start + context_length + 1)
    ]
    return math.fsum(scores) / len(scores)


@torch.no_grad()
def _nll_of_one(model: AutoregressiveModel, ids: Tensor, start: int, position: int) -> float:
    """Return −log p of the character at `position`, given those from `start` on."""
    logits = model(ids[None, start:position].long())[0, -1]
    return -logits.log_softmax(-1)[int(ids[position])].item()
