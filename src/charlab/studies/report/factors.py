"""Results over a numeric factor, such as a learning rate: a curve, its optimum, and how sharp the optimum is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from charlab.quantities import three_digits
from charlab.studies.evidence import mean_interval
from charlab.studies.report.style import ALARM, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from charlab.studies.state import StudyResults

FEWEST_VALUES = 3  # of a factor, for a curve
_LOGARITHMIC = 4.0  # ratio of the largest value to the smallest from which the axis is logarithmic
_FINE = 1001  # points of the interpolated curve


@dataclass(frozen=True)
class Line:
    """The results of the arms that differ in one factor alone.

    Attributes:
        label: values of the other factors; "" if there are none.
        x: (K,) values of the factor, increasing.
        values: (S, K) nats per character by seed; infinite if the run diverged.
        logarithmic: whether distances between values of the factor are ratios.
        planned: the study's number of seeds, if some of them are left out.
    """

    label: str
    x: np.ndarray
    values: np.ndarray
    logarithmic: bool
    planned: int = 0

    @property
    def mean(self) -> np.ndarray:
        """(K,) mean over seeds; infinite where a run diverged."""
        return self.values.mean(axis=0)

    @property
    def half_width(self) -> np.ndarray:
        """(K,) half the width of the 95% t-interval of the mean; 0 with a single seed."""
        if len(self.values) < 2:
            return np.zeros(len(self.x))
        with np.errstate(invalid="ignore"):
            return np.array([np.ptp(mean_interval(column)) / 2 for column in self.values.T])

    def optima(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the best value of the factor by seed, and whether it is at an end of the grid.

        Between the values of the grid, the best is the vertex of the parabola through the lowest point and its
        neighbors.
        """
        position = self._position(self.x)
        best, at_end = [], []
        for row in self.values:
            lowest = int(np.argmin(row))
            inside = 0 < lowest < len(row) - 1 and bool(np.isfinite(row[lowest - 1 : lowest + 2]).all())
            at_end.append(lowest in (0, len(row) - 1))
            best.append(_vertex(position[lowest - 1 : lowest + 2], row[lowest - 1 : lowest + 2]) if inside
                        else position[lowest])  # fmt: skip
        return self._value(np.array(best)), np.array(at_end)

    def optimum(self) -> tuple[float, tuple[float, float]]:
        """Return the best value of the factor, the mean over seeds, and its 95% t-interval, infinite for one seed."""
        positions = self._position(self.optima()[0])
        low, high = mean_interval(positions)
        return float(self._value(positions.mean())), (float(self._value(low)), float(self._value(high)))

    def tolerated(self, margin: float) -> tuple[float, float]:
        """Return the range around the optimum in which the mean is within the margin of the lowest mean."""
        position, best = self._position(self.x), int(self.mean.argmin())
        gaps = np.flatnonzero(~np.isfinite(self.mean))  # where a run diverged, the range ends
        first, last = gaps[gaps < best].max(initial=-1) + 1, gaps[gaps > best].min(initial=len(position))
        fine = np.linspace(position[first], position[last - 1], _FINE)
        curve = np.interp(fine, position[first:last], self.mean[first:last])
        lowest = int(curve.argmin())
        outside = np.flatnonzero(curve > curve[lowest] + margin)
        low = outside[outside < lowest].max(initial=-1) + 1
        high = outside[outside > lowest].min(initial=_FINE) - 1
        return float(self._value(fine[low])), float(self._value(fine[high]))

    def sentence(self, factor: str, margin: float) -> str:
        """Return a sentence on the best value of the factor."""
        name = f"{factor}, {self.label}" if self.label else factor
        if len(self.values) < self.planned:
            name += f", over {len(self.values)} of {self.planned} seeds"
        optimum, ends = self.optimum()
        best, low, high, least, most = map(three_digits, (optimum, *ends, *self.tolerated(margin)))
        at_end, several = int(self.optima()[1].sum()), len(self.values) > 1
        if at_end:
            seeds = f" for {at_end} of {len(self.values)} seeds" * several
            return f"{name}: the best value, {best}, is at the end of the grid{seeds}, so the grid is too short."
        return (
            f"{name}: the best value is {best}{f' (95% interval {low} to {high})' * several}; from {least} to {most}, "
            f"the loss is within {margin:g} nats per character of the lowest."
        )

    def _position(self, x: np.ndarray) -> np.ndarray:
        return np.log(x) if self.logarithmic else np.asarray(x, dtype=float)

    def _value(self, position: np.ndarray | float) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.exp(position) if self.logarithmic else np.asarray(position)


