"""The costs of a run: the name, the unit and the source of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from charlab.quantities import amount, duration, memory
from charlab.runs.record import Record
from charlab.studies.definition import Budget
from charlab.studies.plan import Plan


@dataclass(frozen=True)
class Cost:
    """One cost of a run.

    Attributes:
        heading: heading of its column in tables.
        read: function that reads it from a run's record; None if unknown.
        write: function that formats it for tables.
        axis: axis label in plots; "" if it is not plotted.
        budget: the budget of a study that it measures; None for no budget.
        shared: the budget in words, as what all arms share.
        tolerance: largest difference between the medians of an arm and the baseline, as a fraction of the baseline's,
            at which they share the budget. Steps match exactly, model sizes cannot, and the clock is read only after
            each step.
    """

    heading: str
    read: Callable[[Record], float | None]
    write: Callable[[float | None], str] = amount
    axis: str = ""
    budget: Budget | None = None
    shared: str = ""
    tolerance: float = 0.0


COSTS: Mapping[str, Cost] = {
    "steps": Cost("steps", lambda run: run.steps, budget="steps", shared="number of optimizer steps"),
    "characters": Cost("characters", lambda run: run.characters_seen, budget="characters",
                       shared="number of characters seen in training"),
    "flops": Cost("FLOPs", lambda run: run.flops_per_step * run.steps if run.flops_per_step else None,
                  axis="training FLOPs", budget="flops", shared="number of floating-point operations", tolerance=0.02),
    "training_s": Cost("training", lambda run: run.time.get("training_s"), duration, axis="training seconds",
                       budget="seconds", shared="seconds of training", tolerance=0.05),
    "parameters": Cost("parameters", lambda run: run.parameters, axis="parameters", budget="parameters",
                       shared="number of parameters", tolerance=0.02),
    "peak_memory_bytes": Cost("peak memory", lambda run: run.peak_memory_bytes, memory),
}  # fmt: skip
PLOTTED = ("training_s", "flops", "parameters")  # in this order
BY_BUDGET: Mapping[Budget, str] = {cost.budget: name for name, cost in COSTS.items() if cost.budget is not None}


def mismatch(plan: Plan, medians: Mapping[str, float]) -> str | None:
    """Return a warning if the arms do not share the declared budget; None if they do.

    Args:
        plan: the study's plan.
        medians: median cost of the finished cells, by arm; nan if unknown. Arms without finished cells are left out,
            and without the baseline nothing is compared.
    """
    base = medians.get(plan.baseline)
    if base is None:
        return None
    tolerance = COSTS[BY_BUDGET[plan.budget]].tolerance
    off = {arm: value for arm, value in medians.items() if not abs(value - base) <= tolerance * base}  # also if nan
    off.pop(plan.baseline, None)
    if not off:
        return None
    allowed = f" (within {tolerance:.0%})" if tolerance else ""
    amounts = " and ".join(f"{arm} has {_exact(value)}" for arm, value in off.items())
    return (
        f"The arms do not share the declared budget, equal {plan.budget}{allowed}: the baseline {plan.baseline} has "
        f"{_exact(base)}, but {amounts}."
    )


def _exact(value: float) -> str:
    """Format an amount with enough digits to show that mismatched amounts differ."""
    return "an unknown amount" if math.isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
