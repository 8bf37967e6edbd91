"""Executors that run the cells of a study on this machine, on a SLURM cluster, or on Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from charlab.studies.plan import Cell


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
