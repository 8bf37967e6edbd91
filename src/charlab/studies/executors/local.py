"""Run cells on this machine with a pool of threads, each watching one process at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Self

from charlab.quantities import count
from charlab.studies.executors import Executor, physical_core, share, usable_cores, visible_gpus
from charlab.studies.forks import Forks
from charlab.studies.plan import Cell, Plan
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
        cores, gpus = len({physical_core(core) for core in usable_cores()}), visible_gpus() if gpu else []
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
        plan, stopped = Plan.load(study), Event()
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="cell") as pool:

            def run_in_slot(cell: Cell) -> None:
                forked = sys.platform == "linux" and cell.processes == 1
                start = self._forks.start if forked else start_interpreter
                slot = slots.get()
                try:
                    run_cell(study, cell.key, slot, start=start, stopped=stopped, plan=plan)
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
