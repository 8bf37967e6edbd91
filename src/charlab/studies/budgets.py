"""What runs cost, and whether the arms of a study share what they were to share."""

from __future__ import annotations

import math
from collections.abc import Mapping

from charlab.runs.record import Record
from charlab.studies.plan import Budget, Plan

# By budget: what is counted, and by which share of the baseline's median an arm's may differ from it. What is counted
# in whole steps is exact; sizes cannot be matched exactly; a clock is read only after each step.
TOLERANCES: Mapping[Budget, tuple[str, float]] = {
    "steps": ("steps", 0.0),
    "characters": ("characters", 0.0),
    "flops": ("flops", 0.02),
    "seconds": ("training_s", 0.05),
    "parameters": ("parameters", 0.02),
}


def costs_of(record: Record) -> dict[str, float | None]:
    """Returns what a run took; None where that is not known."""
    return {
        "steps": record.steps,
        "characters": record.characters_seen,
        "flops": record.flops_per_step * record.steps if record.flops_per_step else None,
        "training_s": record.time.get("training_s"),
        "parameters": record.parameters,
        "peak_memory_bytes": record.peak_memory_bytes,
        "evaluation_s": record.time.get("evaluation_s"),
    }


def mismatch(plan: Plan, medians: Mapping[str, float]) -> str | None:
    """Returns a sentence if arms do not share the declared budget; None if they do.

    Args:
        plan: the study's.
        medians: by arm, what its finished cells took of it; nan where that is not known. Only arms that have finished
            cells; without the baseline there is nothing to compare with yet.
    """
    base = medians.get(plan.baseline)
    if base is None:
        return None
    _, tolerance = TOLERANCES[plan.budget]
    off = {arm: value for arm, value in medians.items() if not abs(value - base) <= tolerance * base}  # nan, too
    off.pop(plan.baseline, None)
    if not off:
        return None
    allowed = f" (within {tolerance:.0%})" if tolerance else ""
    amounts = ", ".join(f"{arm} {_amount(value)}" for arm, value in off.items())
    return (
        f"The arms do not share the declared budget, equal {plan.budget}{allowed}: the baseline {plan.baseline} has "
        f"{_amount(base)}, but {amounts}."
    )


def _amount(value: float) -> str:
    return "an unknown amount" if math.isnan(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
