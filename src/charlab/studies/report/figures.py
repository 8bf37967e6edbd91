"""A study's figures: the data behind them, learning curves, and quality against cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from charlab.curves import VALIDATION
from charlab.quantities import amount
from charlab.studies.costs import COSTS
from charlab.studies.report.contents import Contents
from charlab.studies.report.differences import draw_differences
from charlab.studies.report.factors import Factor, draw_line
from charlab.studies.report.scaling import draw_law
from charlab.studies.report.style import FAINT_INK, GRID, End, label_at_right, label_width, looks, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.state import StudyResults

PAGE_WIDTH = 4.0  # inches: what a phone shows without making letters smaller
PAPER_WIDTH = 5.5
CLOCKS = {"step": "optimizer steps", "characters": "characters seen", "seconds": "training seconds"}

AXES = {f"curves-{clock}": f"Loss against {label}" for clock, label in CLOCKS.items()} | {
    f"costs-{name}": f"Loss against {cost.axis}" for name, cost in COSTS.items()
}  # titles of the figures on a page

_HEIGHT_PER_ARM = 0.11  # inches, for its label
MOST_FACTORS = 3  # panels below each other
_NUM_POINTS = 200  # of a curve, at most


class Curve(NamedTuple):
    """An arm's loss while training: (N,) each."""

    x: Float[np.ndarray, " N"]
    mean: Float[np.ndarray, " N"]
    low: Float[np.ndarray, " N"]
    high: Float[np.ndarray, " N"]


