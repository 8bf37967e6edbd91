"""Executors that run the cells of a study, and the cores and GPUs of this machine, which they share among cells."""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from charlab.errors import UserError
from charlab.studies.plan import Cell
from charlab.studies.runner import Slot


class Executor(ABC):
    """Run the cells of a study.

    As a context manager, start what all cells share while the study is planned, and end it when the block exits.

    Attributes:
        at_once: number of cells that run at a time, if known; for time estimates and the batches of a search.
    """

    at_once: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:  # noqa: B027  (many executors have nothing to end)
        pass

    def check(self, output_dir: Path) -> None:  # noqa: B027
        """Check that cells can run with their outputs in this folder; by default, any folder will do."""

    def competition(self, *, gpu: bool) -> str | None:
        """Return why cells that run at the same time slow each other down; None if each has cores of its own."""
        return None

    @abstractmethod
    def run(self, study: Path, cells: Sequence[Cell]) -> None:
        """Run cells; return when all have ended or the study was stopped.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after all cells have ended.
        """


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
    return sorted(os.sched_getaffinity(0), key=lambda core: (*physical_core(core), core))


def physical_core(core: int) -> tuple[int, int]:
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
    asked = ["nvidia-smi", "--list-gpus"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:  # of a GPU that has failed
        raise UserError(
            "nvidia-smi has not answered for a minute: repair the driver, or set CUDA_VISIBLE_DEVICES to the GPUs to "
            "use, or to nothing for none."
        ) from None
    return [str(index) for index, _ in enumerate(line for line in listed.stdout.splitlines() if line[:3] == "GPU")]
