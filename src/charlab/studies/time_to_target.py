"""Compare times to a target over paired seeds by signed ranks, where some runs do not reach it.

A difference is the natural logarithm of the baseline's time over the arm's with the same seed, so it is positive if the
arm is sooner, and two differences are equal if the ratios are. A pair in which only one run reaches the target has the
largest rank, in favor of that run; a pair in which neither does is a tie. The p-values are those of Wilcoxon's
signed-rank test, exact for any ties: ranks are averaged over equal differences and counted over all pairs (Pratt 1959,
JASA 54), and every pattern of signs of the pairs that are not ties is equally likely.

To test a ratio other than 1, the baseline's times and limits are divided by it, and both runs of a pair are cut off at
the earlier of their two limits. So an arm gains nothing from having had longer to reach the target: if the arm behaves
like the baseline sped up by that ratio, the error rate of the test is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from charlab.errors import UserError
from charlab.studies.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd

_DIGITS = 12  # decimals of a rounded difference, so that equal ratios are equal


class Reached(NamedTuple):
    """When a run reached the target.

    Attributes:
        time: optimizer steps or seconds of training; infinite if it did not.
        limit: the time of its last evaluation, after which nothing is known; infinite if it can never reach the target.
    """

    time: float
    limit: float


def crossing(curve: pd.DataFrame, clock: str, target: float) -> Reached:
    """Return when a curve is first at or below the target, interpolated linearly between two evaluations.

    Args:
        curve: the evaluations in order, with the column `value` and the column of the clock.
        clock: the column of times: step or seconds.
        target: the loss to reach, in nats per character.
    """
    if curve.empty:
        raise UserError("The run has no evaluations on validation text: set evaluate_every to get a curve.")
    times, values = (curve[column].to_numpy(dtype=float) for column in (clock, "value"))
    reached = values <= target
    if not reached.any():
        return Reached(math.inf, float(times[-1]))
    last = int(reached.argmax())
    if last == 0 or not math.isfinite(values[last - 1]):
        return Reached(float(times[last]), float(times[-1]))
    share = (values[last - 1] - target) / (values[last - 1] - values[last])
    return Reached(float(times[last - 1] + share * (times[last] - times[last - 1])), float(times[-1]))


class RankTest:
    """Wilcoxon's signed-rank test of the logarithm of the speed-up, and its interval."""

    def __init__(self, baseline: Sequence[Reached], arm: Sequence[Reached]) -> None:
        with np.errstate(divide="ignore"):  # a target that is reached before the first step
            times = np.log(np.array([baseline, arm], dtype=float).reshape(2, -1, 2))
        (self._before, self._before_limit), (self._after, self._after_limit) = times.transpose(0, 2, 1)
        with np.errstate(invalid="ignore"):
            ends = [self._before - self._after_limit, self._before_limit - self._after]
            differences = self._before - self._after
        finite = differences[np.isfinite(differences)]
        walsh = (finite[:, None] + finite[None, :])[np.triu_indices(finite.size)] / 2
        changes = np.concatenate([walsh, *ends])
        changes = np.unique(changes[np.isfinite(changes)].round(_DIGITS + 2))  # where p-values change
        between = (changes[1:] + changes[:-1]) / 2
        points = np.sort(np.concatenate([changes[:1] - 1, changes, between, changes[-1:] + 1]))
        self._points = points if points.size else np.zeros(1)
        self._below, self._above, self._sums = self._test(self._points)

    def scores(self, shifts: np.ndarray) -> np.ndarray:
        """Return the differences less each shift (shifts, n): infinite if one of a pair is cut off, 0 if both are."""
        before, before_limit = (log - np.asarray(shifts)[:, None] for log in (self._before, self._before_limit))
        limit = np.minimum(before_limit, self._after_limit) + 10.0**-_DIGITS  # a time at the limit is seen
        seen, seen_after = before <= limit, self._after <= limit
        with np.errstate(invalid="ignore"):
            both = np.nan_to_num((before - self._after).round(_DIGITS), nan=0.0, posinf=np.inf, neginf=-np.inf)
        return np.select([seen & seen_after, seen_after, seen], [both, math.inf, -math.inf], 0.0)

    def _test(self, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return one-sided p-values, small if the difference is below or above each shift, and sums of signed ranks."""
        scores = self.scores(shifts)
        ranks = np.rint(2 * stats.rankdata(np.abs(scores), axis=1)).astype(int)  # twice the ranks, which are integers
        positive = np.where(scores > 0, ranks, 0).sum(1)
        below, above = np.ones(len(scores)), np.ones(len(scores))
        for i, signed in enumerate(np.where(scores != 0, ranks, 0).tolist()):
            likely = _sign_distribution(tuple(sorted(filter(None, signed))))
            below[i], above[i] = likely[: positive[i] + 1].sum(), likely[positive[i] :].sum()
        return below, above, (np.sign(scores) * ranks).sum(1)

    def evidence(self, margin: float) -> Evidence:
        """Return the evidence, with (3,) p-values in each direction, against −margin, 0 and +margin."""
        thresholds = np.array([-margin, 0.0, margin])
        below, above, _ = self._test(thresholds)
        # A ratio is rejected only if all smaller ones are (or all larger ones), so that interval and p-value agree.
        for i, threshold in enumerate(thresholds):
            above[i] = max(above[i], self._above[self._points < threshold].max(initial=0.0))
            below[i] = max(below[i], self._below[self._points > threshold].max(initial=0.0))
        return Evidence(below=np.minimum(below, 1.0), above=np.minimum(above, 1.0))

    def interval(self, level: float) -> tuple[float, float]:
        """Return the shifts that one-sided tests at this level do not reject; infinite on a side without evidence."""
        enough, little = np.flatnonzero(self._above >= level), np.flatnonzero(self._below >= level)
        if not enough.size or not little.size:  # only one side ever reaches the target
            return (math.inf, math.inf) if not enough.size else (-math.inf, -math.inf)
        first, last = int(enough[0]), int(little[-1])
        low = -math.inf if first == 0 else float(self._points[first - (first % 2 == 0)])
        high = math.inf if last == len(self._points) - 1 else float(self._points[last + (last % 2 == 0)])
        return low, high

    def estimate(self) -> tuple[float, str]:
        """Return the shift that balances the signed ranks (Hodges and Lehmann 1963); nan without evidence.

        It comes with "≥" or "≤" if runs that did not reach the target leave it open on that side, else "". It is
        infinite if every run of one side diverged, or reached the target before the first step.
        """
        if self._sums[-1] > 0 or self._sums[0] < 0:
            return math.inf if self._sums[-1] > 0 else -math.inf, ""
        sooner, later = self._points[self._sums > 0], self._points[self._sums < 0]
        if not sooner.size and not later.size:
            return math.nan, ""
        first = np.searchsorted(self._points, sooner[-1]) if sooner.size else -1
        last = np.searchsorted(self._points, later[0]) if later.size else len(self._points)
        low, high = first + (first % 2 == 0), last - (last % 2 == 0)
        ends = [float(self._points[min(max(end, 0), len(self._points) - 1)]) for end in (low, high)]
        estimate = ends[0] if not later.size else ends[1] if not sooner.size else sum(ends) / 2
        if unlimited := self._unlimited():
            return estimate, "≥" if unlimited > 0 else "≤"
        missed, missed_after = np.isposinf(self._before), np.isposinf(self._after)
        with np.errstate(invalid="ignore"):
            known = (self._before_limit - self._after)[missed & ~missed_after]
            known_after = (self._before - self._after_limit)[missed_after & ~missed]
        at_least = estimate >= known.min(initial=math.inf) - 10.0**-_DIGITS
        at_most = estimate <= known_after.max(initial=-math.inf) + 10.0**-_DIGITS
        return estimate, "≥" if at_least else "≤" if at_most else ""

    def _unlimited(self) -> float:
        """Return ∞ or −∞ if that is the estimate for runs without limits, else 0."""
        with np.errstate(invalid="ignore"):
            differences = self._before - self._after
        infinite = np.nan_to_num(differences, nan=0.0, posinf=math.inf, neginf=-math.inf)  # 0 if neither gets there
        for side in (-1.0, 1.0):  # of a large shift, on which all finite differences are
            scores = np.where(np.isfinite(differences), side, infinite)
            if side * (np.sign(scores) * stats.rankdata(np.abs(scores))).sum() < 0:
                return -side * math.inf
        return 0.0


@lru_cache(maxsize=1024)
def _sign_distribution(ranks: tuple[int, ...]) -> np.ndarray:
    """Return the probability of each sum of the positive ranks, if all patterns of signs are equally likely."""
    likely = np.ones(1)
    for rank in ranks:
        likely = (np.pad(likely, (0, rank)) + np.pad(likely, (rank, 0))) / 2
    return likely
