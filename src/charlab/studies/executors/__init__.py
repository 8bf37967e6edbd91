"""Executors that run the cells of a study on this machine, on a SLURM cluster, or on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from charlab.studies.plan import Cell


class Executor(Protocol):
    """The interface that runs the cells of a study.

    Attributes:
        at_once: number of cells that run at a time, as far as known; for time estimates and the batches of a search.
    """

    at_once: int

    def check(self, output_dir: Path) -> None:
        """Check that cells can run with their outputs in this folder.

        Raises:
            UserError: if they cannot.
        """

    def run(self, study: Path, cells: Sequence[Cell]) -> None:
        """Run cells; return when all have ended or the study was stopped.

        Args:
            study: the study's folder, with the cells' files.
            cells: the cells to run, in this order.

        Raises:
            KeyboardInterrupt: on Ctrl-C, after all cells have ended.
            UserError: if no cell could be started.
        """
