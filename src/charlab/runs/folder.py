"""The folder of a run: one process at a time, and nothing is left of what never began."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from charlab.errors import UserError
from charlab.runs.record import FILE_NAME, Record


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps two processes from training the same run at once.

    A folder without a record is removed again when the user's mistake ends the run.

    Raises:
        UserError: if another process has it, or it cannot be made.
    """
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(f"Another process is training {folder} right now: wait for it, or change the seed.") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): choose another output_dir.") from error
    try:
        yield
    except UserError:
        if not (folder / FILE_NAME).exists():  # it never began: leave nothing half-written
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # nobody waits for it: whoever finds it taken gives up at once
        lock.release()
        with contextlib.suppress(OSError):
            for made in folder.parents[:3]:  # outputs/runs/NAME
                made.rmdir()  # only if it is empty: the run never began


def finished_record(folder: Path) -> Record | None:
    """Returns the record of a run that is done, None if the run is to be begun or continued.

    Raises:
        UserError: if there is a record that cannot be read.
    """
    if not (folder / FILE_NAME).exists():
        return None
    record = Record.load(folder)
    return record if record.status == "finished" else None


def clear(folder: Path) -> None:
    """Removes what an earlier run has left, so that it is done again; Hydra's files are the new run's already."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.name != ".hydra":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
