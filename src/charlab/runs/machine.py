"""What is known of the machine that a run is on."""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Any

import torch
from lightning.pytorch import Trainer


def describe_machine(device: torch.device, trainer: Trainer) -> dict[str, Any]:
    """Returns a record's entry on the machine: what the run computes on, and with how much of it."""
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
    }


def peak_memory(device: torch.device) -> int:
    """Returns the most bytes that were in use so far: of the device on a GPU, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor() -> str:
    """Returns the processor's name, as far as the system tells."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"
