"""Who is at work on a study: locks that the system releases however their holder ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from charlab.errors import UserError
from charlab.studies.plan import Cell

SECONDS_TO_PROBE = 2.0  # for which somebody who only looks whether a lock is held may be in the way


def sweep_lock(study: Path) -> Path:
    """Returns the file that is locked by the one process that sweeps over a study's cells."""
    return study / "sweep.lock"


def cell_lock(study: Path, cell: Cell) -> Path:
    """Returns the file that is locked by the one process that runs a cell."""
    return study / "cells" / cell.arm / f"{cell.seed}.lock"


@contextmanager
def held(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Holds the lock of a file.

    Args:
        path: the file; it stays.
        timeout: seconds to wait for whoever else holds it; without end if negative.

    Raises:
        TimeoutError: if it is still held by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path).acquire(timeout=timeout):
        yield


def is_held(path: Path) -> bool:
    """Returns whether somebody holds the lock of a file; nobody does where there is no file yet."""
    if not path.exists():
        return False
    try:
        with held(path, timeout=0):
            return False
    except (TimeoutError, OSError):
        return True


@contextmanager
def sweeping(study: Path) -> Iterator[None]:
    """Keeps a second sweep away from a study's folder.

    Raises:
        UserError: if there is one.
    """
    lock = held(sweep_lock(study), timeout=SECONDS_TO_PROBE)
    try:
        lock.__enter__()
    except TimeoutError:
        raise UserError(f"Another process is running the study in {study} right now: wait for it, or end it.") from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
