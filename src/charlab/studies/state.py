"""What is known of a study's cells so far, read from their records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from charlab.errors import UserError
from charlab.runs.archive import COLUMNS, Archive
from charlab.runs.record import FILE_NAME, Record
from charlab.studies.costs import BY_BUDGET, COSTS, mismatch
from charlab.studies.outcome import Outcome, cell_lock, is_held
from charlab.studies.plan import Cell, Plan

if TYPE_CHECKING:
    import pandas as pd

    from charlab.studies.verdicts import Comparison, Value

Status = Literal[
    "finished", "diverged", "failed", "killed", "timed out", "interrupted", "running", "missing", "corrupt"
]


@dataclass(frozen=True)
class CellResult:
    """What is known of a cell.

    Attributes:
        cell: which one.
        status: "missing" if it was never started.
        reason: why it has no result, or what is wrong with its files; "" if nothing is.
        record: of its run, however far that got; None if there is no readable one.
        folder: of its run, if that exists.
        archive: where its record was found, if its run has no folder.
        older: whether other code than the plan's made it.
        seconds: how long it took, with start-up if that is known; None if it has not ended.
    """

    cell: Cell
    status: Status
    reason: str = ""
    record: Record | None = None
    folder: Path | None = None
    archive: Archive | None = None
    older: bool = False
    seconds: float | None = None

    @property
    def archived_as(self) -> str:
        """What the archive knows its run by."""
        return f"{self.record.name}/{self.record.fingerprint}" if self.record is not None else self.cell.run

    @property
    def ended(self) -> bool:
        """Whether it has a result that counts for its arm or against it."""
        return self.status in ("finished", "diverged")


def read_results(plan: Plan, output_dir: Path, records: Path | None = None) -> StudyResults:
    """Read what there is of a study's cells.

    Args:
        plan: the study's.
        output_dir: the folder of all outputs.
        records: more finished runs, an archive or a folder of run folders; None for the plan's.
    """
    kept = records if records is not None else Path(plan.records)
    homes, archive = [output_dir / "runs", kept], Archive(kept)
    study = output_dir / "studies" / plan.name
    return StudyResults(plan, tuple(_read(cell, homes, archive, study) for cell in plan.cells), study)


def _read(cell: Cell, homes: list[Path], archive: Archive, study: Path) -> CellResult:
    found: list[Record] = []
    unreadable: dict[Path, str] = {}
    for home in homes:
        if (home / cell.run / FILE_NAME).exists():
            try:
                found.append(Record.load(home / cell.run))
            except UserError as error:
                unreadable[home] = str(error)
    archived = archive.record(cell.run) or archive.record(cell.former)
    found += [archived] if archived is not None else []
    corrupt = " ".join(unreadable.values())
    outcome = Outcome.load(study, cell)
    for record in sorted(found, key=lambda record: record.status == "diverged"):
        if record.status == "finished" or record.status == "diverged":
            known = outcome is not None and outcome.fate == record.status
            return CellResult(
                cell,
                record.status,
                corrupt or record.error or "",
                record,
                record.folder if record is not archived else None,
                archive if record is archived else None,
                older=bool(cell.code) and not record.is_by(cell.code),
                seconds=outcome.seconds if outcome is not None and known else sum(record.time.values()),
            )
    begun = found[0] if found else None
    folder = begun.folder if begun is not None else None
    if outcome is not None and outcome.fate in ("failed", "killed", "timed out", "interrupted", "diverged"):
        return CellResult(cell, outcome.fate, corrupt or outcome.reason, begun, folder, seconds=outcome.seconds)
    if outcome is not None and outcome.fate == "running":
        if is_held(cell_lock(study, cell)):
            return CellResult(cell, "running", "", begun, folder)
        return CellResult(cell, "interrupted", corrupt or "The process that ran it is gone.", begun, folder)
    if homes[0] in unreadable:  # where the run would go, so it cannot be made again
        return CellResult(cell, "corrupt", corrupt)
    if begun is not None and begun.status == "failed":
        return CellResult(cell, "failed", begun.error or "", begun, folder)
    if begun is not None:
        return CellResult(cell, "interrupted", "It was started outside the study and not finished.", begun, folder)
    return CellResult(cell, "missing", corrupt)


@dataclass(frozen=True)
class StudyResults:
    """A study's plan and what its cells have come to.

    Attributes:
        plan: the study's.
        cells: one for each of the plan's, in its order.
        folder: the study's own.
    """

    plan: Plan
    cells: tuple[CellResult, ...]
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether every cell has finished."""
        return all(result.status == "finished" for result in self.cells)

    def of(self, arm: str) -> list[CellResult]:
        """Return the cells of an arm, in the order of the seeds."""
        return [result for result in self.cells if result.cell.arm == arm]

    def figure(self, result: CellResult) -> dict[str, Any]:
        """Return a finished cell's figures on the validation text by the plan's protocol; {} if it has none."""
        if result.record is None or result.status != "finished":
            return {}
        try:
            return result.record.metric(self.plan.protocol)
        except UserError:
            return {}

    def values(self, arm: str) -> dict[int, Value]:
        """Return what is compared, by seed: nats per character, "diverged", "leaks", or None if there is nothing."""
        return {result.cell.seed: self._value(result) for result in self.of(arm)}

    def _value(self, result: CellResult) -> Value:
        if result.status == "diverged":
            return "diverged"
        if result.record is None or result.status != "finished":
            return None
        if result.record.causality.get("leaks"):
            return "leaks"
        figure = self.figure(result)
        if not figure:
            return None
        return figure["nll"] if figure["nll"] is not None else "diverged"  # a figure that is not finite

    def comparisons(self) -> dict[str, Comparison]:
        """Return the verdict on each arm but the baseline; none with a single arm or a single seed."""
        from charlab.studies.verdicts import compare

        plan = self.plan
        others = [arm for arm in plan.arms if arm.name != plan.baseline]
        if not others or len(plan.seeds) < 2:
            return {}
        return compare(
            self.values(plan.baseline),
            {arm.name: self.values(arm.name) for arm in others},
            seeds=plan.seeds,
            margin=plan.margin,
            expectations={arm.name: arm.expect for arm in others},
            planned_seeds=plan.planned_seeds,
            looks=plan.looks,
            bounds=[arm.name for arm in others if self.is_bound(arm.name)],
            baseline_bound=self.is_bound(plan.baseline),
        )

    def is_bound(self, arm: str) -> bool:
        """Return whether an arm's values are upper bounds."""
        return any(self.figure(result).get("likelihood") == "bound" for result in self.of(arm))

    def table(self) -> pd.DataFrame:
        """Return a row per cell: what it is, what came out, and what it cost."""
        import pandas as pd

        return pd.DataFrame([self._row(result) for result in self.cells])

    def _row(self, result: CellResult) -> dict[str, Any]:
        record, figure = result.record, self.figure(result)
        arm = self.plan.arm(result.cell.arm)
        causality = record.causality if record is not None else {}
        return {
            "study": self.plan.name,
            "arm": arm.name,
            **arm.factors,
            "seed": result.cell.seed,
            "status": result.status,
            "value": _number(figure.get("nll")),
            "bpc": _number(figure.get("bpc")),
            "perplexity": _number(figure.get("perplexity")),
            "protocol": self.plan.protocol,
            "likelihood": figure.get("likelihood"),
            "leaks": causality.get("leaks"),
            "honest_nll": _number(causality.get("honest_nll")),
            **{name: _number(cost.read(record) if record is not None else None) for name, cost in COSTS.items()},
            "evaluation_s": _number(record.time.get("evaluation_s") if record is not None else None),
            "older": result.older,
            "reason": result.reason,
            "fingerprint": result.cell.fingerprint,
            "run": result.cell.run,
        }

    def curves(self, arm: str) -> pd.DataFrame:
        """Return what an arm's runs have logged: step, characters, seconds, metric, value, seed."""
        import pandas as pd

        frames = [pd.DataFrame(columns=[*COLUMNS, "seed"]).astype({"metric": str})]
        for result in self.of(arm):
            path = result.folder / "metrics.csv" if result.folder is not None and result.ended else None
            if path is not None and path.exists():
                frames.append(pd.read_csv(path)[list(COLUMNS)].assign(seed=result.cell.seed))
            elif result.archive is not None:
                frames.append(result.archive.curves(result.archived_as).assign(seed=result.cell.seed))
        return pd.concat(frames[1:] or frames, ignore_index=True)

    def samples(self, arm: str) -> str:
        """Return the text that the arm's first run generated, if it was kept."""
        for result in self.of(arm):
            path = result.folder / "samples.txt" if result.folder is not None and result.ended else None
            if path is not None and path.exists():
                return path.read_text(encoding="utf-8", errors="replace")
            if result.archive is not None and (sample := result.archive.sample(result.archived_as)):
                return sample
        return ""

    def budgets(self) -> pd.DataFrame:
        """Return for each arm and cost the median over finished cells, and the range as `_low` and `_high`."""
        table = self.table()
        finished = table[table["status"] == "finished"]
        rows = {}
        for arm in self.plan.arms:
            costs = finished.loc[finished["arm"] == arm.name, list(COSTS)].astype(float)
            row: dict[str, float] = {}
            for cost in COSTS:
                known = costs[cost].dropna()
                row |= {cost: known.median(), f"{cost}_low": known.min(), f"{cost}_high": known.max()}
            rows[arm.name] = row
        import pandas as pd

        return pd.DataFrame.from_dict(rows, orient="index")

    def mismatch(self) -> str | None:
        """Return a sentence if the arms do not share the declared budget; None if they do, as far as is known."""
        finished = {result.cell.arm for result in self.cells if result.status == "finished"}
        medians = self.budgets()[BY_BUDGET[self.plan.budget]]
        return mismatch(self.plan, {str(arm): value for arm, value in medians.items() if arm in finished})

    def unpaired(self) -> str | None:
        """Return a sentence if a seed does not give all arms the same windows in the same order."""
        names = [arm.name for arm in self.plan.arms if not arm.paired]
        if not names:
            return None
        return (
            f"Trained on other windows than the baseline, because the data settings differ: {', '.join(names)}; "
            "pairing by seed removes no shared noise there."
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