@dataclass(frozen=True)
class Factor:
    """A numeric factor with the lines of its results."""

    name: str
    lines: tuple[Line, ...]

    def sentences(self, margin: float) -> list[str]:
        """Return the sentence of each line."""
        return [line.sentence(self.name, margin) for line in self.lines]


def numeric_factors(results: StudyResults) -> tuple[Factor, ...]:
    """Return the numeric factors of a grid that has results for three or more of their values."""
    names = dict.fromkeys(name for arm in results.plan.arms for name in arm.factors)
    factors = (Factor(name, tuple(_lines(results, name))) for name in names)
    return tuple(factor for factor in factors if factor.lines)


def _lines(results: StudyResults, name: str) -> Iterator[Line]:
    """Yield the line of each combination of the other factors, over the seeds with a result at all of its values."""
    groups: dict[str, dict[float, dict[int, float]]] = {}
    for arm in results.plan.arms:
        x, values = _number(arm.factors.get(name, "")), results.values(arm.name)
        losses = {seed: value for seed, value in values.items() if isinstance(value, float) and math.isfinite(value)}
        losses |= {seed: math.inf for seed, value in values.items() if value is not None and seed not in losses}
        if x is not None and losses and "leaks" not in values.values():
            others = ", ".join(f"{key}={value}" for key, value in arm.factors.items() if key != name)
            groups.setdefault(others, {})[x] = losses
    planned = len(results.plan.seeds)
    for label, found in groups.items():
        grid = np.array(sorted(found))
        seeds = [seed for seed in results.plan.seeds if all(seed in losses for losses in found.values())]
        if len(grid) < FEWEST_VALUES or len(seeds) < min(planned, 2):
            continue
        table = np.array([[found[value][seed] for value in grid] for seed in seeds])
        if np.isfinite(table).all(axis=0).any():  # else there is no mean to draw
            logarithmic = bool(grid[0] > 0 and grid[-1] / grid[0] >= _LOGARITHMIC)
            yield Line(label, grid, table, logarithmic, planned)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Return where the parabola through three points is lowest; the middle one is not above the others."""
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    if right == left:
        return float(x[1])
    return float((x[0] + x[1]) / 2 - left * (x[2] - x[0]) / (2 * (right - left)))


def draw_line(axes: Axes, line: Line, look: Look) -> None:
    """Draw a line with its band, its optimum, and a cross at the top where runs diverged."""
    finite = np.isfinite(line.mean)
    x, mean, half_width = line.x[finite], line.mean[finite], line.half_width[finite]
    axes.fill_between(x, mean - half_width, mean + half_width, color=look.color, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=look.color, linestyle=look.line, linewidth=1.2, marker=look.marker, markersize=3.5)
    for diverged in line.x[~finite]:
        axes.plot([diverged], [0.97], "x", color=ALARM, markersize=5, transform=axes.get_xaxis_transform())
    if not line.optima()[1].any():
        best, (low, high) = line.optimum()
        height = float(np.interp(best, x, mean))
        if len(line.values) > 1:
            axes.plot([max(low, line.x[0]), min(high, line.x[-1])], [height] * 2, color=look.color, linewidth=2.5)
        axes.plot([best], [height], "D", color=look.color, markersize=4.5, markeredgecolor="white")
