"""Paired tests over seeds of the difference between a baseline and an arm.

A difference is baseline minus arm for one seed. Lower values of the metric are better, so a positive difference means
that the arm is better. Arrays have arms along the last axis, so that thousands of studies can be tested at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from charlab.studies.definition import Expectation
from charlab.studies.parameters import MOST_SEEDS

Verdict = Literal["equivalent", "supported", "refuted", "inconclusive", "none"]

LEVEL = 0.05
_SIGN_PATTERNS = 99_999  # at most, of random sign flips
_MINUS_MARGIN, _ZERO, _PLUS_MARGIN = range(3)


class Evidence(NamedTuple):
    """One-sided p-values of each arm against −margin, 0 and +margin (the first axis of both arrays, in this order).

    Attributes:
        below: (3, …, arms); small if the difference is shown to be below the threshold.
        above: (3, …, arms); small if it is shown to be above the threshold.
    """

    below: np.ndarray
    above: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """Two-sided p-values (…, arms), small if there is a difference."""
        return np.minimum(1.0, 2 * np.minimum(self.below[_ZERO], self.above[_ZERO]))

    @property
    def equivalence(self) -> np.ndarray:
        """P-values of two one-sided tests (…, arms), below 5% if the 90% interval is inside ±margin."""
        return np.maximum(self.above[_MINUS_MARGIN], self.below[_PLUS_MARGIN])

    @property
    def mirrored(self) -> Evidence:
        """The evidence of the negated differences."""
        return Evidence(below=self.above[::-1], above=self.below[::-1])


def t_evidence(mean: np.ndarray, standard_deviation: np.ndarray, n: np.ndarray | int, margin: float) -> Evidence:
    """Return the evidence of paired t-tests.

    Args:
        mean: (…, arms) means of the differences.
        standard_deviation: (…, arms) standard deviations of the differences, with n − 1 in the denominator.
        n: (…, arms) numbers of pairs; fewer than two are no evidence.
        margin: the smallest difference that matters.
    """
    thresholds = np.array([-margin, 0.0, margin]).reshape(3, *[1] * np.ndim(mean))
    testable = np.broadcast_to(n, np.shape(mean)) > 1
    degrees = np.maximum(np.subtract(n, 1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # zero spread: certain, or no evidence if mean = threshold
        t = np.nan_to_num((mean - thresholds) / (standard_deviation / np.sqrt(n)), posinf=np.inf, neginf=-np.inf)
    return Evidence(
        below=np.where(testable, stats.t.cdf(t, degrees), 1.0), above=np.where(testable, stats.t.sf(t, degrees), 1.0)
    )


def sign_evidence(differences: np.ndarray, margin: float) -> Evidence:
    """Return the evidence of exact sign tests on the median of one arm's differences (n,), which may be infinite."""
    thresholds = np.array([[-margin], [0.0], [margin]])
    n = differences.size
    below = (differences < thresholds).sum(axis=1)
    above = (differences > thresholds).sum(axis=1)
    return Evidence(below=stats.binom.sf(below - 1, n, 0.5), above=stats.binom.sf(above - 1, n, 0.5))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return Holm-adjusted p-values over the last axis (Holm 1979, Scandinavian Journal of Statistics 6)."""
    order = np.argsort(p_values, axis=-1)
    factors = np.arange(p_values.shape[-1], 0, -1)
    adjusted = np.maximum.accumulate(np.take_along_axis(p_values, order, -1) * factors, axis=-1)
    result = np.empty_like(adjusted)
    np.put_along_axis(result, order, np.minimum(adjusted, 1.0), -1)
    return result


def decide(evidence: Evidence, expectations: Sequence[Expectation]) -> np.ndarray:
    """Return the verdict on each arm as text: the first row of the table that applies.

    | verdict      | expected: improve                         | expected: no difference                          |
    |--------------|-------------------------------------------|--------------------------------------------------|
    | equivalent   | 90% interval inside ±margin (Holm)        | (is what was expected: supported)                |
    | supported    | difference (two-sided, Holm), mean > 0    | 90% interval inside ±margin (Holm)               |
    | refuted      | 95% upper bound < margin (Holm)           | difference (two-sided, Holm) whose 95% bound on  |
    |              |                                           | the side of zero is beyond the margin (Holm)     |
    | inconclusive | else                                      | else                                             |

    The rules for *worsen* are those for *improve* with every difference negated. All tests use a level of 5%. "(Holm)"
    means adjusted over all arms, in three families: differences, equivalences and refutations.
    """
    differs = holm(evidence.difference) < LEVEL
    equivalent = holm(evidence.equivalence) < LEVEL
    denied = holm(refutation(evidence, expectations)) < LEVEL
    verdicts = np.empty(differs.shape, dtype="<U12")
    for arm, expectation in enumerate(expectations):
        below, above = evidence.mirrored if expectation == "worsen" else evidence
        same, different, refuted = equivalent[..., arm], differs[..., arm], denied[..., arm]
        if expectation == "no difference":
            rules = {"supported": same, "refuted": different & refuted}
        else:
            better = different & (above[_ZERO, ..., arm] < below[_ZERO, ..., arm])
            rules = {"equivalent": same, "supported": better, "refuted": refuted}
        verdicts[..., arm] = np.select(list(rules.values()), list(rules), "inconclusive")
    return verdicts


def refutation(evidence: Evidence, expectations: Sequence[Expectation]) -> np.ndarray:
    """Return p-values (…, arms), small if the arm cannot be as expected: the one-sided p against the margin.

    For *no difference*, it is the p-value against the margin on the side of the difference.
    """
    found = {
        "improve": evidence.below[_PLUS_MARGIN],
        "worsen": evidence.above[_MINUS_MARGIN],
        "no difference": np.minimum(evidence.below[_MINUS_MARGIN], evidence.above[_PLUS_MARGIN]),
    }
    return np.stack([found[expectation][..., arm] for arm, expectation in enumerate(expectations)], axis=-1)


def holm_levels(p_values: np.ndarray) -> np.ndarray:
    """Return the level (arms,) at which Holm's method tested each arm, or stopped before it could.

    A p-value is below its level exactly if its adjusted p-value is below 5%.
    """
    rejected = holm(p_values) < LEVEL
    ranks = np.argsort(np.argsort(p_values, kind="stable"), kind="stable")
    return LEVEL / (p_values.size - np.where(rejected, ranks, rejected.sum()))


def t_interval(mean: float, standard_deviation: float, n: int, confidence: float) -> tuple[float, float]:
    """Return the two-sided t-interval of a mean; infinite for fewer than two values."""
    if n < 2:
        return -math.inf, math.inf
    half_width = float(stats.t.isf((1 - confidence) / 2, n - 1)) * standard_deviation / math.sqrt(n)
    return mean - half_width, mean + half_width


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return the two-sided t-interval of the mean of values (n,); infinite for fewer than two."""
    if values.size < 2:
        return -math.inf, math.inf
    return t_interval(float(values.mean()), float(values.std(ddof=1)), values.size, confidence)


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of the paired permutation test, which flips the signs of the differences (n,).

    The test is exact for up to 16 pairs. Beyond that, it uses the observed signs and 99,999 random patterns from a
    fixed seed (Phipson and Smyth 2010, arXiv 1603.05766), with a standard error of 0.0007 at p = 0.05.
    """
    if differences.size < 2 or not differences.any():
        return 1.0
    scale = np.abs(differences).sum()
    return float(
        stats.permutation_test(
            (differences,),
            lambda flipped, axis: (flipped.sum(axis) / scale).round(12),  # so that equal sums are equal
            permutation_type="samples",
            n_resamples=_SIGN_PATTERNS,
            vectorized=True,
            batch=10_000,
            rng=np.random.default_rng(0),
        ).pvalue
    )


def minimum_seeds(num_arms: int) -> int:
    """Return the fewest seeds with which the sign-flip test can reach significance: ⌈1 + log₂(arms / 0.05)⌉.

    With n pairs its smallest p-value is 2^(1 − n), and Holm's method needs one of at most 0.05 / arms.
    """
    return math.ceil(1 + math.log2(num_arms / LEVEL))


def power(n: np.ndarray | int, effect: float, standard_deviation: float, level: float) -> np.ndarray:
    """Return the power of a one-sided paired t-test over n pairs, by the noncentral t distribution.

    Args:
        n: number of pairs, at least 2; an array of any shape.
        effect: the true difference, in the direction of the test.
        standard_deviation: standard deviation of the differences; not 0.
        level: significance level of the one-sided test.
    """
    degrees = np.asarray(n) - 1
    return stats.nct.sf(stats.t.isf(level, degrees), degrees, effect / standard_deviation * np.sqrt(n))


def power_to_support(n: int, margin: float, standard_deviation: float, num_arms: int) -> float:
    """Return the power to support a true difference equal to the margin.

    The difference must be significant at Holm's strictest step, and the arm must not be equivalent, which is decided
    first, at its mildest. So this is a lower bound on the power, whatever the other arms do.
    """
    if standard_deviation == 0:
        return 1.0
    error = standard_deviation / math.sqrt(n)
    seen = error * _relative_deviations(n)
    supported = stats.t.isf(LEVEL / 2 / num_arms, n - 1) * seen
    inside = margin - stats.t.isf(LEVEL, n - 1) * seen  # equivalent if the mean is within ± this
    share = stats.norm.sf(supported, margin, error)
    lost = stats.norm.cdf(inside, margin, error) - stats.norm.cdf(np.maximum(supported, -inside), margin, error)
    return float((share - np.maximum(lost, 0)).mean())


@cache
def _relative_deviations(n: int) -> np.ndarray:
    """Return quantiles of the sample standard deviation of n normal values, relative to the true one."""
    shares = (np.arange(4_000) + 0.5) / 4_000
    return np.sqrt(stats.chi2.ppf(shares, n - 1) / (n - 1))


def seeds_to_settle(standard_deviation: float, margin: float, num_arms: int, expectation: Expectation) -> int | None:
    """Return how many seeds a conclusive verdict would need if the spread of the differences stays the same.

    For *improve* and *worsen*: enough seeds to make the interval from the bound that supports (two-sided 5%) to the
    bound that refutes (one-sided 5%), both at Holm's strictest step, shorter than the margin. One of the two then
    applies for any mean, so every inconclusive study with this spread has fewer seeds. A true difference equal to the
    margin is then supported, and one of zero refuted, with a power of 95% or more.

    For *no difference*: enough seeds to support a true difference of zero with a power of at least 80%. A difference
    close to the margin stays inconclusive with any number of seeds.

    Returns:
        The number of seeds, at least `minimum_seeds(num_arms)`; None if it exceeds 10,000.
    """
    low = high = minimum_seeds(num_arms)
    if standard_deviation == 0:
        return low

    def enough(n: int) -> bool:
        if expectation == "no difference":
            both_sides = 2 * power(n, margin, standard_deviation, LEVEL / num_arms) - 1  # Bonferroni
            return bool(both_sides >= 0.8)
        quantiles = stats.t.isf(LEVEL / 2 / num_arms, n - 1) + stats.t.isf(LEVEL / num_arms, n - 1)
        return bool(quantiles * standard_deviation / math.sqrt(n) < margin)

    while not enough(high):  # if n seeds are enough, more are too
        if high == MOST_SEEDS:
            return None
        low, high = high + 1, min(2 * high, MOST_SEEDS)
    return bisect_left(range(high), True, low, key=enough)
