"""Read the results of a study's cells from their records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from charlab.curves import COLUMNS
from charlab.errors import UserError
from charlab.runs.record import Record
from charlab.runs.store import Run, Store
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
    """The state and result of a cell.

    Attributes:
        cell: the cell.
        status: the run's status; "missing" if it was never started.
        reason: why it has no result, or what is wrong with its files; "" if nothing is wrong.
        run: the run, even if unfinished; None if there is no readable record.
        older: whether it was run with other code than the plan's.
        seconds: duration, including startup if known; None if it has not ended.
    """

    cell: Cell
    status: Status
    reason: str = ""
    run: Run | None = None
    older: bool = False
    seconds: float | None = None

    @property
    def record(self) -> Record | None:
        """The run's record; None if there is no readable one."""
        return self.run.record if self.run is not None else None

    @property
    def folder(self) -> Path | None:
        """The run's folder; None if it does not exist."""
        return self.run.folder if self.run is not None else None

    @property
    def ended(self) -> bool:
        """Whether it has a result that counts in its arm's comparison."""
        return self.status in ("finished", "diverged")


def read_results(plan: Plan, output_dir: Path, records: Path | None = None) -> StudyResults:
    """Read the results of a study's cells so far.

    Args:
        plan: the study's plan.
        output_dir: the folder of all outputs.
        records: archive or folder of additional finished runs; by default, the plan's.
    """
    store = Store(output_dir, records if records is not None else Path(plan.records))
    study = output_dir / "studies" / plan.name
    return StudyResults(plan, tuple(_read(cell, store, study) for cell in plan.cells), study)


def _read(cell: Cell, store: Store, study: Path) -> CellResult:
    found, unreadable = store.find(cell.run)
    corrupt = " ".join(unreadable.values())
    outcome = Outcome.load(study, cell)
    for run in sorted(found, key=lambda run: run.record.status == "diverged"):
        record = run.record
        if record.status == "finished" or record.status == "diverged":
            known = outcome is not None and outcome.fate == record.status
            return CellResult(
                cell,
                record.status,
                corrupt or record.error or "",
                run,
                older=bool(cell.code) and not record.is_by(cell.code),
                seconds=outcome.seconds if outcome is not None and known else sum(record.time.values()),
            )
    begun = found[0] if found else None
    if outcome is not None and outcome.fate in ("failed", "killed", "timed out", "interrupted", "diverged"):
        return CellResult(cell, outcome.fate, corrupt or outcome.reason, begun, seconds=outcome.seconds)
    if outcome is not None and outcome.fate == "running":
        if is_held(cell_lock(study, cell)):
            return CellResult(cell, "running", "", begun)
        return CellResult(cell, "interrupted", corrupt or "The process that ran it is gone.", begun)
    if store.folder(cell.run) in unreadable:  # a new run would use this folder, so it cannot run again
        return CellResult(cell, "corrupt", corrupt)
    if begun is not None and begun.record.status == "failed":
        return CellResult(cell, "failed", begun.record.error or "", begun)
    if begun is not None:
        return CellResult(cell, "interrupted", "It was started outside the study and not finished.", begun)
    return CellResult(cell, "missing", corrupt)


@dataclass(frozen=True)
class StudyResults:
    """The results of a study so far.

    Attributes:
        plan: the study's plan.
        cells: one result per cell, in the plan's order.
        folder: the study's folder.
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
        """Return a finished cell's evaluation on the validation text under the plan's protocol; {} if it has none."""
        if result.record is None or result.status != "finished":
            return {}
        try:
            return result.record.metric(self.plan.protocol)
        except UserError:
            return {}

    def values(self, arm: str) -> dict[int, Value]:
        """Return an arm's values by seed: nats per character, "diverged", "leaks", or None without a result."""
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
        return figure["nll"] if figure["nll"] is not None else "diverged"  # None: the loss is not finite

    def comparisons(self) -> dict[str, Comparison]:
        """Return the comparison of each arm with the baseline; empty with a single arm or a single seed."""
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
        """Return a table with one row per cell: its settings, results and costs."""
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
        """Return the logged metrics of an arm's runs, with columns step, characters, seconds, metric, value, seed."""
        import pandas as pd

        frames = [pd.DataFrame(columns=[*COLUMNS, "seed"]).astype({"metric": str})]
        for result in self.of(arm):
            if result.run is not None and result.ended:
                frames.append(result.run.curves()[list(COLUMNS)].assign(seed=result.cell.seed))
        return pd.concat(frames[1:] or frames, ignore_index=True)

    def samples(self, arm: str) -> str:
        """Return the text that the arm's first run generated, if it was saved."""
        runs = [result.run for result in self.of(arm) if result.run is not None and result.ended]
        return next(filter(None, (run.sample() for run in runs)), "")

    def budgets(self) -> pd.DataFrame:
        """Return each arm's median costs over finished cells, with the range as columns `_low` and `_high`."""
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
        """Return a warning if the arms do not share the declared budget; None if they do, as far as known."""
        finished = {result.cell.arm for result in self.cells if result.status == "finished"}
        medians = self.budgets()[BY_BUDGET[self.plan.budget]]
        return mismatch(self.plan, {str(arm): value for arm, value in medians.items() if arm in finished})

    def unpaired(self) -> str | None:
        """Return a warning if a seed does not give all arms the same windows in the same order."""
        names = [arm.name for arm in self.plan.arms if not arm.paired]
        if not names:
            return None
        return (
            f"Trained on other windows than the baseline, because the data settings differ: {', '.join(names)}; "
            "pairing by seed removes no shared noise there."
        )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
