"""Find the run of a configuration. No other module looks for runs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from charlab.configuration.compose import register_resolver
from charlab.errors import UserError
from charlab.runs.code import changed
from charlab.runs.identity import Identity, identify, members_of_other_code
from charlab.runs.record import FILE_NAME, Record

CHECKPOINT = Path("checkpoints") / "last.ckpt"
HYDRA = tuple(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides"))
WRITTEN = (
    *(FILE_NAME, "definitions.py", "metrics.csv", "nll.npy", "samples.txt", "loss.png"),
    *("checkpoints/*.ckpt", "events.out.tfevents.*"),
)
"""What a run writes into its folder, apart from Hydra's files. No other file of an existing folder is removed."""

TRACKERS = ("mlruns", "wandb")  # folders that several runs may share

CHANGES_SHOWN = 3  # changed modules named in a message


@dataclass(frozen=True)
class Place:
    """The folder of a run, and the records found there.

    Attributes:
        folder: the run's folder, which may not exist yet.
        identity: the run's identity.
        record: the record in the folder; None if the run has not started.
        others: records with the same fingerprint by different code, the latest last.
    """

    folder: Path
    identity: Identity
    record: Record | None = None
    others: tuple[Record, ...] = ()

    @property
    def has_lost_checkpoint(self) -> bool:
        """Whether the run is finished and lacks its checkpoint, although it was not told to write none."""
        if self.record is None or self.record.status != "finished" or (self.folder / CHECKPOINT).is_file():
            return False
        trainer, callbacks = (self.record.config.get(key) for key in ("trainer", "callbacks"))
        told = isinstance(trainer, dict) and trainer.get("enable_checkpointing") is False
        return not told and not (isinstance(callbacks, dict) and callbacks.get("checkpointing") is None)

    @property
    def finished(self) -> Record | None:
        """The record, if the run is finished, was trained by this code and has not lost its checkpoint; else None."""
        record, identity = self.record, self.identity
        if record is None or record.status != "finished" or self.has_lost_checkpoint:
            return None
        same = record.fingerprint == identity.fingerprint and record.is_by(identity.code)
        return record if same else None


def place(config: DictConfig, identity: Identity | None = None) -> Place:
    """Return the place of a configuration's run below `output_dir`.

    Runs with equal fingerprints are neighbors: the first is in the folder FINGERPRINT, those by different code are in
    FINGERPRINT-CODE.

    Args:
        config: a composed `conf/train.yaml`.
        identity: identity of the run, if already known.

    Raises:
        UserError: if the corpus cannot be loaded, or a source file cannot be read or was edited since it was loaded.
    """
    identity = identity or identify(config)
    home = Path(config.output_dir).absolute() / "runs" / config.name
    records = neighbors(home / identity.fingerprint)
    mine = [record for record in records if record.is_by(identity.code)]
    if not mine and config.get("resume") == "any_code":
        mine = [record for record in records if record.status != "finished"]
    if mine:
        record = max(mine, key=lambda record: (record.status == "finished", _when(record)))
        return Place(record.folder, identity, record, tuple(other for other in records if other not in mine))
    first = home / identity.fingerprint
    taken = (first / FILE_NAME).exists()
    return Place(home / f"{identity.fingerprint}-{identity.code}" if taken else first, identity, None, tuple(records))


def at(folder: Path, config: DictConfig) -> Place:
    """Return the place of a configuration's run in a given folder.

    Its neighbors are included only if the folder is the one that `place` returns.

    Raises:
        UserError: if the folder contains an unreadable record, or for the reasons given in `place`.
    """
    identity = identify(config)
    usual = place(config, identity)
    if usual.folder.absolute() == folder.absolute():
        return Place(folder, identity, usual.record, usual.others)
    return Place(folder, identity, Record.load(folder) if (folder / FILE_NAME).exists() else None)


def neighbors(folder: Path) -> list[Record]:
    """Return the readable records in `folder` and in its neighbors FOLDER-CODE, the oldest first."""
    records = []
    for candidate in [folder, *folder.parent.glob(f"{folder.name}-*")]:
        with contextlib.suppress(UserError):
            records.append(Record.load(candidate))
    return sorted(records, key=_when)


def _when(record: Record) -> str:
    return record.finished or record.started or ""


def answer(config: DictConfig, folder: Path, console: Console | None = None) -> Record | None:
    """Return the record of a configuration's run and print its table if it is finished; None if it must be trained.

    Neither torch nor Lightning is imported if the configuration or the machine determines the device.

    Args:
        config: a composed `conf/train.yaml`.
        folder: the run's folder.
        console: console to print to; standard output by default.

    Raises:
        UserError: if the folder contains a run that this one may neither resume nor replace, or for the reasons given
            in `at`.
    """
    if config.force:
        return None
    found = at(folder, config)
    if found.finished is not None:
        show(found.finished, console or Console())
        return found.finished
    check_resumable(found, config)
    return None


