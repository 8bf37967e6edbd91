"""What became of a cell's latest attempt, as far as its run's own record cannot tell."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from charlab.files import write_atomically
from charlab.studies.locks import cell_lock, is_held
from charlab.studies.plan import Cell

Fate = Literal["running", "finished", "diverged", "failed", "killed", "timed out", "interrupted"]


@dataclass(frozen=True)
class Outcome:
    """A cell's latest attempt.

    Attributes:
        fate: "killed" by a signal (out of memory, for instance), "timed out" by the study's limit, "interrupted" by
            whoever ran the study; "failed" covers all that raises or exits.
        reason: why, in a sentence or the end of a traceback; empty if it is running or has finished.
        seconds: how long the process took, start-up included.
        exit_code: of the process; negative for a signal; None while it runs.
        host: the machine that it ran on.
        process: its process id there.
        started: when (ISO 8601, UTC).
    """

    fate: Fate
    reason: str = ""
    seconds: float = 0.0
    exit_code: int | None = None
    host: str = ""
    process: int | None = None
    started: str = ""

    def save(self, study: Path, cell: Cell) -> None:
        """Writes the outcome below the study's folder, atomically."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        write_atomically(outcome_path(study, cell), lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, study: Path, cell: Cell) -> Outcome | None:
        """Reads the outcome of a cell; None if it was never attempted or the file cannot be read.

        Whoever died while running a cell could not write that down, so "running" is believed only while somebody
        holds the cell's lock.
        """
        held = is_held(cell_lock(study, cell))  # looked at first: a cell that ends meanwhile is then read as ended
        try:
            outcome = cls(**json.loads(outcome_path(study, cell).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        if outcome.fate == "running" and not held:
            return replace(outcome, fate="interrupted", reason="The process that ran the cell is gone.")
        return outcome


def outcome_path(study: Path, cell: Cell) -> Path:
    """Returns where the outcome of a cell is kept."""
    return study / "cells" / cell.arm / f"{cell.seed}.json"


def log_path(study: Path, cell: Cell) -> Path:
    """Returns where what a cell prints is kept."""
    return study / "cells" / cell.arm / f"{cell.seed}.log"
