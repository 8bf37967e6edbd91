"""Test a study at planned looks: critical values and p-values that hold their error rate over all looks together.

A study that is tested after 6, 9, 12 and 16 seeds, each time at the 5% critical value, finds a difference that does not
exist in far more than 5% of cases. A *spending function* says how much of the 5% each look may have spent (Lan and
DeMets 1983, Biometrika 70). A mean beyond the critical value of any look is then significant, and the interval of that
width covers the true mean at all looks at once (repeated confidence intervals, Jennison and Turnbull 1989, JRSS B 51).

Published boundaries are for a known variance. With a handful of seeds, the exact distribution of the t-statistics
matters. Let u = Σd / √Σd² over the n differences so far. If the true mean is zero, the length √Σd² of the vector of
differences is independent of its direction, which determines all values of u so far. So u is a Markov chain:

    u' = (u·√Q + √m·z) / √(Q + z² + C),   Q ~ χ²(n),  z ~ N(0, 1),  C ~ χ²(m − 1)

for m further seeds, whatever the unknown variance. Its transitions are integrated numerically.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy import special

from charlab.studies.evidence import LEVEL

EDGES = np.linspace(-7.0, 7.0, 321)  # of the bins that hold the distribution, as normal quantiles
_CENTERS = (EDGES[1:] + EDGES[:-1]) / 2
_NODES = 8  # of the quadrature over Q / (Q + C)
_MANY = 500  # with this many seeds, the variance counts as known
_IDLE = 3.0  # standard deviations; few studies have such a difference
_LEVELS = np.geomspace(1e-7, 0.9999, 60)


def spent(share: np.ndarray | float) -> np.ndarray:
    """Return the share of the error rate that may be spent by a share of the seeds (Kim and DeMets 1987, with ρ = 1).

    A quarter of the seeds spends a quarter of the error rate: enough to end a study early at few seeds.
    """
    return np.asarray(share)


def critical_values(looks: Sequence[int], level: float) -> np.ndarray:
    """Return the critical value of the one-sided t-statistic at each look.

    Args:
        looks: number of seeds at each look, increasing; the first at least 2.
        level: one-sided error rate of all looks together.
    """
    return -special.stdtrit(np.subtract(looks, 1), special.ndtr(-_critical_scores(tuple(looks), level)))


def sequential_p(p: np.ndarray, look: int, looks: Sequence[int]) -> np.ndarray:
    """Return the smallest level at which a one-sided t-test is significant at a look, all looks taken together.

    The minimum over the looks so far is a p-value: without an effect, it is at most α with a probability of α at most.

    Args:
        p: one-sided p-values of the t-test over the seeds so far, of any shape.
        look: index of the look.
        looks: number of seeds at each look.

    Returns:
        The levels, from 1e-7 to 1.
    """
    if look == 0:  # exact
        return np.clip(p / spent(looks[0] / looks[-1]), _LEVELS[0], 1.0)
    score = -special.ndtri(np.maximum(p, 1e-300))
    boundaries = _boundaries(tuple(looks))[:, look]
    found = np.exp(np.interp(-score, -boundaries, np.log(_LEVELS)))
    return np.where(score < boundaries[-1], 1.0, found)


def idle_looks(looks: Sequence[int], num_arms: int) -> dict[int, float]:
    """Return the looks that could hardly settle any arm, with the difference that each needs in standard deviations."""
    needed = critical_values(looks, LEVEL / 2 / num_arms) / np.sqrt(looks)
    return {n: float(size) for n, size in zip(looks, needed, strict=True) if size > _IDLE}


@cache
def _boundaries(looks: tuple[int, ...]) -> np.ndarray:
    """Return the critical scores (levels, looks) at each of the levels of `_LEVELS`; they decrease with the level."""
    scores = np.stack([_critical_scores(looks, level) for level in _LEVELS])
    return np.minimum.accumulate(scores, axis=0)


def _critical_scores(looks: tuple[int, ...], level: float) -> np.ndarray:
    """Return the critical values of the looks as normal scores."""
    rates = np.diff(level * spent(np.divide(looks, looks[-1])), prepend=0.0)
    scores = np.empty(len(looks))
    inside = np.diff(special.ndtr(EDGES))  # (bins,) probability of each, without a significant look so far
    for look, rate in enumerate(rates):
        if look:
            inside = inside @ _transition(looks[look - 1], looks[look])
            tails = np.cumsum(inside[::-1])[::-1]  # (bins,) probability beyond the lower edge of each
            scores[look] = np.interp(-math.log(rate), -np.log(np.maximum(tails, 1e-300)), EDGES[:-1])
        else:
            scores[look] = -special.ndtri(rate)
        inside = inside * np.clip((scores[look] - EDGES[:-1]) / np.diff(EDGES), 0.0, 1.0)
    return scores


@cache
def _transition(n: int, after: int) -> np.ndarray:
    """Return the probability (bins, bins) of each bin at a look of `after` seeds, given the bin at a look of `n`."""
    m = after - n
    if m == 1 or n > _MANY:
        shares, weights = np.array([n / (n + m - 1)]), np.ones(1)
    else:  # Q / (Q + C) ~ Beta(n / 2, (m − 1) / 2)
        roots, weights = special.roots_jacobi(_NODES, (m - 1) / 2 - 1, n / 2 - 1)
        shares, weights = (1 + roots) / 2, weights / weights.sum()
    u = _direction(_CENTERS, n)[:, None, None]
    edges = _direction(EDGES, after)[None, :, None]
    start = u * np.sqrt(shares)
    # With tan φ = z / √(Q + C), u' = start·cos φ + √m·sin φ = radius·cos(φ − peak), below an edge outside one arc of φ.
    radius, peak = np.sqrt(start**2 + m), np.arctan2(np.sqrt(m), start)
    width = np.arccos(np.clip(edges / radius, -1.0, 1.0))
    nu = n + m - 1  # degrees of freedom of √ν·tan φ

    def cdf(angle: np.ndarray) -> np.ndarray:
        return special.stdtr(nu, np.sqrt(nu) * np.tan(np.clip(angle, -np.pi / 2, np.pi / 2)))

    below = 1 - ((cdf(peak + width) - cdf(peak - width)) @ weights)
    below[:, 0], below[:, -1] = 0.0, 1.0
    return np.maximum(np.diff(below, axis=1), 0.0)


def _direction(score: np.ndarray, n: int) -> np.ndarray:
    """Return u = Σd / √Σd² for the normal score of a t-statistic of n differences."""
    t = -np.sign(score) * special.stdtrit(n - 1, special.ndtr(-np.abs(score)))
    return t * math.sqrt(n) / np.sqrt(n - 1 + t**2)
