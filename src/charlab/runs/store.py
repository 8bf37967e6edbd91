"""Where runs are, and which of them answers for a configuration: the one place that looks for runs."""

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
CHANGES_SHOWN = 3  # modules that are named where code differs


@dataclass(frozen=True)
class Place:
    """The folder of a run, and what is known there of it.

    Attributes:
        folder: where it is or will be.
        identity: the run's.
        record: what the folder holds; None if the run has yet to begin.
        others: records beside it of the same fingerprint by other code, the latest last.
    """

    folder: Path
    identity: Identity
    record: Record | None = None
    others: tuple[Record, ...] = ()

    @property
    def finished(self) -> Record | None:
        """The record that answers for the run: finished, by this code, and with its checkpoint; None if none does."""
        record, identity = self.record, self.identity
        if record is None or record.status != "finished" or not (self.folder / CHECKPOINT).is_file():
            return None
        same = record.fingerprint == identity.fingerprint and record.is_by(identity.code)
        return record if same else None


def place(config: DictConfig, identity: Identity | None = None) -> Place:
    """Return where the run of a configuration is, or will be, below its `output_dir`.

    Runs of equal fingerprint are neighbors: the first has the folder FINGERPRINT, those by other code
    FINGERPRINT-CODE.

    Args:
        config: a composed `conf/train.yaml`.
        identity: of the run, if it is known already.

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
    """Return what is known of a configuration's run in a given folder, the only one that is looked at.

    Where it is the folder that `place` names, its neighbors are known as well.

    Raises:
        UserError: as `place` does, or if the folder holds a record that cannot be read.
    """
    identity = identify(config)
    usual = place(config, identity)
    if usual.folder.absolute() == folder.absolute():
        return Place(folder, identity, usual.record, usual.others)
    return Place(folder, identity, Record.load(folder) if (folder / FILE_NAME).exists() else None)


def neighbors(folder: Path) -> list[Record]:
    """Return the readable records in `folder` and in those whose names go on with the hash of a code, by age."""
    records = []
    for candidate in [folder, *folder.parent.glob(f"{folder.name}-*")]:
        with contextlib.suppress(UserError):
            records.append(Record.load(candidate))
    return sorted(records, key=_when)


def _when(record: Record) -> str:
    return record.finished or record.started or ""


def answer(config: DictConfig, folder: Path, console: Console | None = None) -> Record | None:
    """Return the finished record of a configuration's run and print its table; None if the run is to be trained.

    Neither torch nor Lightning is imported where the configuration or the machine leaves no choice of device.

    Args:
        config: a composed `conf/train.yaml`.
        folder: of the run.
        console: where to print; standard output by default.

    Raises:
        UserError: as `at` does, or if the folder holds a run that this one may neither continue nor replace.
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
    """Print the table of a run that is finished already."""
    from charlab.runs.summary import print_summary  # only where there is something to show

    console.print("This run is finished already (force=true trains it again):", soft_wrap=True)
    console.print(str(record.folder), soft_wrap=True, markup=False, highlight=False)
    if record.begun_by:
        console.print(f"It was begun by other code ({', '.join(record.begun_by)}).", highlight=False)
    print_summary(record, console)


def announce(found: Place, config: DictConfig, console: Console) -> None:
    """Say what there is already of a run that is about to be trained, and which of its members other code has made."""
    record, identity = found.record, found.identity
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
            f"Other code has {_did(other)} this run ({_differences(other, identity)}): it is kept in {other.folder}, "
            f"and the run is trained anew in {found.folder}.{hint}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    if record is not None and record.status == "finished" and not (found.folder / CHECKPOINT).is_file():
        console.print(
            f"The finished run in {found.folder} has lost its checkpoint: it is trained again.",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )


def check_resumable(found: Place, config: DictConfig) -> None:
    """Check that a run may go on, or begin, in its folder.

    Raises:
        UserError: if the folder holds another run, or one that this code or this division of the batch may not resume.
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
            f"Other code has {_did(record)} the run in {folder} ({_differences(record, identity)}): "
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


def _differences(record: Record, identity: Identity) -> str:
    """Return in words what differs between the code of a record and that of today."""
    names = changed(record.sources, identity.sources) if record.sources else []
    if not names:
        return f"code {record.code}, today {identity.code}"
    return _listed(names)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - CHANGES_SHOWN} more" if len(names) > CHANGES_SHOWN else ""
    return f"changed since: {', '.join(names[:CHANGES_SHOWN])}{more}"


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


def clear(folder: Path) -> None:
    """Removes what an earlier run has left, so that it is done again; Hydra's files are the new run's already."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.name != ".hydra":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# The folder of a run is named by its identity; Hydra resolves that before the run begins.
register_resolver("fingerprint", lambda *, _root_: place(_root_).folder.name)
