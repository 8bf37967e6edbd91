"""Find runs by configuration or by name, in the folder of outputs and in the archive. No other module does this."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from charlab.configuration.compose import register_resolver
from charlab.configuration.overrides import concerns_sweep, key_of, text_of
from charlab.errors import UserError
from charlab.quantities import joined
from charlab.runs.archive import Archive
from charlab.runs.code import changed
from charlab.runs.folder import CHECKPOINT, SAMPLES, find_folder
from charlab.runs.identity import Identity, identify
from charlab.runs.record import FILE_NAME, Record

if TYPE_CHECKING:
    import pandas as pd

OUTPUTS = Path("outputs")  # where to look for a run that is named by its fingerprint
CHANGES_SHOWN = 3  # changed modules named in a message


# --- Runs by name ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run that the store found.

    Attributes:
        record: its record.
        archive: the archive that holds it; None if it has a folder of its own, `record.folder`.
    """

    record: Record
    archive: Archive | None = None

    @property
    def folder(self) -> Path | None:
        """The run's folder; None if only the archive holds it."""
        return self.record.folder if self.archive is None else None

    def curves(self) -> pd.DataFrame:
        """Return its measurements, with the columns `charlab.curves.COLUMNS`."""
        if self.archive is not None:
            return self.archive.curves(self.record)
        return self.record.curves()

    def sample(self) -> str:
        """Return the text that it sampled when it finished; "" if there is none."""
        if self.archive is not None:
            return self.archive.sample(self.record)
        path = self.record.folder / SAMPLES
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def run_at(path: Path) -> Run:
    """Return the run in a folder, or in an archive as ARCHIVE/NAME/FINGERPRINT."""
    if not (path / FILE_NAME).exists():
        archive = Archive(path.absolute().parent.parent)
        record = archive.record(f"{path.absolute().parent.name}/{path.name}")
        if record is not None:
            return Run(record, archive)
    return Run(Record.load(path))


class Store:
    """The runs in a folder of outputs, and those that are kept in a folder of records.

    Args:
        output_dir: folder of all outputs.
        records: folder of kept runs, as an archive or as folders; None for no further runs.
    """

    def __init__(self, output_dir: Path, records: Path | None = None) -> None:
        self.home, self.records = output_dir / "runs", records
        self.archive = Archive(records) if records is not None else None

    def folder(self, run: str) -> Path:
        """Return the folder that a run NAME/FOLDER has, or would have, among the outputs."""
        return self.home / run

    def find(self, run: str) -> tuple[list[Run], dict[Path, str]]:
        """Return the runs known as NAME/FOLDER, the one in the outputs first, and the errors of unreadable ones."""
        found, unreadable = [], {}
        for home in (self.home, self.records):
            if home is not None and (home / run / FILE_NAME).exists():
                try:
                    found.append(Run(Record.load(home / run)))
                except UserError as error:
                    unreadable[home / run] = str(error)
        archived = self.archive.record(run) if self.archive is not None else None
        return found + ([Run(archived, self.archive)] if archived is not None else []), unreadable

    def all(self) -> Iterator[Record]:
        """Yield the readable records of the outputs, sorted by folder."""
        for path in sorted(self.home.glob(f"*/*/{FILE_NAME}")):
            with contextlib.suppress(UserError, OSError):  # another user's, perhaps
                yield Record.load(path.parent)

    def named(self, run: str | Path) -> Path:
        """Return the folder of the run that a user names: by its folder, or by the beginning of its fingerprint."""
        return find_folder(run, self.home)

    def record_of(self, run: str) -> Record | None:
        """Return the record of a run of the outputs; None if there is no readable one."""
        try:
            return Record.load(self.folder(run))
        except UserError:
            return None


# --- The run of a configuration --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunLocation:
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
        """Whether the run is finished but lacks its checkpoint, although checkpointing was not turned off."""
        if self.record is None or self.record.status != "finished" or (self.folder / CHECKPOINT).is_file():
            return False
        trainer, callbacks = (self.record.config.get(key) or {} for key in ("trainer", "callbacks"))
        return trainer.get("enable_checkpointing") is not False and callbacks.get("checkpointing") is not None

    @property
    def finished(self) -> Record | None:
        """The record, if the run is finished, was trained by this code and has not lost its checkpoint; else None."""
        record, identity = self.record, self.identity
        if record is None or record.status != "finished" or self.has_lost_checkpoint:
            return None
        same = identity.fingerprint in record.fingerprints and record.is_by(identity.code)
        return record if same else None


