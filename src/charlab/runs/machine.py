"""What a run ran on: the machine, the versions of the libraries, and the commit of the working folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

import torch
from lightning.pytorch import Trainer

from charlab.training.flops import peak_flops


def describe_machine(device: torch.device, trainer: Trainer) -> dict[str, Any]:
    """Return the record's entry `machine`: device, precision, threads and processes."""
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "precision": str(trainer.precision),
        "peak_flops": peak_flops(device, str(trainer.precision)),
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory use in bytes: of the device on a GPU, of the process otherwise; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor() -> str:
    """Return the name of the processor; "CPU" if the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that affect a run's numbers."""
    libraries = ("charlab", "torch", "lightning", "hydra-core", "omegaconf", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in libraries}


def git_commit() -> str | None:
    """Return the commit of the repository in the working folder, with "+changes" if files differ; None outside one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