class Drawings:
    """Draw the figures of a report, within `style.drawing()`."""

    def __init__(self, results: StudyResults, contents: Contents) -> None:
        self.contents = contents
        self.factors = contents.factors[:MOST_FACTORS]
        self.looks = looks(list(contents.arms), contents.plan.baseline)
        self.curves: dict[str, dict[str, Curve]] = {clock: {} for clock in CLOCKS}
        for name in contents.arms:
            points = results.curves(name)
            points = points[points["seed"].isin(list(results.records(name)))]  # a diverged run ends early
            for clock in CLOCKS:
                curve = curve_over_seeds(points, clock)
                if curve is not None:
                    self.curves[clock][name] = curve

    def for_page(self) -> dict[str, Figure]:
        """Return the figures for a screen, one panel each, by name."""
        found = self._differences(PAGE_WIDTH) | self._scaling(PAGE_WIDTH, 2.5)
        if self.curves["step"]:
            found |= {f"curves-{clock}": self._draw_curves([clock], PAGE_WIDTH, 2.5) for clock in CLOCKS}
        found |= {f"factors-{factor.name}": self._draw_factors([factor], PAGE_WIDTH, 2.5) for factor in self.factors}
        costs = self.contents.compared_costs
        return found | {f"costs-{cost}": self._draw_costs([cost], PAGE_WIDTH, 2.5) for cost in costs}

    def for_paper(self) -> dict[str, Figure]:
        """Return the figures for a paper, with all their panels, by name."""
        found = self._differences(PAPER_WIDTH) | self._scaling(PAPER_WIDTH, 2.2)
        if self.factors:
            found["factors"] = self._draw_factors(self.factors, PAPER_WIDTH, 1.75 if len(self.factors) == 1 else 1.3)
        if self.curves["step"]:
            found["curves"] = self._draw_curves(list(CLOCKS), PAPER_WIDTH, 1.6)
        if costs := self.contents.compared_costs:
            found["costs"] = self._draw_costs(costs, PAPER_WIDTH, 1.6)
        return found

    def _differences(self, width: float) -> dict[str, Figure]:
        judgments = self.contents.judgments
        if not any(judgment.comparison.differences for judgment in judgments):
            return {}
        return {"differences": draw_differences(judgments, self.looks, width=width)}

    def _scaling(self, width: float, height: float) -> dict[str, Figure]:
        """Draw the laws of a scaling study, if it has any."""
        found = self.contents.scaling
        if not found or not found.laws:
            return {}
        shown = looks(list(found.laws), next(iter(found.laws)))
        ends = [
            (law.seen.mean(), f"{'≤ ' * (family in found.bounds)}{shown[family].label}", shown[family].color)
            for family, law in found.laws.items()
        ]
        ends += self._floor
        figure, [axes] = new_figure(width, height, right=label_width(ends))
        for family, law in found.laws.items():
            draw_law(axes, law, shown[family])
        _finish(axes, COSTS[self.contents.plan.against].axis, self.contents.floor, logarithmic=True)
        axes.set_ylabel("nats per character")
        label_at_right(axes, ends)
        return {"scaling": figure}

    def _draw_curves(self, clocks: list[str], width: float, height: float) -> Figure:
        """Draw the loss on validation text while training, a panel for each clock: mean over seeds, and range."""
        arms, floor = self.contents.arms, self.contents.floor
        low, high = _loss_limits(self.curves[clocks[0]], arms, floor)
        ends = [
            (curve.mean[-1], f"{self._label(name)}{' ↓' if curve.mean[-1] < low else ''}", self.looks[name].color)
            for name, curve in self.curves[clocks[-1]].items()
        ]
        ends += self._floor
        figure, panels = new_figure(width, self._height(height), len(clocks), right=label_width(ends))
        panels[0].set_ylim(low, high)
        for axes, clock in zip(panels, clocks, strict=True):
            for name, curve in self.curves[clock].items():
                look, alpha = self.looks[name], 0.45 if arms[name].leaks else 1.0
                axes.fill_between(curve.x, curve.low, curve.high, color=look.color, alpha=0.15 * alpha, linewidth=0)
                marker = look.marker if len(curve.x) == 1 else None
                axes.plot(curve.x, curve.mean, color=look.color, linestyle=look.line, linewidth=1.2, alpha=alpha,
                          marker=marker, markersize=4, clip_on=len(curve.x) > 1)  # fmt: skip
            _finish(axes, CLOCKS[clock], floor)
            if (target := self.contents.plan.target) is not None:
                axes.axhline(target, color=FAINT_INK, linewidth=0.9, linestyle=":")
        panels[0].set_ylabel("nats per character")
        label_at_right(panels[-1], ends)
        return figure

    def _draw_factors(self, factors: Sequence[Factor], width: float, height: float) -> Figure:
        """Draw the loss against numeric factors: panels of one height below each other, each with its own labels."""
        shown = [looks(["", *(line.label for line in factor.lines if line.label)], "") for factor in factors]
        ends = [
            [(line.mean[np.isfinite(line.mean)][-1], own[line.label].label, own[line.label].color)
             for line in factor.lines if line.label]
            for factor, own in zip(factors, shown, strict=True)
        ]  # fmt: skip
        right, number = label_width(itertools.chain.from_iterable(ends)), len(factors)
        figure, panels = new_figure(width, number * height, number, right=right, below=True)
        for axes, factor, own in zip(panels, factors, shown, strict=True):
            for line in factor.lines:
                draw_line(axes, line, own[line.label])
            _finish(axes, factor.name, None, logarithmic=any(line.logarithmic for line in factor.lines))
            axes.margins(0.05)
            axes.set_ylabel("nats per character")
        for axes, labels in zip(panels, ends, strict=True):  # now that the limits that they share are known
            label_at_right(axes, labels)
        return figure

    def _draw_costs(self, costs: list[str], width: float, height: float) -> Figure:
        """Draw what each arm reached against its median cost, a panel for each cost, with the 95% interval of nll."""
        arms = {name: arm for name, arm in self.contents.arms.items() if arm.mean is not None and not arm.leaks}
        ends = [(arm.figures["value"].mean, self._label(name), self.looks[name].color) for name, arm in arms.items()]
        ends += self._floor
        figure, panels = new_figure(width, self._height(height), len(costs), right=label_width(ends))
        for axes, cost in zip(panels, costs, strict=True):
            medians = {name: arm.costs[cost].median for name, arm in arms.items() if cost in arm.costs}
            known = {name: median for name, median in medians.items() if median}
            for name, median in known.items():
                mean, half_width = arms[name].figures["value"]
                error, look = half_width if math.isfinite(half_width) else 0.0, self.looks[name]
                axes.errorbar([median], [mean], [error], color=look.color, marker=look.marker, markersize=4.5,
                              elinewidth=1)  # fmt: skip
            spans_decades = bool(known) and max(known.values()) > 5 * min(known.values())
            _finish(axes, COSTS[cost].axis, self.contents.floor, logarithmic=spans_decades)
        panels[0].set_ylabel("nats per character")
        panels[0].margins(y=0.12)
        label_at_right(panels[-1], ends)
        return figure

    @property
    def _floor(self) -> list[End]:
        """The label of the line at the entropy of the text, if that is known."""
        floor = self.contents.floor
        return [] if floor is None else [(floor, "entropy of the text", FAINT_INK)]

    def _label(self, name: str) -> str:
        arm = self.contents.arms[name]
        return f"{'≤ ' * (arm.likelihood == 'bound')}{self.looks[name].label}{' (leaks)' * arm.leaks}"

    def _height(self, least: float) -> float:
        """Return a height with room for the labels of all arms."""
        return max(least, _HEIGHT_PER_ARM * len(self.contents.arms) + 0.5)