def locate(config: DictConfig, identity: Identity | None = None) -> RunLocation:
    """Return the location of a configuration's run below `output_dir`.

    Runs with equal fingerprints are neighbors: the first is in the folder FINGERPRINT, those by different code are in
    FINGERPRINT-CODE.

    Args:
        config: a composed `conf/train.yaml`.
        identity: identity of the run, if already known.
    """
    identity = identity or identify(config)
    home = Path(config.output_dir).absolute() / "runs" / config.name
    records = neighbors(home / identity.fingerprint)
    mine = [record for record in records if record.is_by(identity.code)]
    if not mine and config.get("resume") == "any_code":
        mine = [record for record in records if record.status != "finished"]
    if mine:
        record = max(mine, key=lambda record: (record.status == "finished", _when(record)))
        return RunLocation(record.folder, identity, record, tuple(other for other in records if other not in mine))
    first = home / identity.fingerprint
    taken = (first / FILE_NAME).exists()
    folder = home / f"{identity.fingerprint}-{identity.code}" if taken else first
    return RunLocation(folder, identity, None, tuple(records))


def locate_in(folder: Path, config: DictConfig) -> RunLocation:
    """Return the location of a configuration's run in a given folder.

    Its neighbors are included only if the folder is the one that `locate` returns.
    """
    identity = identify(config)
    usual = locate(config, identity)
    if usual.folder.absolute() == folder.absolute():
        return RunLocation(folder, identity, usual.record, usual.others)
    return RunLocation(folder, identity, Record.load(folder) if (folder / FILE_NAME).exists() else None)


def with_extended(overrides: Sequence[str]) -> list[str]:
    """Return the given overrides, preceded by those of the run that `extend=RUN` names, if there is one.

    What concerned only that call, such as force=true or its folder, is left out.
    """
    given = {key_of(override): override for override in overrides}
    run = text_of(given.get("extend", "extend=null"))
    if run == "null":
        return list(overrides)
    output_dir = Path(text_of(given["output_dir"])) if "output_dir" in given else OUTPUTS
    record = Record.load(find_folder(run, output_dir / "runs"))
    left_out = {*given, "force", "resume"}
    kept = [each for each in record.overrides if key_of(each) not in left_out and not concerns_sweep(each)]
    return [*kept, *overrides]


def neighbors(folder: Path) -> list[Record]:
    """Return the readable records in `folder` and in its neighbors FOLDER-CODE, the oldest first."""
    records = []
    for candidate in [folder, *folder.parent.glob(f"{folder.name}-*")]:
        with contextlib.suppress(UserError):
            records.append(Record.load(candidate))
    return sorted(records, key=_when)


def _when(record: Record) -> str:
    return record.finished or record.started or ""


def check_resumable(found: RunLocation, config: DictConfig) -> None:
    """Check that a run may start or resume in its folder.

    Raises:
        UserError: if the folder contains a different run, one that cannot be resumed with the current code or
            `accumulate_grad_batches`, or a checkpoint without a record.
    """
    record, identity, folder = found.record, found.identity, found.folder
    if record is None:
        if (folder / CHECKPOINT).exists() and config.get("extend") is None:  # an extended run begins with a copy
            raise UserError(
                f"{folder} has a checkpoint but no {FILE_NAME}, so it is not known which code trained it: restore the "
                f"record, or remove {CHECKPOINT} to train from the start."
            )
        return
    if identity.fingerprint not in record.fingerprints:
        raise UserError(
            f"{folder} holds another run, {record.name} with the fingerprint {record.fingerprint}: choose another "
            "hydra.run.dir, or replace it with force=true."
        )
    if record.status == "tried":
        return  # it is trained again in any case
    begun = record.status != "finished"
    if not record.is_by(identity.code) and not (begun and config.get("resume") == "any_code"):
        way = "resume it with resume=any_code, " if begun else ""
        raise UserError(
            f"The run in {folder} was {status_word(record)} by different code ({differences(record, identity)}): "
            f"{way}choose another hydra.run.dir, or replace it with force=true."
        )
    former = (record.config.get("trainer") or {}).get("accumulate_grad_batches") or 1
    now = config.trainer.get("accumulate_grad_batches") or 1
    if begun and former != now and (folder / CHECKPOINT).exists():
        raise UserError(
            f"The run in {folder} was started with trainer.accumulate_grad_batches={former}, not {now}: give that "
            "value again, or start over with force=true."
        )


def status_word(record: Record) -> str:
    """Return "finished", or "started" if the run is not."""
    return "finished" if record.status == "finished" else "started"


def differences(record: Record, identity: Identity) -> str:
    """Return a description of the differences between a record's code and the current code."""
    names = changed(record.sources, identity.sources) if record.sources else []
    if not names:
        return f"code {record.code}, today {identity.code}"
    return changes(names)


def changes(names: Sequence[str]) -> str:
    """Return a description of changed sources: "changed since: a, b, c and 2 more"."""
    return f"changed since: {joined(names, most=CHANGES_SHOWN)}"


# `hydra.run.dir` depends on the run's identity, and Hydra resolves it before the run starts.
register_resolver("fingerprint", lambda *, _root_: locate(_root_).folder.name)
