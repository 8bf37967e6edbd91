"""What the cells of an arm amount to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from charlab.studies.paired import t_interval
from charlab.studies.results import COSTS

if TYPE_CHECKING:
    import pandas as pd

    from charlab.studies.results import StudyResults

MEASURES = ("value", "bpc", "perplexity")


class Estimate(NamedTuple):
    """A mean over seeds, and the half-width of its 95% t-interval; nan where there is none."""

    mean: float
    half_width: float


class Cost(NamedTuple):
    """What finished cells took: the median over seeds, and the least and the most."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmSummary:
    """What the finished cells of an arm amount to.

    Attributes:
        name: of the arm.
        is_baseline: whether the others are compared with it.
        seeds: how many cells have finished.
        planned: how many there are to be.
        figures: by measure: nll, bits per character, perplexity. As claimed, where the arm leaks.
        likelihood: "bound" if its figures are upper bounds.
        leaks: whether a cell sees what it is to predict.
        honest: nll scored character by character, over seeds, where the arm leaks.
        costs: by what is counted; without what is not known.
    """

    name: str
    is_baseline: bool
    seeds: int
    planned: int
    figures: Mapping[str, Estimate]
    likelihood: Literal["exact", "bound"]
    leaks: bool
    honest: Estimate | None
    costs: Mapping[str, Cost]

    @property
    def mean(self) -> float | None:
        """Its nll; None if no cell has one."""
        mean = self.figures["value"].mean
        return None if math.isnan(mean) else mean

    @property
    def half_width(self) -> float:
        """Of the 95% t-interval of its nll."""
        return self.figures["value"].half_width


def summarize(results: StudyResults) -> dict[str, ArmSummary]:
    """Returns a summary of each arm by name, in the plan's order."""
    table, budgets = results.table(), results.budgets()
    return {
        arm.name: _summary(arm.name, table[table["arm"] == arm.name], budgets.loc[arm.name], results.plan.baseline)
        for arm in results.plan.arms
    }


def _summary(name: str, cells: pd.DataFrame, budget: pd.Series, baseline: str) -> ArmSummary:
    finished = cells[cells["status"] == "finished"]
    leaks = bool(finished["leaks"].eq(True).any())
    costs = {cost: Cost(*(float(budget[f"{cost}{end}"]) for end in ("", "_low", "_high"))) for cost in COSTS}
    return ArmSummary(
        name=name,
        is_baseline=name == baseline,
        seeds=len(finished),
        planned=len(cells),
        figures={measure: estimate(finished[measure].to_numpy(dtype=float)) for measure in MEASURES},
        likelihood="bound" if finished["likelihood"].eq("bound").any() else "exact",
        leaks=leaks,
        honest=estimate(finished["honest_nll"].to_numpy(dtype=float)) if leaks else None,
        costs={name: cost for name, cost in costs.items() if not math.isnan(cost.median)},
    )


def estimate(values: np.ndarray) -> Estimate:
    """Returns the mean of the finite values and its 95% t-interval."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return Estimate(math.nan, math.nan)
    mean = float(finite.mean())
    if finite.size == 1:
        return Estimate(mean, math.nan)
    return Estimate(mean, t_interval(mean, float(finite.std(ddof=1)), finite.size, 0.95)[1] - mean)
