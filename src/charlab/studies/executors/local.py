"""Run cells on this machine with a pool of threads, each watching one process at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Self

from charlab.quantities import count
from charlab.studies.executors import Executor
from charlab.studies.forks import Forks
from charlab.studies.plan import Cell
from charlab.studies.runner import Slot, run_cell, start_interpreter
from charlab.types import PositiveInt


class Local(Executor):
    """Run cells on this machine, sharing its cores and GPUs among those that run at the same time.

    Args:
        at_once: number of cells that run at a time; None for one per core.
    """

    def __init__(self, *, at_once: PositiveInt | None) -> None:
        self.at_once = at_once or len(usable_cores())
        self._forks = Forks()

    def __enter__(self) -> Self:
        if sys.platform == "linux":
            self._forks.prepare()
        return self

    def __exit__(self, *exception: object) -> None:
        self._forks.close()

    def competition(self, *, gpu: bool) -> str | None:
        """Return why cells slow each other down; see `Executor`."""
        cores, gpus = len({_place(core) for core in usable_cores()}), visible_gpus() if gpu else []
        if self.at_once > cores:
            shared, most = count(cores, "core"), cores
        elif self.at_once > len(gpus) > 0:
            shared, most = count(len(gpus), "GPU"), len(gpus)
        else:
            return None
        return f"{self.at_once} cells at a time would compete for {shared}: give launcher.at_once={most}"

    def run(self, study: Path, cells: Sequence[Cell]) -> None:
        """Run cells; see `Executor`."""
        cores, gpus = usable_cores(), visible_gpus() if self.at_once > 1 else []
        slots: SimpleQueue[Slot] = SimpleQueue()
        for index in range(self.at_once):
            slots.put(share(index, self.at_once, cores, gpus))
        stopped = Event()
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="cell") as pool:

            def run_in_slot(cell: Cell) -> None:
                forked = sys.platform == "linux" and cell.processes == 1
                start = self._forks.start if forked else start_interpreter
                slot = slots.get()
                try:
                    run_cell(study, cell.key, slot, start=start, stopped=stopped)
                finally:
                    slots.put(slot)

            running = [pool.submit(run_in_slot, cell) for cell in cells]
            try:
                wait(running)
            except BaseException:
                stopped.set()
                raise
        for cell in running:
            cell.result()


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
    return sorted(os.sched_getaffinity(0), key=lambda core: (*_place(core), core))


def _place(core: int) -> tuple[int, int]:
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
