"""Count the floating-point operations of a training step, rather than estimate them by a formula."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from charlab.models.contract import LanguageModel


def count_flops(model: LanguageModel, *, batch_size: int, window_length: int) -> int | None:
    """Return the floating-point operations of one forward and backward pass; a multiply-add counts as two.

    Torch counts matrix products, convolutions and attention, which are nearly all of the work, on a copy of the model
    on the meta device, which holds shapes but no values.

    Args:
        model: the model, which is not changed.
        batch_size: windows in a step.
        window_length: characters in a window, T + 1.

    Returns:
        The number of operations; None if the model cannot run on the meta device, or torch cannot count its work.
    """
    try:
        shapes = copy.deepcopy(model).to("meta")
        window = torch.zeros(batch_size, window_length, dtype=torch.long, device="meta")
        with FlopCounterMode(display=False) as counter:
            shapes.loss(window).backward()
        return counter.get_total_flops() or None
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return None
