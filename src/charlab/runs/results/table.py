"""The runs that the table of Part 2 is made of: which they are, and which of them are finished."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from charlab.configuration.compose import Composer, hydra_config, resolve_values
from charlab.configuration.location import conf_folder
from charlab.runs.fingerprint import fingerprint
from charlab.runs.record import FILE_NAME, Record

SEEDS = (305, 306, 307)  # of each family that is trained
SHORT, LONG = 60, 300  # seconds of training
THREADS = 2
NUM_LEADERS = 6  # trained families that go on to the long budget
NUM_ONLINE = 3  # of these, those that are evaluated online as well, with the first seed
FLOOR = "ngram_kneser_ney"
COUNTED = "charlab.models.ngram.NGram"


@dataclass(frozen=True)
class Cell:
    """One run of the table.

    Attributes:
        family: an experiment of Part 2.
        seconds: its budget; None for a model that only counts, which needs no budget and no seeds.
        overrides: what `scripts/train.py` needs to make it.
        run: its folder below that of all runs.
    """

    family: str
    seconds: float | None
    overrides: tuple[str, ...]
    run: str

    def __str__(self) -> str:
        return " ".join(self.overrides)


class Homes:
    """Where runs lie: in the folder of the outputs, whole, and among the records that are kept, without checkpoints."""

    def __init__(self, outputs: Path, records: Path) -> None:
        self.outputs, self.runs, self.records = outputs, outputs / "runs", records

    def record(self, cell: Cell) -> Record | None:
        """Returns the record of a run, a finished one if there is any; None if the run was never begun."""
        homes = [home / cell.run for home in (self.runs, self.records) if (home / cell.run / FILE_NAME).exists()]
        return min(map(Record.load, homes), key=lambda record: record.status != "finished", default=None)

    def finished(self, cell: Cell) -> Record | None:
        """Returns the record of a run if that is finished."""
        record = self.record(cell)
        return record if record is not None and record.status == "finished" else None


class Table:
    """The table's runs.

    Args:
        homes: where they are looked for.
        settings: overrides for all of them.

    Attributes:
        short: the runs by each family's own budget.

    Raises:
        UserError: if an experiment does not compose, or the text cannot be found.
    """

    def __init__(self, homes: Homes, settings: Sequence[str] = ()) -> None:
        self.homes, self._settings, self._composer = homes, tuple(settings), Composer()
        self._composer.loader.remember()
        self.short = {family: self._cells(family) for family in families()}

    def long(self, leaders: Sequence[str]) -> dict[str, list[Cell]]:
        """Returns the runs by the long budget."""
        return {family: self._cells(family, f"trainer.max_seconds={LONG}") for family in leaders}

    def _cells(self, family: str, *budget: str) -> list[Cell]:
        shared = (f"experiment=part2/{family}", f"trainer.threads={THREADS}", *self._settings, *budget)
        config = self._composer.job(self._composer.prepare(shared))
        cells = []
        with hydra_config(config):
            resolve_values(config)
            if config.model["_target_"] == COUNTED:
                return [Cell(family, None, shared, f"{config.name}/{fingerprint(config)}")]
            for seed in SEEDS:
                config.seed = seed
                run = f"{config.name}/{fingerprint(config)}"
                cells.append(Cell(family, config.trainer.max_seconds, (*shared, f"seed={seed}"), run))
        return cells

    def leaders(self, failed: Collection[Cell] = ()) -> list[str] | None:
        """Returns the trained families of the lowest mean nll by the short budget, the best first.

        Bounds and models that leak are not ranked, nor are families of which a run has failed.

        Args:
            failed: runs that did not finish, besides those whose records say so.

        Returns:
            None as long as a run has yet to be made.
        """
        means = {}
        for family, cells in self.short.items():
            records = [self.homes.record(cell) for cell in cells]
            finished = [record for record in records if record is not None and record.status == "finished"]
            if cells[0].seconds is None:
                continue
            if len(finished) == len(cells):
                if all(map(_can_lead, finished)):
                    means[family] = mean_nll(finished)
            elif not any(
                cell in failed or (record is not None and record.status in ("failed", "diverged"))
                for cell, record in zip(cells, records, strict=True)
            ):
                return None
        return sorted(means, key=means.__getitem__)[:NUM_LEADERS]

    def online(self, long: Mapping[str, Sequence[Cell]]) -> list[Cell]:
        """Returns the finished runs to be evaluated online: the floor's, and those of the best after the long budget.

        Args:
            long: what `long` has returned.
        """
        means = {}
        for family, cells in long.items():
            finished = [record for record in map(self.homes.finished, cells) if record is not None]
            if len(finished) == len(cells):
                means[family] = mean_nll(finished)
        best = sorted(means, key=means.__getitem__)[:NUM_ONLINE]
        cells = [self.short[FLOOR][0], *(long[family][0] for family in best)]
        return [cell for cell in cells if self.homes.finished(cell) is not None]

    def strangers(self, long: Mapping[str, Sequence[Cell]]) -> list[Path]:
        """Returns the kept records of Part 2 that are no run of the table (any more), but would be on the page."""
        known = {cell.run for cells in (*self.short.values(), *long.values()) for cell in cells}
        kept = (
            path.parent.relative_to(self.homes.records) for path in self.homes.records.glob(f"part2-*/*/{FILE_NAME}")
        )
        return sorted(self.homes.records / run for run in kept if run.as_posix() not in known)


def families() -> list[str]:
    """Returns the experiments of Part 2."""
    names = (path.stem for path in (conf_folder() / "experiment" / "part2").glob("*.yaml"))
    return sorted(name for name in names if not name.startswith("_"))


def mean_nll(records: Sequence[Record]) -> float:
    """Returns the mean nll of runs by blocks."""
    return statistics.mean(record.metric("blocks")["nll"] for record in records)


def is_online(record: Record) -> bool:
    """Returns whether a run has been evaluated online."""
    return any(entry["protocol"] == "online" and entry["split"] == "validation" for entry in record.metrics)


def _can_lead(record: Record) -> bool:
    figures = record.metric("blocks")
    return figures["likelihood"] == "exact" and figures["nll"] is not None and not record.causality.get("leaks")
