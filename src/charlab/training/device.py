"""Which device, and which precision, `auto` stands for on this machine."""

from __future__ import annotations

from typing import Literal

import torch

from charlab.errors import UserError

Accelerator = Literal["auto", "cpu", "gpu", "mps"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "float64"]


def resolve_device(accelerator: Accelerator) -> Literal["cpu", "cuda", "mps"]:
    """Returns the kind of device that `accelerator` stands for on this machine.

    Raises:
        UserError: if it is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = {"cpu": True, "gpu": cuda, "mps": mps, "auto": True}
    if not there[accelerator]:
        present = ", ".join(name for name, is_there in there.items() if is_there)
        raise UserError(f"There is no {accelerator} on this machine that torch can use: choose one of {present}.")
    if accelerator == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    return "cuda" if accelerator == "gpu" else accelerator


def resolve_precision(precision: Precision, device: str) -> Precision:
    """Returns the precision that `precision` stands for on a kind of device.

    "auto" is float32 on CPU and mps, bfloat16 on a GPU that computes with it natively, and float16 with loss
    scaling on one that does not (a T4).

    Raises:
        UserError: if the device cannot compute with it.
    """
    if precision == "float64" and device == "mps":
        raise UserError("trainer.precision=float64 does not exist on mps: choose float32, or trainer=cpu.")
    if precision == "float16" and device == "cpu":
        raise UserError("trainer.precision=float16 is for GPUs: choose float32 or bfloat16 on a CPU.")
    if precision != "auto":
        return precision
    if device != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16"
