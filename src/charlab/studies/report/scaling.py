"""What a report says about a scaling study: the law of each family, and whether it held at the size held out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from charlab.quantities import amount, count, joined, nats, percent
from charlab.studies.costs import COSTS
from charlab.studies.scaling import FEWEST_SEEDS, Extrapolation, extrapolate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

    from charlab.studies.plan import Plan
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.report.style import Look
    from charlab.studies.state import StudyResults

MEANINGS = (
    "A law has held if the prediction interval of the held-out size covers its mean loss and is narrower than the "
    "margin; it has not held if the interval does not cover the mean; otherwise it is not settled. The law is fitted "
    "to the means over seeds by least squares, and the intervals are those of the jackknife over seeds."
)


class Scaling(NamedTuple):
    """The laws of a study by family, the families whose losses are upper bounds, and what the report says of all."""

    laws: Mapping[str, Extrapolation]
    bounds: frozenset[str]
    sentences: tuple[str, ...]

    @property
    def caption(self) -> str:
        """The caption of the figure."""
        return (
            f"Loss of {joined(list(self.laws))} against size. Dots: seeds. Line: the law, dashed beyond the sizes that "
            "it was fitted to. Diamond: mean of the size that took no part in the fit. Bar: what was predicted for it."
        )


def scaling(results: StudyResults, arms: Mapping[str, ArmSummary]) -> Scaling | None:
    """Return the laws of a scaling study; None for any other."""
    plan = results.plan
    if plan.kind != "scaling":
        return None
    names = dict.fromkeys(arm.factors["family"] for arm in plan.arms)
    measured = {family: _measured(results, arms, family) for family in names}
    families = {family: found for family, found in measured.items() if not isinstance(found, str)}
    laws = extrapolate(families, plan.margin, planned=len(names)) if families else {}
    bounds = frozenset(arm.factors["family"] for arm in plan.arms if arms[arm.name].likelihood == "bound")
    said = [_sentence(law, plan, bound=family in bounds) for family, law in laws.items()]
    said += [f"{family}: no law; {why}." for family, why in measured.items() if isinstance(why, str)]
    return Scaling(laws, bounds, (*said, MEANINGS))


def _measured(
    results: StudyResults, arms: Mapping[str, ArmSummary], family: str
) -> tuple[np.ndarray, np.ndarray] | str:
    """Return a family's sizes, the held-out one last, and its losses by seed; or why it has no law."""
    plan = results.plan
    sizes, columns = {}, {}
    for arm in plan.arms:
        if arm.factors["family"] != family:
            continue
        values = results.values(arm.name)
        for fate, said in (("diverged", "has no finite loss"), ("leaks", "sees what it predicts")):
            if fate in values.values():
                return f"a cell of {arm.name} {said}"
        cost = arms[arm.name].costs.get(plan.against)
        if cost is None or not cost.median:
            return f"the size of {arm.name} is not known"
        sizes[arm.factors["size"]], columns[arm.factors["size"]] = cost.median, list(values.values())
    order = sorted(sizes, key=lambda size: (size == plan.held_out, sizes[size]))
    losses = np.array([[math.nan if v is None else v for v in columns[size]] for size in order], dtype=float).T
    losses = losses[np.isfinite(losses).all(axis=1)]
    if len(losses) < FEWEST_SEEDS:
        return f"{count(len(losses), 'seed')} of {len(plan.seeds)} ended at every size, and {FEWEST_SEEDS} are needed"
    x = np.array([sizes[size] for size in order])
    if x[-1] <= x[:-1].max():
        return f"the held-out size of {amount(x[-1])} is inside the fitted range, which ends at {amount(x[:-1].max())}"
    return x, losses


def _sentence(found: Extrapolation, plan: Plan, *, bound: bool) -> str:
    law, seen, unit, planned = found.law, float(found.seen.mean()), COSTS[plan.against].heading, len(plan.seeds)
    low, high = found.interval
    why = {
        "held": f"the interval is narrower than the margin of {plan.margin:g} and covers it",
        "not held": "the interval does not cover it",
        "not settled": "the sizes do not determine the exponent"
        if law.at_limit
        else f"the interval covers it, but is not narrower than the margin of {plan.margin:g}; more seeds narrow it",
    }[found.verdict]
    seeds = len(found.seen)
    provisional = "" if seeds == planned else f", provisional with {seeds} of {count(planned, 'seed')}"
    floor = f"offset {_range(found.offsets)}"
    if not any(found.offsets):
        floor = "none for the offset, as 0 fits best: these sizes show no lower limit of the loss"
    return (
        f"{found.family}: {found.verdict}{provisional}. Fitted to {len(found.sizes)} sizes of {amount(found.sizes[0])} "
        f"to {amount(found.sizes[-1])} {unit}, the loss is {law.offset:.3g} + {law.scale:.3g} · "
        f"(N / {amount(law.unit)})^−{law.exponent:.3g} nats per character (95% intervals: exponent "
        f"{_range(found.exponents)}, {floor}). At {amount(found.size)} {unit}, "
        f"which took no part in the fit, {nats(found.predicted)} is predicted ({percent(found.confidence)} interval "
        f"{nats(low)} to {nats(high)}) and {nats(seen)} was reached: {why}."
        f"{' The losses are upper bounds (≤), and the law is that of the bounds.' * bound}"
    )


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}".replace("-", "−")


def law_row(found: Extrapolation) -> dict[str, Any]:
    """Return the figures of a law in full precision."""
    law = found.law
    ends = {"exponent": found.exponents, "offset": found.offsets, "interval": found.interval}
    return {
        "family": found.family, "verdict": found.verdict, "seeds": len(found.seen), "offset": law.offset,
        "scale": law.scale, "exponent": law.exponent, "unit": law.unit, "held_out": found.size,
        "predicted": found.predicted, "reached": float(found.seen.mean()), "confidence": found.confidence,
        **{f"{name}_low": low for name, (low, _) in ends.items()},
        **{f"{name}_high": high for name, (_, high) in ends.items()},
    }  # fmt: skip


def draw_law(axes: Axes, found: Extrapolation, look: Look) -> None:
    """Draw a family's losses, its law, and the prediction for the held-out size."""
    for size, losses in zip([*found.sizes, found.size], [*found.losses.T, found.seen], strict=True):
        axes.plot([size] * len(losses), losses, look.marker, color=look.color, markersize=3, alpha=0.6)
    for x, style in (
        (np.geomspace(found.sizes[0], found.sizes[-1], 100), "-"),
        (np.geomspace(found.sizes[-1], found.size, 30), (0, (3, 2))),
    ):
        axes.plot(x, found.law(x), color=look.color, linestyle=style, linewidth=1.2)
    axes.plot([found.size] * 2, found.interval, color=look.color, linewidth=5, alpha=0.35, solid_capstyle="butt")
    axes.plot([found.size], [found.seen.mean()], "D", color=look.color, markersize=5, markeredgecolor="white")
