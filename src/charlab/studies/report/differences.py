"""The figure of differences from the baseline, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from charlab.studies.report.style import (
    ALARM,
    FAINT_INK,
    INK,
    LABEL_COLORS,
    VERDICT_COLORS,
    Look,
    new_figure,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from charlab.studies.report.contents import Judgment
    from charlab.studies.verdicts import Comparison

_SEVERAL_MARGINS = 25  # beyond that many margins the axis is logarithmic
_RATIOS = [digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5)]  # ticks, if four or more are in sight


def draw_differences(judgments: Sequence[Judgment], looks: Mapping[str, Look], *, width: float) -> Figure:
    """Draw every arm's differences from the baseline, seed by seed, with mean, interval and margin."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

    row_height = 0.4 if len(judgments) <= 6 else 0.3
    figure, [axes] = new_figure(width, row_height * len(judgments) + 0.56, left=0.12, right=0.12, bottom=0.4)
    comparisons = [judgment.comparison for judgment in judgments]
    margin, timed = comparisons[0].margin, comparisons[0].target is not None
    low, high = _limits(comparisons, margin)
    label = "← worse      baseline minus arm, nats per character      better →"
    if timed:
        unit = "steps" if comparisons[0].metric == "steps_to" else "seconds"
        label = f"← later      {unit} to {comparisons[0].target:g}, baseline over arm      sooner →"
        first, last = math.exp(low), math.exp(high)
        for ratios in (_RATIOS, MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(first, last)):
            ticks = [ratio for ratio in ratios if first < ratio < last]
            if len(ticks) >= 4:
                break
        axes.set_xticks([math.log(tick) for tick in ticks], [f"{tick:g}×" for tick in ticks])
    elif max(-low, high) > _SEVERAL_MARGINS * margin:
        axes.set_xscale("symlog", linthresh=2 * margin, linscale=0.6)
        found = SymmetricalLogLocator(base=10, linthresh=2 * margin, subs=(1, 3)).tick_values(low, high)
        axes.set_xticks([tick for tick in found if low < tick < high and (tick == 0 or abs(tick) >= margin)])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_xlim(low, high)
    axes.set_ylim(0.55 - len(judgments), 0.75)
    axes.axvspan(-margin, margin, color="0.9", linewidth=0)
    axes.axvline(0, color="0.4", linewidth=0.8)
    widths = [
        text_width(looks[judgment.comparison.arm].label, 7.5) + text_width(judgment.verdict, 7.5, "bold")
        for judgment in judgments
    ]
    size = 7.5 * min(1.0, (width - 0.4) / max(widths))  # so that names and verdicts do not meet
    for i, judgment in enumerate(judgments):
        _draw_row(axes, -i, judgment, looks[judgment.comparison.arm], low, high, size)
    axes.annotate(
        f"margin {math.exp(margin):g}×" if timed else f"margin ±{margin:g}", (0, 1), (0, 2),
        ha="center", va="bottom", color=FAINT_INK, fontsize=6.5, xycoords=("data", "axes fraction"),
        textcoords="offset points", annotation_clip=False,
    )  # fmt: skip
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label, labelpad=3)
    return figure


def _limits(comparisons: Sequence[Comparison], margin: float) -> tuple[float, float]:
    """Return limits that hold all pairs, and the intervals unless they are many times as long."""
    pairs = [d for comparison in comparisons for d in comparison.differences.values() if math.isfinite(d)]
    reach = max([1.6 * margin, *map(abs, pairs)])
    ends = [end for comparison in comparisons for end in comparison.interval if abs(end) < 3 * reach]
    low, high = min([-1.6 * margin, *pairs, *ends]), max([1.6 * margin, *pairs, *ends])
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _draw_row(axes: Axes, center: float, judgment: Judgment, look: Look, low: float, high: float, size: float) -> None:
    comparison, color = judgment.comparison, look.color
    place: Any = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": size}
    axes.annotate(look.label, (0, center + 0.42), color=LABEL_COLORS.get(color, color), **place)
    verdict_color = VERDICT_COLORS.get(judgment.shown, FAINT_INK if comparison.too_few_seeds else INK)
    axes.annotate(judgment.verdict, (1, center + 0.42), ha="right", fontweight="bold", color=verdict_color, **place)
    pairs = list(comparison.differences.values())
    fate = "not finite" if comparison.target is None else "not reached"
    finite = [pair for pair in pairs if math.isfinite(pair)]
    axes.plot(finite, [center] * len(finite), "o", markersize=4, markerfacecolor="none", color=color, alpha=0.75)
    for bound, edge, marker, shift, align in ((math.inf, high, ">", -7, "right"), (-math.inf, low, "<", 7, "left")):
        if diverged := pairs.count(bound):
            axes.plot([edge], [center], marker, color=ALARM, markersize=5, clip_on=False)
            axes.annotate(f"{diverged} {fate}", (edge, center), (shift, 0), textcoords="offset points", ha=align,
                          va="center", fontsize=6.5, color=ALARM)  # fmt: skip
    if comparison.n < 2:
        return
    left, right = comparison.interval
    ends = [min(max(end, low), high) for end in (left, right)]
    axes.plot(ends, [center - 0.2] * 2, color=color, linewidth=1.8, solid_capstyle="butt")
    for beyond, edge, marker in ((left < low, low, "<"), (right > high, high, ">")):
        if beyond:
            axes.plot([edge], [center - 0.2], marker, color=color, markersize=4, clip_on=False)
    if math.isfinite(comparison.mean):
        axes.plot([comparison.mean], [center - 0.2], "D", color=color, markersize=4)
