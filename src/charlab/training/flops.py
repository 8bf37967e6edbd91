"""How many floating-point operations a training step takes, counted rather than estimated by a formula."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from charlab.models.contract import LanguageModel


def count_flops(model: LanguageModel, *, batch_size: int, window_length: int) -> int | None:
    """Returns the operations of one forward and backward pass; a multiplication with an addition counts as two.

    Torch counts matrix products, convolutions and attention, which make up nearly all of the work, on a copy of the
    model that has shapes but no numbers. None for a model that needs numbers to run, or whose work torch cannot
    count.

    Args:
        model: left as it is.
        batch_size: windows in a step.
        window_length: T + 1 characters.
    """
    try:
        shapes = copy.deepcopy(model).to("meta")
        window = torch.zeros(batch_size, window_length, dtype=torch.long, device="meta")
        with FlopCounterMode(display=False) as counter:
            shapes.loss(window).backward()
        return counter.get_total_flops() or None
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return None
