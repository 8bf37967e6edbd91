"""Fit the loss over sizes by a power law with an offset, and test it on a larger, held-out size.

The law is L(N) = E + A·N^−α (Kaplan et al. 2020, arXiv 2001.08361; with the offset, Hoffmann et al. 2022, arXiv
2203.15556). It is fitted to the means over seeds by least squares. The seeds show how far off the prediction may be:
each is left out once, and the jackknife's pseudovalues (Tukey 1958), treated as independent values of the prediction
error, give its t-interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from charlab.studies.evidence import holm_levels, mean_interval

FEWEST_SEEDS = 3  # for an interval
EXPONENTS = (0.01, 4.0)  # the smallest and largest that are tried
_GRID = 40  # exponents of the coarse search

LawVerdict = Literal["held", "not held", "not settled"]


@dataclass(frozen=True)
class Law:
    """A power law with an offset, L(N) = E + A·(N / N₀)^−α.

    Attributes:
        offset: E, the loss that no size goes below; 0 or more.
        scale: A, the loss above E at N₀; 0 or more.
        exponent: α.
        unit: N₀, the geometric mean of the fitted sizes.
    """

    offset: float
    scale: float
    exponent: float
    unit: float

    def __call__(self, size: np.ndarray | float) -> np.ndarray:
        """Return the loss at a size."""
        return self.offset + self.scale * (np.asarray(size, dtype=float) / self.unit) ** -self.exponent

    @property
    def at_limit(self) -> bool:
        """Whether the sizes do not determine the exponent: it is the smallest or largest that is tried, or A is 0."""
        low, high = EXPONENTS
        return self.scale == 0 or not low * 1.01 < self.exponent < high / 1.01


def fit(sizes: np.ndarray, losses: np.ndarray) -> Law:
    """Return the law that fits losses (K,) at sizes (K,) best, by least squares.

    For a given exponent, E ≥ 0 and A ≥ 0 follow by linear least squares. The exponent is searched on a grid, and then
    between the neighbors of the best one.
    """
    unit = float(np.exp(np.log(sizes).mean()))
    logs = np.log(np.asarray(sizes, dtype=float) / unit)

    def parts(log_exponent: float) -> tuple[np.ndarray, float]:
        columns = np.stack([np.ones(len(logs)), np.exp(-math.exp(log_exponent) * logs)], axis=1)
        return optimize.nnls(columns, losses)

    grid = np.log(np.geomspace(*EXPONENTS, _GRID))
    best = int(np.argmin([parts(log_exponent)[1] for log_exponent in grid]))
    ends = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    found = optimize.minimize_scalar(lambda x: parts(x)[1] ** 2, bounds=ends, method="bounded", options={"xatol": 1e-8})
    log_exponent = min((found.x, grid[best]), key=lambda x: parts(x)[1])
    (offset, scale), _ = parts(log_exponent)
    return Law(float(offset), float(scale), math.exp(log_exponent), unit)


@dataclass(frozen=True)
class Extrapolation:
    """A law, and its prediction for a larger, held-out size.

    Attributes:
        law: the law, fitted to the means over seeds.
        exponents: 95% interval of the exponent.
        offsets: 95% interval of the offset, cut off at 0; 0 at both ends if the fit has no offset.
        sizes: (K,) sizes that were fitted.
        losses: (S, K) their losses by seed.
        size: the held-out size; (S,) `seen` are its losses by seed.
        interval: the prediction interval of its mean loss over these seeds.
        confidence: confidence level of the interval, by Holm's method over the families.
        verdict: "held" if the interval covers the mean and is narrower than the margin, "not held" if it does not cover
            it, else "not settled".
    """

    family: str
    law: Law
    exponents: tuple[float, float]
    offsets: tuple[float, float]
    sizes: np.ndarray
    losses: np.ndarray
    size: float
    seen: np.ndarray
    predicted: float
    interval: tuple[float, float]
    confidence: float
    verdict: LawVerdict


def extrapolate(
    families: Mapping[str, tuple[np.ndarray, np.ndarray]], margin: float, planned: int | None = None
) -> dict[str, Extrapolation]:
    """Return the law of each family over its smaller sizes, tested on its largest.

    Args:
        families: for each name, the increasing sizes (K + 1,), and losses (S, K + 1) by seed, all finite.
        planned: number of families that share the error rate, with those that are not given; by default, those given.
    """
    errors = {name: _jackknife(sizes, losses) for name, (sizes, losses) in families.items()}
    p_values = np.array([_p_value(error) for *_, error in errors.values()])
    absent = np.ones(0 if planned is None else planned - len(p_values))  # which helps no other family
    levels = holm_levels(np.concatenate([p_values, absent]))[: len(p_values)]
    found = {}
    for (name, (sizes, losses)), level in zip(families.items(), levels.tolist(), strict=True):
        law, pseudo, error = errors[name]
        seen = losses[:, -1]
        low, high = mean_interval(error, 1 - level)
        interval = (float(seen.mean()) - high, float(seen.mean()) - low)
        offsets = mean_interval(pseudo[:, 1])
        covers = interval[0] <= seen.mean() <= interval[1]
        narrow = high - low < margin and not law.at_limit
        found[name] = Extrapolation(
            family=name,
            law=law,
            exponents=mean_interval(pseudo[:, 0]),
            offsets=(max(offsets[0], 0.0), max(offsets[1], 0.0)),
            sizes=sizes[:-1],
            losses=losses[:, :-1],
            size=float(sizes[-1]),
            seen=seen,
            predicted=sum(interval) / 2,
            interval=interval,
            confidence=1 - level,
            verdict="not held" if not covers else "held" if narrow else "not settled",
        )
    return found


def _jackknife(sizes: np.ndarray, losses: np.ndarray) -> tuple[Law, np.ndarray, np.ndarray]:
    """Return the law, pseudovalues (S, 2) of its exponent and offset, and those (S,) of seen − predicted."""
    seeds = len(losses)

    def estimates(rows: np.ndarray) -> tuple[Law, np.ndarray]:
        law = fit(sizes[:-1], rows[:, :-1].mean(0))
        return law, np.array([law.exponent, law.offset, float(rows[:, -1].mean() - law(sizes[-1]))])

    law, whole = estimates(losses)
    without = np.array([estimates(np.delete(losses, seed, axis=0))[1] for seed in range(seeds)])
    pseudo = seeds * whole - (seeds - 1) * without
    return law, pseudo[:, :2], pseudo[:, 2]


def _p_value(errors: np.ndarray) -> float:
    """Return the two-sided p-value of the t-test that the mean prediction error is zero."""
    if not errors.std():
        return float(not errors.any())
    return float(stats.ttest_1samp(errors, 0.0).pvalue)
