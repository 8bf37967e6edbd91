"""Where the cells of a study run: on this machine, on a SLURM cluster, or on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from charlab.studies.plan import Cell


class Executor(Protocol):
    """Runs cells and knows nothing else of a study.

    Attributes:
        at_once: how many cells run at a time, as far as known: for estimates, and for a search to ask for as many.
    """

    at_once: int

    def check(self, output_dir: Path) -> None:
        """Raise a `UserError` if cells cannot run with their outputs in this folder."""

    def run(self, study: Path, cells: Sequence[Cell]) -> None:
        """Run cells; return when each has ended or the study was stopped.

        Args:
            study: the study's folder, with the cells' files.
            cells: those to run, in this order.

        Raises:
            KeyboardInterrupt: on Ctrl-C; all cells have been ended then.
            UserError: if no cell could be started.
        """
