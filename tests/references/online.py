"""Online evaluation the slow way: one character at a time, Adam written out."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from charlab.models.contract import AutoregressiveModel


def learning_slowly(
    model: AutoregressiveModel, ids: Tensor, context_length: int, block_length: int, learning_rate: float, steps: int
) -> list[float]:
    """Return the nll of every character but the first.

    A character's context begins where the window of its block does, which ends with the block's last character. A
    model without a context length reads on from the state in which it has left the block before.
    """
    model = copy.deepcopy(model).eval()
    optimizer = RootMeanSquare(list(model.parameters()), learning_rate)
    reads_on = model.context_length is None
    with torch.no_grad():
        state = model.init_state(1)
    scores = []
    for first in range(1, len(ids), block_length):
        positions = range(first, min(first + block_length, len(ids)))
        start = max(0, positions[-1] - context_length)
        for step in range(steps):
            if reads_on:
                logits = read_on(model, ids, positions, state)[0]
            else:
                logits = [model(ids[None, start:position].long())[0, -1] for position in positions]
            nll = [-row.log_softmax(-1)[ids[p].long()] for row, p in zip(logits, positions, strict=True)]
            if step == 0:
                scores += [value.item() for value in nll]
            model.zero_grad()
            (sum(nll) / len(nll)).backward()
            optimizer.step()
        if reads_on:
            with torch.no_grad():
                state = read_on(model, ids, positions, state)[1]
    return scores


def read_on(model, ids, positions, state):
    """Return the logits for each position, given all before it, and the state before the last one is read."""
    logits = []
    for position in positions:
        predicted, state = model.advance(ids[position - 1, None].long(), state)
        logits.append(predicted[0])
    return logits, state


class RootMeanSquare:
    """w ← w − η g / √v̂, where v̂ is the mean of g² over the steps so far, newer ones weighing more (0.999 per step)."""

    def __init__(self, weights: list[Tensor], learning_rate: float) -> None:
        self.weights, self.learning_rate = weights, learning_rate
        self.squares = [torch.zeros_like(weight) for weight in weights]
        self.total = 0.0

    @torch.no_grad()
    def step(self) -> None:
        self.total = 0.999 * self.total + 0.001
        for weight, square in zip(self.weights, self.squares, strict=True):
            if weight.grad is None:  # what plays no part, such as the initial state of what reads on
                continue
            square.mul_(0.999).add_(0.001 * weight.grad**2)
            weight -= self.learning_rate * weight.grad / ((square / self.total).sqrt() + 1e-8)


def counting_slowly(reference: type, train: str, alphabet: str, order: int, text: str) -> list[float]:
    """Return the nll of every character but the first under models that are refitted before each of them.

    Args:
        reference: a class of `tests.references.ngram`.
    """
    return [
        -math.log(reference(train, alphabet, order, text[:t]).probability(text[t], text[:t]))
        for t in range(1, len(text))
    ]
