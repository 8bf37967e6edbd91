"""Using a model without training it, and leaving no trace of having done so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """Returns the device of the model's parameters and buffers; the CPU for a model that has neither."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Puts the model and its parts into evaluation mode; afterwards each has the mode back that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def untouched_randomness(device: torch.device) -> Iterator[None]:
    """Gives the global random number generators back the states that they had, so that nobody's numbers shift.

    torch cannot save the generator of an `mps` device this way, so there only the CPU's is kept.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], device_type="cuda"):
        yield
