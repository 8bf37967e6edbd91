"""Count the floating-point operations of a training step, and look up the peak rate of a device."""

from __future__ import annotations

import copy
import warnings

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from torch.utils.flop_counter import FlopCounterMode

from charlab.models.contract import LanguageModel


def count_flops(model: LanguageModel, *, batch_size: int, window_length: int) -> int | None:
    """Return the floating-point operations of one forward and backward pass; a multiply-add counts as two.

    Torch counts matrix products, convolutions and attention, which are nearly all of the work. The pass runs on a copy
    of the model on the meta device, which holds shapes but no values.

    Args:
        model: the model, which is not changed.
        batch_size: windows in the batch.
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
    except Exception:  # a user's model may raise any; if training raises it too, the run reports it
        return None


def peak_flops(device: torch.device, precision: str) -> int | None:
    """Return a device's peak floating-point operations per second, from its data sheet; None if unknown.

    Args:
        device: the device; only NVIDIA's are known.
        precision: Lightning's name for the precision.
    """
    if device.type != "cuda":
        return None
    kinds = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(FLOPs not found|does not support).*")
        return get_available_flops(device, kinds.get(precision.partition("-")[0], torch.float32))
