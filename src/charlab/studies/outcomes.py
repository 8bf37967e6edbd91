"""How the latest attempt at each cell of a study ended, and the locks that show whether a process is running it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import filelock

from charlab.errors import UserError
from charlab.studies.plan import Cell, write_json

STOP_FILE = "stop"  # while it is in the study's folder, no more cells start
GONE = "The process that ran it is gone, perhaps with its job or machine; the study's command resumes it."
SECONDS_TO_PROBE = 2.0  # a status check holds a lock for a moment, so a sweep waits this long for its own

Fate = Literal["running", "finished", "diverged", "failed", "killed", "timed out", "interrupted"]


def cell_path(study: Path, cell: Cell, suffix: str) -> Path:
    """Return a file of a cell: `.yaml` its configuration, `.json` its outcome, `.log` its output, `.lock` its lock."""
    return study / "cells" / cell.arm / f"{cell.seed}{suffix}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell's latest attempt: what the run's own record does not say about it.

    Attributes:
        fate: "killed" by a signal (out of memory, for instance), "timed out" by the study's limit, "interrupted" by
            the user or by the end of the study's process; "failed" if it raised an error or exited early.
        reason: one sentence or the end of a traceback; empty if the cell is running or has finished.
        seconds: duration of the process, including startup.
        exit_code: exit code of the process; negative for a signal; None while it runs.
        started: start time (ISO 8601, UTC).
    """

    fate: Fate
    reason: str = ""
    seconds: float = 0.0
    exit_code: int | None = None
    host: str = ""
    process: int | None = None
    started: str = ""

    def save(self, study: Path, cell: Cell) -> None:
        """Write the outcome into the study's folder, atomically."""
        write_json(cell_path(study, cell, ".json"), asdict(self) | {"run": cell.run, "code": cell.code})

    @classmethod
    def load(cls, study: Path, cell: Cell) -> Outcome | None:
        """Read the outcome of a cell's run; None if it was never started or the file cannot be read.

        A killed watcher cannot record that its cell has ended, so "running" counts only while the cell's lock is held.
        """
        held = is_held(cell_path(study, cell, ".lock"))  # first, so that a cell that ends in between is read as ended
        try:
            values = json.loads(cell_path(study, cell, ".json").read_text(encoding="utf-8"))
            run, code = values.pop("run", cell.run), values.pop("code", cell.code)
            outcome = cls(**values)
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        if run != cell.run:  # the outcome of another run, such as one by other code
            return None
        if outcome.fate == "failed" and code != cell.code:  # perhaps it refused because of an edit
            return None
        if outcome.fate == "running" and not held:
            return replace(outcome, fate="interrupted", reason=GONE)
        return outcome


def allows_more(time_limit: float | None, seconds: float | None) -> bool:
    """Return whether a time limit allows a tenth more than the seconds after which an earlier one ended a cell."""
    return time_limit is None or (seconds is not None and time_limit > 1.1 * seconds)


def last_line(reason: str) -> str:
    """Return the last line of a reason, which names the error in a traceback."""
    return reason.strip().rpartition("\n")[2].strip()


def held(path: Path, *, timeout: float = -1) -> AbstractContextManager[object]:
    """Lock a file until the context ends; the system releases the lock even if its holder is killed.

    Args:
        path: the lock file, which remains afterwards.
        timeout: seconds to wait for another holder; negative to wait forever.

    Raises:
        TimeoutError: if the lock is still held after `timeout` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(path).acquire(timeout=timeout)


def is_held(path: Path) -> bool:
    """Return whether the lock of a file is held; False if the file does not exist, True if that is unknown."""
    try:
        if not path.exists():
            return False
        with held(path, timeout=0):
            return False
    except OSError:  # includes TimeoutError
        return True


def sweeping(study: Path) -> AbstractContextManager[object]:
    """Lock a study's folder against a second sweep."""
    try:
        return held(study / "sweep.lock", timeout=SECONDS_TO_PROBE)
    except TimeoutError:
        told = f"Another process is running the study in {study} right now: wait for it, or end it."
        raise UserError(told) from None
