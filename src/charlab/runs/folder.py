"""The folder of a run: which files it holds, and the lock under which they are written."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock

from charlab.command import command
from charlab.curves import FILE_NAME as CURVES
from charlab.errors import UserError
from charlab.files import advice, remove_leftovers
from charlab.quantities import joined
from charlab.runs.record import FILE_NAME

CHECKPOINT = Path("checkpoints") / "last.ckpt"
SAMPLES, EXPORT = "samples.txt", "export"
EVENTS = ("*seed=*/events.out.tfevents.*", "events.out.tfevents.*")
"""TensorBoard's events. Runs of earlier versions have them in the run's folder itself."""

HYDRA = tuple(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))
WRITTEN = (
    *(str(CHECKPOINT), "checkpoints/*.ckpt", "definitions.py", CURVES, "nll.npy", SAMPLES, "loss.png"),
    *("attention/*.png", *EVENTS, "lightning_logs/*", f"{EXPORT}/*", FILE_NAME),
)
"""What a run writes into its folder, apart from Hydra's files. No other file of an existing folder is removed.

Files are removed in this order: if that is interrupted, nothing is left from which another run would resume, and the
record says whose the rest is.
"""

TRACKERS = ("mlruns", "wandb")  # folders that several runs may share


def find_folder(run: str | Path, home: Path) -> Path:
    """Return the folder of the run that a user names: by its folder, or by the beginning of its fingerprint in `home`.

    Raises:
        UserError: if no run, or more than one, has that name.
    """
    if not str(run):  # an unset variable: every fingerprint begins with it, so it would name the only run
        way = f"give its folder or the beginning of its fingerprint; {command('runs')} lists all runs"
        raise UserError(f"No run is named: {way}.")
    for folder in (Path(run), home / run):
        if (folder / FILE_NAME).exists():
            return folder
    is_name = Path(run).name == str(run)  # every fingerprint would begin with ./ or / as well
    found = sorted(path.parent for path in home.glob(f"*/{glob.escape(str(run))}*/{FILE_NAME}")) if is_name else []
    if not found:
        seen = f"neither a folder with a {FILE_NAME} nor the beginning of a fingerprint in {home}"
        raise UserError(f"There is no run {run}, which is {seen}: {command('runs')} lists all runs.")
    exact = [folder for folder in found if folder.name == str(run)]
    if len(found) > 1 and len(exact) != 1:
        names = [f"{folder.parent.name}/{folder.name}" for folder in found]
        raise UserError(f"{run} could be {joined(names, 'or', most=4)}: give more digits, or the folder.")
    return exact[0] if exact else found[0]


def events_folder(folder: Path) -> Path | None:
    """Return the folder of TensorBoard's events in a run's folder; None if there are none."""
    return next((path.parent for path in _matching(folder, EVENTS)), None)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder, so that two processes never train the same run at once.

    If a `UserError` ends the run before its record is written, what it wrote is removed, and nothing else.
    """
    lock = _lock(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        way = "wait for it, or change the seed"
        if isinstance(lock, filelock.SoftFileLock):  # on a file system without locks, where a kill leaves the file
            way = f"wait for it, change the seed or, if it was killed on another machine, remove {lock.lock_file}"
        raise UserError(f"Another process is training {folder} right now: {way}.") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): choose another output_dir.") from error
    own = (*WRITTEN, *TRACKERS)
    before = set(_matching(folder, own))
    try:
        yield
    except UserError:
        if not (folder / FILE_NAME).exists():  # the run never started
            _remove(folder, [path for path in _matching(folder, own) if path not in before])
            _remove(folder, _matching(folder, HYDRA))  # written for this run just before it began
        raise
    finally:
        with contextlib.suppress(OSError):  # Windows refuses it; there, the release removes the file
            os.unlink(lock.lock_file)  # safe, because no process waits for this lock
        lock.release()
        with contextlib.suppress(OSError):
            for made in (folder, *folder.parents[:3]):  # outputs/runs/NAME
                made.rmdir()  # fails unless empty, that is, unless the run never started


def _lock(folder: Path) -> filelock.FileLock:
    """Return the lock of a run's folder, the same if the folder is named by a link, such as a study's to its runs."""
    own = folder.resolve()
    return filelock.FileLock(own.parent / f".{own.name}.lock", timeout=0)


def is_locked(folder: Path) -> bool:
    """Return whether a process is training the run in a folder."""
    lock = _lock(folder)
    if not os.path.exists(lock.lock_file):
        return False
    try:
        with lock:
            return False
    except (filelock.Timeout, OSError):
        return True


def remove(folder: Path) -> None:
    """Delete a run: what it wrote into its folder, and the folder if nothing else is in it."""
    try:
        with locked(folder):
            remove_leftovers(folder, WRITTEN)
            _remove(folder, _matching(folder, (*TRACKERS, *HYDRA, *WRITTEN)))
    except OSError as error:
        raise UserError(f"{folder} cannot be deleted ({error.strerror}): {advice(error)}.") from error


def clear(folder: Path) -> None:
    """Remove an earlier run's files, if the folder has its record; never a file that a run does not write.

    Without a record, only the checkpoint is removed, from which a new run would resume if it is killed early.
    Hydra's files stay: they already belong to the new run.
    """
    if (folder / FILE_NAME).exists():
        _remove(folder, _matching(folder, WRITTEN))
    else:
        (folder / CHECKPOINT).unlink(missing_ok=True)


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files and folders that match any of the patterns, each once, in the order of the patterns."""
    return list(dict.fromkeys(path for pattern in patterns for path in folder.glob(pattern)))


def _remove(folder: Path, paths: Sequence[Path]) -> None:
    """Remove files and folders below a run's folder, and the folders that this leaves empty."""
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for parent in {path.parent for path in paths} | {folder / "checkpoints"}:
        if parent != folder:
            with contextlib.suppress(OSError):
                parent.rmdir()  # fails unless empty
