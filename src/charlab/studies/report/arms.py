"""What each arm of a study reached and cost, and known figures for its text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from charlab.studies.costs import COSTS
from charlab.studies.evidence import mean_interval

if TYPE_CHECKING:
    import pandas as pd

    from charlab.runs.record import Record
    from charlab.studies.state import StudyResults

# The text's SHA-256 → the best n-gram on its last tenth, counted on the rest, by sliding, in nats per character.
_NGRAMS = {"86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed": ("Kneser–Ney n-gram of order 7", 1.516)}


class Estimate(NamedTuple):
    """A mean over seeds and the half-width of its 95% t-interval; nan where there is none."""

    mean: float
    half_width: float


class Cost(NamedTuple):
    """The median cost of finished cells, and its range."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmSummary:
    """Summary of the finished cells of an arm.

    Attributes:
        seeds: the number of cells with a finite loss, out of `planned`.
        figures: nll ("value"), bits per character and perplexity; as claimed if the arm leaks.
        likelihood: "bound" if the figures are upper bounds.
        honest: nll scored character by character, if the arm leaks.
        costs: the known costs, by name.
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
        """Mean nll; None if no cell has one."""
        mean = self.figures["value"].mean
        return None if math.isnan(mean) else mean


def summarize(results: StudyResults) -> dict[str, ArmSummary]:
    """Return a summary of each arm by name, in the plan's order."""
    plan, table, budgets = results.plan, results.table(), results.budgets()
    found = {}
    for name in (arm.name for arm in plan.arms):
        cells, budget = table[table["arm"] == name], budgets.loc[name]
        finished = cells[cells["status"] == "finished"]
        leaks = bool(finished["leaks"].eq(True).any())
        costs = {cost: Cost(*(float(budget[f"{cost}{end}"]) for end in ("", "_low", "_high"))) for cost in COSTS}
        found[name] = ArmSummary(
            name=name,
            is_baseline=plan.compares and name == plan.baseline,
            seeds=int(np.isfinite(finished["value"]).sum()),
            planned=len(cells),
            figures={measure: estimate(finished[measure]) for measure in ("value", "bpc", "perplexity")},
            likelihood="bound" if finished["likelihood"].eq("bound").any() else "exact",
            leaks=leaks,
            honest=estimate(finished["honest_nll"]) if leaks else None,
            costs={cost: known for cost, known in costs.items() if not math.isnan(known.median)},
        )
    return found


def estimate(values: pd.Series) -> Estimate:
    """Return the mean of the finite values and its 95% t-interval."""
    found = values.to_numpy(dtype=float)
    finite = found[np.isfinite(found)]
    mean = float(finite.mean()) if finite.size else math.nan
    return Estimate(mean, mean_interval(finite)[1] - mean if finite.size > 1 else math.nan)


class Reference(NamedTuple):
    """A figure to compare results with, in nats per character."""

    name: str
    nll: float
    note: str


def entropy(results: StudyResults) -> float | None:
    """Return the entropy of the validation text in nats per character, if all cells agree on it."""
    floors = {record.floor.get("validation") for record in _finished(results)}
    return floors.pop() if len(floors) == 1 else None


def references(results: StudyResults) -> list[Reference]:
    """Return known figures for the text that all cells were scored on, lowest first."""
    found = []
    floor = entropy(results)
    if floor is not None:
        found.append(Reference("entropy of the text", floor, "no model can be expected to go below it"))
    texts = {record.corpus.get("sha256") for record in _finished(results)}
    if len(texts) == 1 and results.plan.protocol != "estimate" and all(map(_has_usual_split, _finished(results))):
        ngram = _NGRAMS.get(str(texts.pop()))
        if ngram is not None:
            note = "counts only, no training; by sliding, with all preceding text as context"
            found.append(Reference(*ngram, f"{note}; measured by experiment=part2/ngram_kneser_ney"))
    return found


def scored_text(record: Record) -> tuple[object, ...]:
    """Return what decides which text a run is scored on: the corpus, and where its validation split begins and ends."""
    data = record.config.get("data", {})
    return record.corpus.get("sha256"), data.get("train_fraction"), data.get("validation_fraction", 0.1)


def _finished(results: StudyResults) -> list[Record]:
    return [record for arm in results.plan.arms for record in results.records(arm.name).values()]


def _has_usual_split(record: Record) -> bool:
    data = record.config.get("data", {})
    whole = data.get("train_fraction") == 0.9 and data.get("validation_fraction", 0.1) == 0.1
    return whole and not data.get("dev_fraction")
