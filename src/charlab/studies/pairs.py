"""The cells of a baseline and one arm, paired by seed, with what they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import stats

from charlab.studies.definition import Expectation
from charlab.studies.evidence import (
    Evidence,
    power_to_support,
    seeds_to_settle,
    sign_evidence,
    sign_flip_p,
    t_evidence,
    t_interval,
)
from charlab.studies.looks import critical_values, sequential_p, spent
from charlab.studies.time_to_target import RankTest, Reached

Value = float | Reached | Literal["diverged", "leaks"] | None


class Pairs:
    """The cells of the baseline and one arm, paired by seed."""

    unreached: tuple[int, ...] = ()
    baseline_unreached: tuple[int, ...] = ()
    mean_sign = ""  # before the mean, if it is only a bound because runs did not reach a target
    finite: np.ndarray | None  # the differences that a t-test uses; None for rank tests, whose power is not known

    def __init__(
        self, baseline: Mapping[int, Value], arm: Mapping[int, Value], seeds: Sequence[int], *, mixed: bool, bound: bool
    ) -> None:
        self.seeds, self.mixed, self.bound = tuple(seeds), mixed, bound
        self.leaking = tuple(seed for seed in seeds if arm.get(seed) == "leaks")
        self.baseline_leaking = tuple(seed for seed in seeds if baseline.get(seed) == "leaks")
        self.absent = tuple(seed for seed in seeds if baseline.get(seed) is None or arm.get(seed) is None)
        self.leaks = bool(self.leaking or self.baseline_leaking)
        self._compare(baseline, arm)

    def _compare(self, baseline: Mapping[int, Value], arm: Mapping[int, Value]) -> None:
        pairs = {seed: (_number(baseline.get(seed)), _number(arm.get(seed))) for seed in self.seeds}
        differences = {seed: before - after for seed, (before, after) in pairs.items()}
        self.differences = {seed: found for seed, found in differences.items() if not math.isnan(found)}
        self.diverged = tuple(seed for seed, (_, after) in pairs.items() if after == math.inf)
        self.baseline_diverged = tuple(seed for seed, (before, _) in pairs.items() if before == math.inf)
        self.any_diverged = bool(self.diverged or self.baseline_diverged)
        self.finite = finite = np.array([found for found in self.differences.values() if math.isfinite(found)])
        self.n = finite.size
        self.mean = float(finite.mean()) if self.n else math.nan
        self.standard_deviation = float(finite.std(ddof=1)) if self.n > 1 else math.nan

    def evidence(self, margin: float, planned_looks: Sequence[int], look: int) -> Evidence:
        """Return the evidence, with (3,) p-values in each direction, for one of the planned looks if there are any."""
        if self.leaks:
            return Evidence(below=np.ones(3), above=np.ones(3))
        return self.admissible(self._tested(margin, planned_looks, look))

    def admissible(self, evidence: Evidence) -> Evidence:
        """Return evidence on this arm, of this look or an earlier one, without what these pairs forbid to conclude."""
        nothing = np.ones(3)
        no_loss = self.leaks or self.baseline_diverged or (self.mixed and self.bound)
        no_gain = self.leaks or self.diverged or (self.mixed and not self.bound)
        return Evidence(below=nothing if no_loss else evidence.below, above=nothing if no_gain else evidence.above)

    def _tested(self, margin: float, planned_looks: Sequence[int], look: int) -> Evidence:
        found = t_evidence(np.array(self.mean), np.array(self.standard_deviation), self.n, margin)
        if planned_looks:
            found = Evidence(*(sequential_p(p, look, planned_looks) for p in found))
        if self.any_diverged:
            signs = sign_evidence(np.array(list(self.differences.values())), margin)
            if planned_looks:  # each look has its own share of the error rate
                shares = np.diff(spent(np.divide(planned_looks, planned_looks[-1])), prepend=0.0)
                signs = Evidence(*(np.minimum(p / shares[look], 1.0) for p in signs))
            found = Evidence(*np.minimum(found, signs))
        return found

    def verdict(self, decided: str) -> str:
        """Return the decided verdict, or "none" if there can be none."""
        return "none" if self.leaks or len(self.seeds) - len(self.absent) < 2 else decided

    def interval(self, level: float, *, planned_looks: Sequence[int], look: int) -> tuple[float, float]:
        """Return the interval of the mean whose ends are one-sided bounds at this level, over all looks together."""
        if not planned_looks or self.n < 2:
            return t_interval(self.mean, self.standard_deviation, self.n, 1 - 2 * level)
        critical = float(critical_values(planned_looks, level)[look])
        if self.n != planned_looks[look]:  # cells diverged, which leaves fewer degrees of freedom
            critical = float(stats.t.isf(stats.t.sf(critical, planned_looks[look] - 1), self.n - 1))
        half_width = critical * self.standard_deviation / math.sqrt(self.n)
        return self.mean - half_width, self.mean + half_width

    def sign_flip(self, planned_looks: Sequence[int]) -> float:
        """Return the p-value of the permutation test; nan if it does not apply."""
        if self.finite is None or planned_looks or self.any_diverged or self.mixed:
            return math.nan
        return sign_flip_p(self.finite)

    def power(self, margin: float, num_arms: int, planned_looks: Sequence[int]) -> float:
        """Return a lower bound on the power to support a difference equal to the margin; nan if it is not known."""
        known = self.n > 1 and not planned_looks and self.finite is not None
        return power_to_support(self.n, margin, self.standard_deviation, num_arms) if known else math.nan

    def seeds_needed(self, margin: float, num_arms: int, expectation: Expectation) -> int | None:
        """Return how many seeds would settle the verdict on this arm; None if no number is certain to."""
        if self.any_diverged or self.mixed or self.n < 2 or self.finite is None:
            return None
        needed = seeds_to_settle(self.standard_deviation, margin, num_arms, expectation)
        return needed if needed is not None and needed > self.n else None


class TimePairs(Pairs):
    """Times to a target, paired by seed; differences are logarithms of the speed-up.

    A cell that diverged never reaches the target. A pair in which neither run does has no difference, but counts in
    the test.
    """

    def _compare(self, baseline: Mapping[int, Value], arm: Mapping[int, Value]) -> None:
        before, after = (
            {seed: _reached(value) for seed in self.seeds if (value := values.get(seed)) not in (None, "leaks")}
            for values in (baseline, arm)
        )
        ended = [seed for seed in self.seeds if seed in before and seed in after]
        self._test = RankTest([before[seed] for seed in ended], [after[seed] for seed in ended])
        self.baseline_unreached, self.unreached = (
            tuple(seed for seed in ended if times[seed].time == math.inf) for times in (before, after)
        )
        either = set(ended) - (set(self.unreached) & set(self.baseline_unreached))
        scores = dict(zip(ended, self._test.scores(np.zeros(1))[0].tolist(), strict=True))
        self.differences = {seed: score for seed, score in scores.items() if seed in either}
        self.diverged = self.baseline_diverged = ()
        self.any_diverged, self.finite, self.n = False, None, len(ended)
        (self.mean, self.mean_sign), self.standard_deviation = self._test.estimate(), math.nan

    def _tested(self, margin: float, planned_looks: Sequence[int], look: int) -> Evidence:
        return self._test.evidence(margin) if self.n else Evidence(np.ones(3), np.ones(3))

    def interval(self, level: float, *, planned_looks: Sequence[int], look: int) -> tuple[float, float]:
        """Return the interval of the logarithm of the speed-up whose ends are one-sided bounds at this level."""
        return self._test.interval(level)


def _reached(value: Value) -> Reached:
    return value if isinstance(value, Reached) else Reached(math.inf, math.inf)


def _number(value: Value) -> float:
    """Return a cell's value as a number: infinity if it diverged, nan if it has none."""
    if value is None or value == "leaks":
        return math.nan
    if isinstance(value, Reached) or value == "diverged" or not math.isfinite(value):
        return math.inf
    return float(value)
