"""A study's figures: differences per seed, learning curves, quality against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from charlab.studies.report.drawing import (
    ALARM,
    FAINT_INK,
    GRID,
    INK,
    Look,
    label_at_right,
    label_width,
    new_figure,
)
from charlab.studies.report.wording import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from charlab.studies.comparison import Comparison
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.report.contents import Judgment
    from charlab.studies.report.curves import Curve

VERDICT_COLORS = {"supported": "#00694B", "equivalent": "#0072B2", "refuted": "#A94400"}
SEVERAL_MARGINS = 25  # beyond that many margins the axis of differences is logarithmic

CLOCKS = {"step": "optimizer steps", "characters": "characters seen", "seconds": "training seconds"}
COSTS = {"training_s": "training seconds", "flops": "training FLOPs", "parameters": "parameters"}


class _Row(NamedTuple):
    center: float
    comparison: Comparison
    look: Look
    verdict: str


def draw_differences(judgments: Sequence[Judgment], looks: Mapping[str, Look], *, width: float) -> Figure:
    """Draws every arm's differences from the baseline, seed by seed, with their mean, its interval and the margin.

    Args:
        judgments: one for each arm, at least one.
        looks: by arm.
        width: of the figure in inches.
    """
    row_height = 0.4 if len(judgments) <= 6 else 0.3
    from matplotlib.ticker import FuncFormatter

    figure, [axes] = new_figure(width, row_height * len(judgments) + 0.56, left=0.12, right=0.12, bottom=0.4)
    rows = [
        _Row(-i, judgment.comparison, looks[judgment.comparison.arm], judgment.verdict)
        for i, judgment in enumerate(judgments)
    ]
    margin = rows[0].comparison.margin
    low, high = _difference_limits([row.comparison for row in rows], margin)
    if max(-low, high) > SEVERAL_MARGINS * margin:
        axes.set_xscale("symlog", linthresh=2 * margin, linscale=0.6)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_xlim(low, high)
    axes.set_ylim(0.55 - len(rows), 0.75)
    axes.axvspan(-margin, margin, color="0.9", linewidth=0)
    axes.axvline(0, color="0.4", linewidth=0.8)
    for row in rows:
        _draw_row(axes, row, low, high)
    axes.annotate(
        f"margin ±{margin:g}", (0, 1), (0, 2), textcoords="offset points", ha="center", va="bottom",
        color=FAINT_INK, fontsize=6.5, xycoords=("data", "axes fraction"), annotation_clip=False,
    )  # fmt: skip
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("← worse      baseline minus arm, nats per character      better →", labelpad=3)
    return figure


def _difference_limits(comparisons: Sequence[Comparison], margin: float) -> tuple[float, float]:
    """Returns limits that hold all pairs, and intervals unless they are many times as long."""
    pairs = [d for comparison in comparisons for d in comparison.differences.values() if math.isfinite(d)]
    reach = max([1.6 * margin, *map(abs, pairs)])
    ends = [end for comparison in comparisons for end in comparison.interval_95 if abs(end) < 3 * reach]
    low, high = min([-1.6 * margin, *pairs, *ends]), max([1.6 * margin, *pairs, *ends])
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _draw_row(axes: Axes, row: _Row, low: float, high: float) -> None:
    center, comparison, look, verdict = row
    color = look.color
    axes.annotate(
        look.label, (0, center + 0.42), xycoords=("axes fraction", "data"), fontsize=7.5, va="center", color=color
    )
    axes.annotate(
        verdict,
        (1, center + 0.42),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="center",
        fontsize=7.5,
        fontweight="bold",
        color=VERDICT_COLORS.get(comparison.verdict, INK),
    )
    pairs = list(comparison.differences.values())
    finite = [pair for pair in pairs if math.isfinite(pair)]
    axes.plot(finite, [center] * len(finite), "o", markersize=4, markerfacecolor="none", color=color, alpha=0.75)
    for bound, marker in ((math.inf, ">"), (-math.inf, "<")):
        diverged = pairs.count(bound)
        if diverged:
            edge = high if bound > 0 else low
            axes.plot([edge], [center], marker, color=ALARM, markersize=5, clip_on=False)
            axes.annotate(
                f"{diverged} diverged", (edge, center), (-7 if bound > 0 else 7, 0), textcoords="offset points",
                ha="right" if bound > 0 else "left", va="center", fontsize=6.5, color=ALARM,
            )  # fmt: skip
    if comparison.n < 2:
        return
    left, right = comparison.interval_95
    axes.plot([max(left, low), min(right, high)], [center - 0.2] * 2, color=color, linewidth=1.8, solid_capstyle="butt")
    for end, edge, marker in ((left, low, "<"), (right, high, ">")):
        if not low <= end <= high:
            axes.plot([edge], [center - 0.2], marker, color=color, markersize=4, clip_on=False)
    axes.plot([comparison.mean], [center - 0.2], "D", color=color, markersize=4)


def draw_curves(
    curves: Mapping[str, Mapping[str, Curve]],
    arms: Mapping[str, ArmSummary],
    looks: Mapping[str, Look],
    *,
    clocks: Sequence[str],
    width: float,
    height: float,
    floor: float | None = None,
) -> Figure:
    """Draws the loss on validation text while training: the mean over seeds, and a band from the lowest to the highest.

    Args:
        curves: by clock and arm.
        arms: by name.
        looks: by arm.
        clocks: a panel for each, out of `CLOCKS`.
        width: of the figure in inches.
        height: of the figure in inches.
        floor: the entropy of the text in nats per character, where it is known.
    """
    texts = {name: _label(arms[name], look) for name, look in looks.items()}
    drawn = [name for name in looks if any(name in curves[clock] for clock in clocks)]
    right = label_width([*(texts[name] for name in drawn), "entropy of the text" if floor is not None else ""])
    figure, panels = new_figure(width, height, len(clocks), right=right + 0.1)
    low, high = _loss_limits(curves[clocks[0]], arms, floor)
    panels[0].set_ylim(low, high)
    panels[0].set_ylabel("nats per character")
    for axes, clock in zip(panels, clocks, strict=True):
        for name, curve in curves[clock].items():
            look, alpha = looks[name], 0.45 if arms[name].leaks else 1.0
            axes.fill_between(curve.x, curve.low, curve.high, color=look.color, alpha=0.15 * alpha, linewidth=0)
            marker = look.marker if len(curve.x) == 1 else None
            axes.plot(curve.x, curve.mean, color=look.color, linestyle=look.line, linewidth=1.2, alpha=alpha,
                      marker=marker, markersize=4, clip_on=len(curve.x) > 1)  # fmt: skip
        _draw_floor(axes, floor)
        _set_amounts(axes, CLOCKS[clock])
    ends = [
        (curve.mean[-1], f"{texts[name]}{' ↓' if curve.mean[-1] < low else ''}", looks[name].color)
        for name, curve in curves[clocks[-1]].items()
    ]
    label_at_right(panels[-1], ends + ([(floor, "entropy of the text", FAINT_INK)] if floor is not None else []))
    return figure


def _loss_limits(
    curves: Mapping[str, Curve], arms: Mapping[str, ArmSummary], floor: float | None
) -> tuple[float, float]:
    """Returns limits that show how the curves end; their first fifth may lie above.

    A leaking arm's false loss decides nothing, unless there is but one other arm to be drawn.
    """
    trusted = [curve for name, curve in curves.items() if not arms[name].leaks]
    shown = trusted if len(trusted) > 1 else list(curves.values())
    if not shown:
        return 0.0, 1.0
    last = max(curve.x[-1] for curve in shown)
    lows = [float(np.min(curve.low)) for curve in shown]
    highs = [float(curve.high[min(np.searchsorted(curve.x, 0.2 * last), len(curve.x) - 1)]) for curve in shown]
    low, high = min([*lows, *([floor] if floor is not None else [])]), max(highs)
    pad = 0.05 * max(high - low, 0.02)
    return low - pad, high + pad


def draw_costs(
    arms: Mapping[str, ArmSummary],
    looks: Mapping[str, Look],
    *,
    costs: Sequence[str],
    width: float,
    height: float,
    floor: float | None = None,
) -> Figure:
    """Draws what each arm reached against what it took: medians over seeds, with the 95% interval of the mean nll.

    Args:
        arms: by name; those that leak or have no value are left out.
        looks: by arm.
        costs: a panel for each, out of `COSTS`.
        width: of the figure in inches.
        height: of the figure in inches.
        floor: the entropy of the text in nats per character, where it is known.
    """
    shown = {name: arm for name, arm in arms.items() if arm.mean is not None and not arm.leaks}
    right = label_width([_label(arms[name], looks[name]) for name in shown])
    figure, panels = new_figure(width, height, len(costs), right=right + 0.1)
    for axes, cost in zip(panels, costs, strict=True):
        for name, arm in shown.items():
            x, nll = _median(arm, cost), arm.figures["value"]
            if x:
                error = nll.half_width if math.isfinite(nll.half_width) else 0.0
                look = looks[name]
                axes.errorbar([x], [nll.mean], [error], color=look.color, marker=look.marker, markersize=4.5,
                              elinewidth=1)  # fmt: skip
        _draw_floor(axes, floor)
        _set_amounts(axes, COSTS[cost], logarithmic=_spans_decades([_median(arm, cost) for arm in shown.values()]))
    panels[0].set_ylabel("nats per character")
    panels[0].margins(y=0.12)
    ends = [(arm.mean, _label(arm, looks[name]), looks[name].color) for name, arm in shown.items()]
    label_at_right(panels[-1], [(mean, text, color) for mean, text, color in ends if mean is not None])
    return figure


def _median(arm: ArmSummary, cost: str) -> float | None:
    return arm.costs[cost].median if cost in arm.costs else None


def _spans_decades(values: Sequence[float | None]) -> bool:
    known = [value for value in values if value]
    return bool(known) and max(known) > 5 * min(known)


def _label(arm: ArmSummary, look: Look) -> str:
    return f"{'≤ ' if arm.likelihood == 'bound' else ''}{look.label}{' (leaks)' if arm.leaks else ''}"


def _draw_floor(axes: Axes, floor: float | None) -> None:
    if floor is not None:
        axes.axhline(floor, color=FAINT_INK, linewidth=0.9, linestyle=(0, (5, 3)))


def _set_amounts(axes: Axes, label: str, *, logarithmic: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

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
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """Returns a tick's label."""
    if abs(value) < 1e4:
        return f"{value:g}"
    if abs(value) < 1e7:
        return f"{value / 1e3:g} k" if abs(value) < 1e6 else f"{value / 1e6:g} M"
    return amount(value)