def show(record: Record, console: Console) -> None:
    """Print the table of a run that is already finished."""
    from charlab.runs.summary import print_summary  # imported only when needed

    console.print("This run is finished already (force=true trains it again):", soft_wrap=True)
    console.print(str(record.folder), soft_wrap=True, markup=False, highlight=False)
    if record.begun_by:
        console.print(f"It was begun by other code ({', '.join(record.begun_by)}).", highlight=False)
    print_summary(record, console)


def announce(found: Place, config: DictConfig, console: Console) -> None:
    """Print which earlier attempts at a run exist, and which of its members were trained by different code."""
    identity = found.identity
    for run, names in members_of_other_code(config).items():
        console.print(
            f"The run {run} was trained by other code ({_listed(names)}): its weights now work in the changed model.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    for other in found.others[-1:]:
        hint = "" if other.status == "finished" else " resume=any_code continues it with today's code."
        console.print(
            f"Other code has {_did(other)} this run ({differences(other, identity)}): it is kept in {other.folder}, "
            f"and the run is trained anew in {found.folder}.{hint}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    if found.has_lost_checkpoint:
        console.print(
            f"The finished run in {found.folder} has lost its checkpoint: it is trained again.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def check_resumable(found: Place, config: DictConfig) -> None:
    """Check that a run may start or resume in its folder.

    Raises:
        UserError: if the folder contains a different run, or one that cannot be resumed with the current code or
            `accumulate_grad_batches`.
    """
    record, identity, folder = found.record, found.identity, found.folder
    if record is None:
        return
    if record.fingerprint != identity.fingerprint:
        raise UserError(
            f"{folder} holds another run, {record.name} with the fingerprint {record.fingerprint}: choose another "
            "hydra.run.dir, or replace it with force=true."
        )
    begun = record.status != "finished"
    if not record.is_by(identity.code) and not (begun and config.get("resume") == "any_code"):
        way = "continue it with resume=any_code, " if begun else ""
        raise UserError(
            f"Other code has {_did(record)} the run in {folder} ({differences(record, identity)}): "
            f"{way}choose another hydra.run.dir, or replace it with force=true."
        )
    former, now = (_accumulation(settings) for settings in (record.config, OmegaConf.to_container(config)))
    if begun and former != now and (folder / CHECKPOINT).exists():
        raise UserError(
            f"The run in {folder} was begun with trainer.accumulate_grad_batches={former}, not {now}: give that "
            "value again, or start anew with force=true."
        )


def _accumulation(config: object) -> object:
    trainer = config.get("trainer") if isinstance(config, dict) else None
    return (trainer.get("accumulate_grad_batches") if isinstance(trainer, dict) else None) or 1


def _did(record: Record) -> str:
    return "finished" if record.status == "finished" else "begun"


def differences(record: Record, identity: Identity) -> str:
    """Return a description of the differences between a record's code and the current code."""
    names = changed(record.sources, identity.sources) if record.sources else []
    if not names:
        return f"code {record.code}, today {identity.code}"
    return _listed(names)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - CHANGES_SHOWN} more" if len(names) > CHANGES_SHOWN else ""
    return f"changed since: {', '.join(names[:CHANGES_SHOWN])}{more}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder, so that two processes never train the same run at once.

    If a `UserError` ends the run before its record is written, what it wrote is removed, and nothing else.

    Raises:
        UserError: if another process holds the lock, or the folder is not writable.
    """
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(f"Another process is training {folder} right now: wait for it, or change the seed.") from error
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
        Path(lock.lock_file).unlink(missing_ok=True)  # safe, because no process waits for this lock
        lock.release()
        with contextlib.suppress(OSError):
            for made in (folder, *folder.parents[:3]):  # outputs/runs/NAME
                made.rmdir()  # fails unless empty, that is, unless the run never started


def clear(folder: Path) -> None:
    """Remove an earlier run's files, if the folder has its record; never a file that a run does not write.

    Hydra's files stay: they already belong to the new run.
    """
    if (folder / FILE_NAME).exists():
        _remove(folder, _matching(folder, WRITTEN))


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern)]


def _remove(folder: Path, paths: Sequence[Path]) -> None:
    """Remove files and folders below a run's folder, and the folders that this leaves empty."""
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for parent in {path.parent for path in paths} | {folder / "checkpoints"}:
        if parent != folder:
            with contextlib.suppress(OSError):
                parent.rmdir()  # fails unless empty


# `hydra.run.dir` depends on the run's identity, and Hydra resolves it before the run starts.
register_resolver("fingerprint", lambda *, _root_: place(_root_).folder.name)