def curve_over_seeds(points: pd.DataFrame, clock: str) -> Curve | None:
    """Return the mean over seeds with the range; None if nothing finite was measured.

    Seeds take different times, and with a budget in seconds different numbers of steps. So they are compared at the
    same fractions of their steps, each interpolated between its own points, and x is the mean of their clocks there.

    Args:
        points: a row per measurement: step, characters, seconds, metric, value, seed.
        clock: the column that becomes x.
    """
    points = points[np.isfinite(points["value"].astype(float))]
    metric = _metric(set(points["metric"]))
    names = VALIDATION if metric in VALIDATION else (metric,)  # seeds may be of different versions
    seeds = []
    for _, rows in points[points["metric"].isin(names)].groupby("seed"):
        steps, first = np.unique(rows["step"].to_numpy(dtype=float), return_index=True)
        fractions = steps / max(steps[-1], 1)
        seeds.append((fractions, *(rows[column].to_numpy(dtype=float)[first] for column in (clock, "value"))))
    if not seeds:
        return None
    start = max(fractions[0] for fractions, _, _ in seeds)
    shared = np.unique(np.concatenate([fractions[fractions >= start] for fractions, _, _ in seeds]))
    if len(shared) > _NUM_POINTS:
        shared = np.linspace(shared[0], shared[-1], _NUM_POINTS)
    x = np.stack([np.interp(shared, own, clocks) for own, clocks, _ in seeds])  # (S, N)
    values = np.stack([np.interp(shared, own, losses) for own, _, losses in seeds])  # (S, N)
    return Curve(x.mean(0), values.mean(0), values.min(0), values.max(0))


def _metric(names: Collection[str]) -> str | None:
    """Return what a curve shows: an estimate on validation text, else another loss on it, else the training loss."""
    others = sorted(name for name in names if name.endswith("/validation/nll"))
    return next((name for name in [*VALIDATION, *others, "train/loss"] if name in names), None)


def _loss_limits(
    curves: Mapping[str, Curve], arms: Mapping[str, ArmSummary], floor: float | None
) -> tuple[float, float]:
    """Return limits that hold the curves but for their first fifth, which may be above.

    The false loss of a leaking arm counts only if fewer than two other arms are drawn.
    """
    trusted = [curve for name, curve in curves.items() if not arms[name].leaks]
    shown = trusted if len(trusted) > 1 else list(curves.values())
    last = max(curve.x[-1] for curve in shown)
    lows = [float(np.min(curve.low)) for curve in shown]
    starts = [min(np.searchsorted(curve.x, 0.2 * last), len(curve.x) - 1) for curve in shown]
    highs = [float(np.max(curve.high[start:])) for curve, start in zip(shown, starts, strict=True)]
    low, high = min(lows if floor is None else [*lows, floor]), max(highs)
    pad = 0.05 * max(high - low, 0.02)
    return low - pad, high + pad


def _finish(axes: Axes, label: str, floor: float | None, *, logarithmic: bool = False) -> None:
    """Draw a line at the entropy of the text, and format the horizontal axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if floor is not None:
        axes.axhline(floor, color=FAINT_INK, linewidth=0.9, linestyle=(0, (5, 3)))
    axes.set_xlabel(label)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 3), numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
        axes.margins(x=0.08 if axes.get_lines() and axes.containers else 0.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(value: float) -> str:
    if abs(value) < 1e4:
        return f"{value:g}"
    if abs(value) < 1e7:
        return f"{value / 1e3:g} k" if abs(value) < 1e6 else f"{value / 1e6:g} M"
    return amount(value)
