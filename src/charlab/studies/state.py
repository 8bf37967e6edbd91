"""The results of a study's cells so far, as its comparisons, its report and notebooks read them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from charlab.curves import COLUMNS, VALIDATION
from charlab.runs.draw import sample
from charlab.runs.record import Record
from charlab.runs.store import Run, Store
from charlab.studies.costs import BY_BUDGET, COSTS, mismatch
from charlab.studies.outcomes import Fate, Outcome, last_line
from charlab.studies.plan import Cell, Plan

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from charlab.studies.pairs import Value
    from charlab.studies.time_to_target import Reached
    from charlab.studies.verdicts import Comparison

Status = Literal[
    Fate,
    "missing",
    "corrupt",
    "held back",  # it has ended, but not all cells of its look have
    "not needed",  # an earlier look has settled its arm
]


@dataclass(frozen=True)
class CellResult:
    """The state and result of a cell.

    Attributes:
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
        records: archive or folder of additional finished runs; by default, the plan's.
    """
    store = Store(output_dir, records if records is not None else Path(plan.records))
    study = output_dir / "studies" / plan.name
    results = StudyResults(plan, tuple(_read(cell, store, study, plan.protocol) for cell in plan.cells), study)
    return _at_looks(results) if plan.planned_looks else results


def _at_looks(results: StudyResults) -> StudyResults:
    """Return the results without those that no planned look has shown."""
    plan, comparisons, reached = results.plan, results.comparisons(), results.reached
    needed = {
        arm: len(found.seeds) if found.verdict != "inconclusive" else len(plan.seeds)
        for arm, found in comparisons.items()
    }
    needed[plan.baseline] = max(needed.values(), default=len(plan.seeds))

    def shown(result: CellResult) -> CellResult:
        index = plan.seeds.index(result.cell.seed)
        if index >= needed.get(result.cell.arm, len(plan.seeds)):
            return CellResult(result.cell, "not needed")
        if not result.ended or index < reached:
            return result
        if results.lacks_figure(result):  # without it, its look would never be reached
            unscored = f"Its run has not been scored by protocol={plan.protocol} yet."
            return CellResult(result.cell, "missing", result.reason or unscored)
        return CellResult(result.cell, "held back", older=result.older)

    return replace(results, cells=tuple(map(shown, results.cells)))


def _read(cell: Cell, store: Store, study: Path, protocol: str) -> CellResult:
    outcome = Outcome.load(study, cell)  # first, so that a run that ends in between is read as ended
    found, unreadable = store.find(cell.run)
    corrupt = " ".join(unreadable.values())

    def older(run: Run) -> bool:
        return bool(cell.code) and not run.record.is_by(cell.code)

    for run in sorted(found, key=lambda run: (older(run), run.record.status == "diverged")):
        record = run.record
        if record.status == "finished" or record.status == "diverged":
            known = outcome is not None and outcome.fate == record.status
            return CellResult(
                cell,
                record.status,
                corrupt or _later_failure(outcome, record, protocol) or record.error or "",
                run,
                older=older(run),
                seconds=outcome.seconds if outcome is not None and known else sum(record.time.values()),
            )
    begun = found[0] if found else None
    if outcome is not None and outcome.fate == "running":
        return CellResult(cell, "running", "", begun)
    if outcome is not None and outcome.fate != "finished":
        return CellResult(cell, outcome.fate, corrupt or outcome.reason, begun, seconds=outcome.seconds)
    if store.folder(cell.run) in unreadable:  # a new run would use this folder, so it cannot run again
        return CellResult(cell, "corrupt", corrupt)
    if begun is not None and begun.record.status == "failed":
        return CellResult(cell, "failed", begun.record.error or "", begun)
    if begun is not None:
        return CellResult(cell, "interrupted", "It was started outside the study and not finished.", begun)
    return CellResult(cell, "missing", corrupt)


def _later_failure(outcome: Outcome | None, record: Record, protocol: str) -> str:
    """Return why a run that has ended lacks its figure, or was not run again; "" if neither is the case."""
    if outcome is None or outcome.fate not in ("failed", "killed", "timed out"):
        return ""
    failed = f"{'was killed' if outcome.fate == 'killed' else outcome.fate}: {last_line(outcome.reason)}"
    if record.status == "finished" and not record.has_figure(protocol):
        return f"It has not been scored by protocol={protocol}; the study's latest attempt {failed}"
    if record.finished and outcome.started > record.finished:  # else it wrote this record, or another did later
        return f"This is an earlier result; the study's latest attempt {failed}"
    return ""


@dataclass(frozen=True)
class StudyResults:
    """The results of a study so far."""

    plan: Plan
    cells: tuple[CellResult, ...]
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether every cell that is needed has finished."""
        return all(result.status in ("finished", "not needed") for result in self.cells)

    @property
    def reached(self) -> int:
        """The number of seeds at the last look that was reached; 0 before the first."""
        return max((len(found.seeds) for found in self.comparisons().values()), default=0)

    def of(self, arm: str) -> list[CellResult]:
        """Return the cells of an arm, in the order of the seeds."""
        return [result for result in self.cells if result.cell.arm == arm]

    def records(self, arm: str) -> dict[int, Record]:
        """Return the records of an arm's finished cells, by seed."""
        finished = ((result.cell.seed, result.record) for result in self.of(arm) if result.status == "finished")
        return {seed: record for seed, record in finished if record is not None}

    def figure(self, result: CellResult) -> dict[str, Any]:
        """Return a finished cell's evaluation on the validation text under the plan's protocol; {} if it has none."""
        record = result.record
        if record is None or result.status != "finished" or not record.has_figure(self.plan.protocol):
            return {}
        return record.metric(self.plan.protocol)

    def lacks_figure(self, result: CellResult) -> bool:
        """Return whether a finished run among the outputs was not scored by the plan's protocol."""
        if result.status != "finished" or result.folder is None or result.record is None:
            return False
        own = result.folder.absolute().is_relative_to(self.folder.absolute().parents[1])
        return own and not result.record.has_figure(self.plan.protocol)

    def values(self, arm: str) -> dict[int, Value]:
        """Return an arm's values by seed: nats per character or the time to the target, "diverged", or "leaks".

        A cell without a result has None.
        """
        return {result.cell.seed: self._value(result) for result in self.of(arm)}

    def _value(self, result: CellResult) -> Value:
        if result.status == "diverged":
            return "diverged"
        if result.record is None or result.status != "finished":
            return None
        if result.record.causality.get("leaks"):
            return "leaks"
        if self.plan.target is not None:
            return self.time_to_target(result)
        figure = self.figure(result)
        return None if not figure else "diverged" if figure["nll"] is None else figure["nll"]  # None: it is not finite

    def time_to_target(self, result: CellResult) -> Reached | None:
        """Return when an ended cell reached the plan's target; None if it has no curve, or there is no target.

        A cell that diverged never reaches it, as in comparisons.
        """
        from charlab.studies.time_to_target import crossing

        clock = {"steps_to": "step", "seconds_to": "seconds"}.get(self.plan.metric)
        if result.run is None or not result.ended or clock is None or self.plan.target is None:
            return None
        curve = result.run.curves()
        curve = curve[curve["metric"].isin(VALIDATION)]
        if not len(curve):
            return None
        found = crossing(curve, clock, self.plan.target)
        return found._replace(time=math.inf, limit=math.inf) if result.status == "diverged" else found

    def most_at_once(self) -> int | None:
        """Return the largest number of cells that ran at once on one machine; None if any cell's times are unknown."""
        outcomes = [Outcome.load(self.folder, result.cell) for result in self.cells if result.ended]
        spans: dict[str, list[tuple[float, int]]] = {}
        for outcome in outcomes:
            if outcome is None or not outcome.started:
                return None
            begin = datetime.fromisoformat(outcome.started).timestamp() + 1  # it is written in whole seconds
            end = max(begin, begin + outcome.seconds - 1)
            spans.setdefault(outcome.host, []).extend([(begin, 1), (end, -1)])
        counts = (itertools.accumulate(step for _, step in sorted(changes)) for changes in spans.values())
        return max(map(max, counts), default=None)

    def comparisons(self) -> dict[str, Comparison]:
        """Return the comparison of each arm with the baseline.

        Empty with a single arm or seed, in a scaling study, and before the first planned look.
        """
        return self._comparisons

    @cached_property
    def _comparisons(self) -> dict[str, Comparison]:
        from charlab.studies.verdicts import compare

        plan = self.plan
        others = [arm for arm in plan.arms if arm.name != plan.baseline]
        if not others or len(plan.seeds) < 2 or plan.kind == "scaling":
            return {}
        return compare(
            self.values(plan.baseline),
            {arm.name: self.values(arm.name) for arm in others},
            seeds=plan.seeds,
            margin=plan.margin if plan.target is None else math.log(plan.margin),
            metric=plan.metric,
            target=plan.target,
            expectations={arm.name: arm.expect for arm in others},
            planned_seeds=plan.planned_seeds,
            looks=plan.looks,
            planned_looks=plan.planned_looks,
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
        record, figure, arm = result.record, self.figure(result), self.plan.arm(result.cell.arm)
        causality = record.causality if record is not None else {}
        reached = self.time_to_target(result)
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
            **({} if self.plan.target is None else {"time_to_target": _number(reached and reached.time)}),
            "leaks": causality.get("leaks"),
            "honest_nll": _number(causality.get("honest_nll")),
            **{name: _number(cost.read(record) if record is not None else None) for name, cost in COSTS.items()},
            "evaluation_s": _number(record.time.get("evaluation_s") if record is not None else None),
            "older": result.older,
            "reason": result.reason,
            "fingerprint": result.cell.fingerprint,
            "run": result.cell.run,
        }

    def plot(self) -> Figure:
        """Return a matplotlib figure: differences from the baseline, or the curves if nothing is compared."""
        from charlab.studies.report.writer import draw

        return draw(self)

    def _repr_html_(self) -> str:
        """Return the report for a notebook."""
        from charlab.studies.report.writer import notebook_page

        return notebook_page(self)

    def curves(self, arm: str) -> pd.DataFrame:
        """Return the logged metrics of an arm's runs, with columns step, characters, seconds, metric, value, seed."""
        import pandas as pd

        frames = [pd.DataFrame(columns=[*COLUMNS, "seed"]).astype({"metric": str})]
        for result in self.of(arm):
            if result.run is not None and result.ended:
                frames.append(result.run.curves()[list(COLUMNS)].assign(seed=result.cell.seed))
        return pd.concat(frames[1:] or frames, ignore_index=True)

    def samples(self, arm: str) -> str:
        """Return a text sampled by one of the arm's runs, sampling it now if none was kept; "" if that fails."""
        runs = [result.run for result in self.of(arm) if result.run is not None and result.ended]
        kept = next(filter(None, (run.sample() for run in runs)), "")
        finished = [run.record for run in runs if run.folder is not None and run.record.status == "finished"]
        return kept or (sample(finished[0]) if finished else "")

    def budgets(self) -> pd.DataFrame:
        """Return each arm's median costs over finished cells, with the range as columns `_low` and `_high`."""
        table = self.table()
        costs = table.loc[table["status"] == "finished", list(COSTS)].astype(float)
        found = costs.groupby(table["arm"]).agg(["median", "min", "max"]).reindex([arm.name for arm in self.plan.arms])
        ends = {"median": "", "min": "_low", "max": "_high"}
        return found.set_axis([f"{cost}{ends[end]}" for cost, end in found.columns], axis="columns")

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
