"""Which of the wanted runs are in the records: by today's code, by earlier code, or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from charlab.configuration.compose import Composer, leave_out_sweep, resolve_values
from charlab.configuration.sources import hydra_config
from charlab.errors import UserError
from charlab.runs.archive import Archive
from charlab.runs.identity import fingerprint
from charlab.runs.record import Record
from tools.results.wanted import Wanted

OVERHEAD = 1.3  # of a run over its budget: start, evaluation, final figures
PASSING = ("seed=", "force=", "output_dir=", "at_end=")  # overrides that do not distinguish arms

Status = Literal["current", "stale", "missing"]


@dataclass(frozen=True)
class State:
    """The state of a wanted run.

    Attributes:
        status: current if a record holds it by today's code; stale if one holds it by other code, or holds the run that
            the same command used to make; else missing.
        record: the record; None if it is missing.
    """

    wanted: Wanted
    status: Status
    record: Record | None = None

    @property
    def seconds(self) -> float | None:
        """How long the run is expected to take; None if unknown."""
        if self.record is not None:
            return sum(self.record.time.values())
        return None if self.wanted.seconds is None else OVERHEAD * self.wanted.seconds

    @property
    def is_same_run(self) -> bool:
        """Whether the record's configuration is today's as far as is known, so that its figures may hold today."""
        record = self.record
        return record is not None and (not record.sources or self.wanted.fingerprint in record.fingerprints)


def states(wanted: Sequence[Wanted], archive: Archive) -> list[State]:
    """Return the state of each wanted run."""
    kept = {run.key: archive.record(run.key) for run in wanted}
    absent = [run for run in wanted if kept[run.key] is None]
    former = _formerly(absent, archive.records()) if absent else {}
    return [_state(run, kept[run.key] or former.get(run.key)) for run in wanted]


def current(wanted: Iterable[Wanted], archive: Archive) -> set[str]:
    """Return the records by today's code, as NAME/FINGERPRINT."""
    found = [_state(run, archive.record(run.key)) for run in wanted]
    return {f"{s.record.name}/{s.record.fingerprint}" for s in found if s.record and s.status == "current"}


def has_figure(record: Record, figure: str) -> bool:
    """Return whether a record has a figure that is shown, measured in that way; see `Item`."""
    protocol, *settings = figure.split()
    asked = {"protocol": protocol, "split": "validation"} | dict(setting.split("=") for setting in settings)
    return any(all(_equal(entry.get(key), value) for key, value in asked.items()) for entry in record.metrics)


def _equal(value: object, asked: str) -> bool:
    return value == (float(asked) if isinstance(value, float) else asked)


def _state(run: Wanted, record: Record | None) -> State:
    if record is None or not all(has_figure(record, figure) for figure in run.figures):
        return State(run, "missing", record)
    same = run.fingerprint in record.fingerprints and record.is_by(run.code)
    return State(run, "current" if same else "stale", record)


def _formerly(absent: Sequence[Wanted], records: Sequence[Record]) -> dict[str, Record]:
    """Return the records that the commands of absent runs made with earlier code or settings, by the runs' keys.

    A record belongs to a run if its command line means that run today. The configuration of each arm is composed once.
    """
    names, composer, found = {run.name for run in absent}, Composer(), dict[str, Record]()
    commands = {(run.name, run.seed, arm(run.overrides)): run.key for run in absent}
    arms: dict[tuple[str, frozenset[str]], list[Record]] = defaultdict(list)
    for record in records:
        if record.name in names:
            own = arm(composer.prepare(record.overrides))
            if (key := commands.get((record.name, record.seed, own))) is not None:  # without composing it
                found[key] = record
            else:
                arms[record.name, own].append(record)
    for (name, _), of_arm in arms.items():
        try:
            overrides = [given for given in of_arm[0].overrides if not given.startswith(PASSING)]
            config = composer.job(composer.prepare(overrides), build=False)
            with hydra_config(config):
                resolve_values(config)
                leave_out_sweep(config)
                for record in of_arm:
                    config.seed = record.seed
                    found[f"{name}/{fingerprint(config)}"] = record
        except UserError:  # such a configuration no longer exists
            continue
    return found


def arm(overrides: Iterable[str]) -> frozenset[str]:
    """Return the overrides that define a run, except for its seed."""
    return frozenset(given for given in overrides if not given.startswith(PASSING))
