"""The cores and GPUs of this machine, and their shares among cells that run at the same time."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from charlab.studies.runner import Slot


def share(index: int, count: int, cores: Sequence[int], gpus: Sequence[str] = ()) -> Slot:
    """Return one of `count` shares of these cores and GPUs.

    If there are fewer GPUs than shares, several shares use the same GPU; if there are more, a share has several.
    """
    if count <= len(cores):
        mine = cores[index * len(cores) // count : (index + 1) * len(cores) // count]
    else:
        mine = [cores[index % len(cores)]]
    chosen = (gpus[index::count] or [gpus[index % len(gpus)]]) if gpus else None
    return Slot(len(mine), tuple(mine), ",".join(chosen) if chosen else None)


def usable_cores() -> list[int]:
    """Return the cores that this process may run on, hardware threads of the same core next to each other."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0), key=lambda core: (*place(core), core))


def place(core: int) -> tuple[int, int]:
    """Return the package and the physical core of a hardware thread."""
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        return int((topology / "physical_package_id").read_text()), int((topology / "core_id").read_text())
    except (OSError, ValueError):
        return 0, core


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=False)
    return [str(index) for index, _ in enumerate(line for line in listed.stdout.splitlines() if line[:3] == "GPU")]
