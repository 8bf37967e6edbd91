"""What this machine offers a run: its device and precision, threads and memory."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

import torch

from charlab.errors import UserError

MOST_THREADS = 256  # on fewer cores too, so that a command for a larger machine can be tried on a small one


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
    """Return the precision of a run, as Lightning names it.

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


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step, which needs the same amount.

    By default glibc returns large blocks to the system, which zeroes every page when it is used again. That takes a
    seventh of each step of a small transformer. Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # parameters of mallopt(3), from malloc.h
        largest = 2**31 - 1
        for threshold in (32 * 2**20, largest):  # some versions of glibc refuse the larger one
            mallopt(mmap_threshold, threshold)
        mallopt(trim_threshold, largest)


_threads_before: list[int] = []  # the number of threads before a run set another; empty if none has


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads that torch uses; None means what it was before a run of this process set it.

    Raises:
        UserError: if `threads` exceeds both `MOST_THREADS` and the number of cores.
    """
    if threads is None:
        if _threads_before:
            torch.set_num_threads(_threads_before.pop())
    else:
        cores = os.cpu_count() or 1
        if threads > max(MOST_THREADS, cores):
            raise UserError(
                f"compute.threads={threads} is far more than the {cores} cores of this machine, and would slow "
                f"training down: set at most {cores}."
            )
        if not _threads_before:
            _threads_before.append(torch.get_num_threads())
        torch.set_num_threads(threads)
