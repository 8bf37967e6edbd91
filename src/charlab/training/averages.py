"""Averages of the weights that training moves, to be used in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn


@runtime_checkable
class KeepsAverage(Protocol):
    """A part of training that keeps an average of the weights: the callback `Averaging`, a schedule-free optimizer."""

    def eval(self) -> Any:
        """Puts the average in place of the weights that are trained."""

    def train(self) -> Any:
        """Puts the weights that are trained back in their place."""


@contextmanager
def averages_in_place(model: nn.Module, keepers: Sequence[KeepsAverage]) -> Iterator[None]:
    """Gives the model averaged weights for a while; afterwards it has those that are trained, to the bit.

    Schedule-free optimizers compute either from the other, so by themselves they would leave rounding errors behind,
    and how often a run is evaluated would change what it learns.
    """
    if not keepers:
        yield
        return
    trained = [parameter.detach().clone() for parameter in model.parameters()]
    for keeper in keepers:
        keeper.eval()
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.train()
        with torch.no_grad():
            for parameter, weights in zip(model.parameters(), trained, strict=True):
                parameter.copy_(weights)
