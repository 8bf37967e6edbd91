"""Resolve the device and the precision that `auto` means on this machine."""

from __future__ import annotations

from typing import Literal

import torch

from charlab.errors import UserError

Accelerator = Literal["auto", "cpu", "gpu", "mps"]


def resolve_device(accelerator: str) -> Literal["cpu", "cuda", "mps"]:
    """Return the device type that `accelerator` means on this machine.

    Raises:
        UserError: if torch can use no such device.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    present = {"cpu": True, "gpu": cuda, "mps": mps, "auto": True}
    accelerator = {"cuda": "gpu"}.get(accelerator, accelerator)
    if not present.get(accelerator):
        choices = ", ".join(name for name, is_present in present.items() if is_present)
        raise UserError(f"There is no {accelerator} on this machine that torch can use: choose one of {choices}.")
    if accelerator == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    return "cuda" if accelerator == "gpu" else accelerator  # type: ignore[return-value]


def resolve_precision(precision: str | int | None, device: str) -> str:
    """Return the precision of a run, by Lightning's name.

    "auto" is 32-true on a CPU and on mps, bf16-mixed on a GPU with native bfloat16, and 16-mixed (with loss scaling)
    on an older GPU such as a T4.

    Raises:
        UserError: if the device does not support the precision.
    """
    aliases = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "None": "32-true"}
    name = aliases.get(str(precision), str(precision))
    if name == "64-true" and device == "mps":
        raise UserError("trainer.precision=64-true does not exist on mps: choose 32-true, or trainer=cpu.")
    if name.startswith("16") and device == "cpu":
        raise UserError(f"trainer.precision={name} is for GPUs: choose 32-true or bf16-mixed on a CPU.")
    if name != "auto":
        return name
    if device != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
