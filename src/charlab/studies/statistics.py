"""The statistics of a study: its cells' values in, one verdict per arm out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from charlab.errors import UserError
from charlab.studies.comparison import Comparison
from charlab.studies.paired import (
    LEVEL,
    Evidence,
    decide,
    holm,
    power,
    seeds_to_settle,
    sign_evidence,
    sign_flip_p,
    t_evidence,
    t_interval,
)
from charlab.studies.plan import EXPECTATIONS, Expectation

Value = float | Literal["diverged", "leaks"] | None


def compare(
    baseline: Mapping[int, Value],
    arms: Mapping[str, Mapping[int, Value]],
    *,
    seeds: Sequence[int],
    margin: float,
    expectations: Mapping[str, Expectation] | None = None,
    planned_seeds: int | None = None,
    looks: Collection[int] = (),
    bounds: Collection[str] = (),
    baseline_bound: bool = False,
) -> dict[str, Comparison]:
    """Compares each arm with the baseline, seed by seed; the rules of the verdicts are those of `paired.decide`.

    All arms are one family, also those without values: their p-values are 1, so no arm gains by another's absence.

    *Nothing is dropped in silence.* A value that is not finite, or "diverged", is worse than any other, so nothing can
    be shown in favor of the arm that it belongs to: no improvement, no equivalence, no lack of a worsening. What speaks
    against that arm is shown by the t-test of the pairs that finished, which flatter it, or by the sign test of all
    pairs, whichever is stronger. Where the baseline diverged, the same holds the other way round; where both did with
    one seed, that pair shows nothing. A cell that "leaks" leaves its arm without a verdict, and all arms if it is the
    baseline's. A cell without value (None, or no entry) leaves its pair out and makes the verdict provisional.

    *A bound proves one thing only.* Where the arm's values are upper bounds and the baseline's are exact, the arm is at
    least as good as it looks: that it is better can be shown, that it is worse, or the same, cannot. Where the
    baseline's are the bounds, the same holds the other way round. Two bounds are compared as they are.

    Args:
        baseline: the baseline's value by seed; less is better.
        arms: likewise, for each arm by name; at least one.
        seeds: those of the study now, all of them.
        margin: the smallest difference that matters, over 0.
        expectations: by arm; "improve" where none is given.
        planned_seeds: how many seeds there were when the first cell ran; None if as many as now.
        looks: how many seeds had finished when results were looked at.
        bounds: names of the arms whose values are upper bounds.
        baseline_bound: whether the baseline's are.

    Returns:
        A comparison for each arm, in the order given.

    Raises:
        UserError: if arms, seeds, margin or expectations make no study.
    """
    expectations = expectations or {}
    _check(baseline, arms, seeds, margin, expectations)
    expected = [expectations.get(name, "improve") for name in arms]
    pairs = [
        _Pairs.of(baseline, values, seeds, bound=name in bounds, baseline_bound=baseline_bound)
        for name, values in arms.items()
    ]
    evidence = Evidence(*np.stack([pair.evidence(margin) for pair in pairs], axis=-1))
    verdicts = decide(evidence, expected)
    difference_holm, equivalence_holm = holm(evidence.difference), holm(evidence.equivalence)
    comparisons = {}
    for i, (name, pair) in enumerate(zip(arms, pairs, strict=True)):
        verdict = "none" if pair.leaks or len(seeds) - len(pair.absent) < 2 else str(verdicts[i])
        comparisons[name] = Comparison(
            arm=name,
            expectation=expected[i],
            verdict=verdict,  # type: ignore[arg-type]  # numpy's texts are of no literal type
            margin=margin,
            num_arms=len(arms),
            seeds=tuple(seeds),
            planned_seeds=len(seeds) if planned_seeds is None else planned_seeds,
            looks=tuple(looks),
            p_difference=float(evidence.difference[i]),
            p_difference_holm=float(difference_holm[i]),
            p_equivalence=float(evidence.equivalence[i]),
            p_equivalence_holm=float(equivalence_holm[i]),
            seeds_needed=pair.seeds_needed(margin, len(arms), expected[i]) if verdict == "inconclusive" else None,
            power=pair.power(margin, len(arms)),
            **pair.figures(),
        )
    return comparisons


@dataclass(frozen=True)
class _Pairs:
    """The baseline's cells beside those of one arm."""

    differences: dict[int, float]  # infinite where one of the two diverged
    diverged: tuple[int, ...]
    baseline_diverged: tuple[int, ...]
    leaking: tuple[int, ...]
    baseline_leaking: tuple[int, ...]
    absent: tuple[int, ...]
    bound: bool
    baseline_bound: bool

    @classmethod
    def of(
        cls,
        baseline: Mapping[int, Value],
        arm: Mapping[int, Value],
        seeds: Sequence[int],
        *,
        bound: bool,
        baseline_bound: bool,
    ) -> _Pairs:
        """Pairs the cells by seed."""
        pairs = {seed: (_read(baseline.get(seed)), _read(arm.get(seed))) for seed in seeds}
        differences = {seed: before - after for seed, (before, after) in pairs.items()}
        return cls(
            differences={seed: difference for seed, difference in differences.items() if not math.isnan(difference)},
            diverged=tuple(seed for seed, (_, after) in pairs.items() if after == math.inf),
            baseline_diverged=tuple(seed for seed, (before, _) in pairs.items() if before == math.inf),
            leaking=tuple(seed for seed in seeds if arm.get(seed) == "leaks"),
            baseline_leaking=tuple(seed for seed in seeds if baseline.get(seed) == "leaks"),
            absent=tuple(seed for seed in seeds if baseline.get(seed) is None or arm.get(seed) is None),
            bound=bound,
            baseline_bound=baseline_bound,
        )

    @property
    def leaks(self) -> bool:
        return bool(self.leaking or self.baseline_leaking)

    @property
    def finite(self) -> np.ndarray:
        return np.array([difference for difference in self.differences.values() if math.isfinite(difference)])

    @property
    def mean(self) -> float:
        return float(self.finite.mean()) if self.finite.size else math.nan

    @property
    def standard_deviation(self) -> float:
        return float(self.finite.std(ddof=1)) if self.finite.size > 1 else math.nan

    @property
    def any_diverged(self) -> bool:
        return bool(self.diverged or self.baseline_diverged)

    @property
    def mixed(self) -> bool:
        """Whether a bound is compared with an exact value."""
        return self.bound != self.baseline_bound

    def evidence(self, margin: float) -> Evidence:
        """Returns (3,) p-values each way."""
        if self.leaks:
            return Evidence(below=np.ones(3), above=np.ones(3))
        below, above = t_evidence(np.array(self.mean), np.array(self.standard_deviation), self.finite.size, margin)
        if self.any_diverged:
            signs = sign_evidence(np.array(list(self.differences.values())), margin)
            below, above = np.minimum(below, signs.below), np.minimum(above, signs.above)
        nothing = np.ones(3)
        return Evidence(
            below=nothing if self.baseline_diverged or (self.mixed and self.bound) else below,
            above=nothing if self.diverged or (self.mixed and self.baseline_bound) else above,
        )

    def power(self, margin: float, num_arms: int) -> float:
        """Returns the chance to support a true difference of the margin with this many pairs and this spread."""
        if self.finite.size < 2:
            return math.nan
        if self.standard_deviation == 0:
            return 1.0
        return float(power(self.finite.size, margin, self.standard_deviation, LEVEL / 2 / num_arms))

    def seeds_needed(self, margin: float, num_arms: int, expectation: Expectation) -> int | None:
        """Returns how many seeds would settle this arm; None where no number is sure to."""
        if self.any_diverged or self.mixed or self.finite.size < 2:
            return None
        needed = seeds_to_settle(self.standard_deviation, margin, num_arms, expectation)
        return needed if needed is not None and needed > self.finite.size else None

    def figures(self) -> dict[str, Any]:
        """Returns the fields of a `Comparison` that are this arm's own."""
        mean, deviation, n = self.mean, self.standard_deviation, self.finite.size
        return asdict(self) | {
            "n": n,
            "mean": mean,
            "standard_deviation": deviation,
            "interval_90": t_interval(mean, deviation, n, 0.90),
            "interval_95": t_interval(mean, deviation, n, 0.95),
            "p_sign_flip": math.nan if self.any_diverged or self.mixed else sign_flip_p(self.finite),
        }


def _read(value: Value) -> float:
    """Returns a cell's value, infinity if it diverged, nan if there is none."""
    if value is None or value == "leaks":
        return math.nan
    return math.inf if value == "diverged" or not math.isfinite(float(value)) else float(value)


def _check(
    baseline: Mapping[int, Value],
    arms: Mapping[str, Mapping[int, Value]],
    seeds: Sequence[int],
    margin: float,
    expectations: Mapping[str, Expectation],
) -> None:
    if not arms:
        raise UserError("The study has no arm beside the baseline: add one to study.arms.")
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"The margin is {margin}: give the smallest difference that matters, a number over 0.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"The seeds {list(seeds)} repeat themselves: a seed that counts twice is no second sample.")
    for name, expectation in expectations.items():
        if name not in arms:
            raise UserError(f"There is an expectation of {name!r}, which is no arm: the arms are {', '.join(arms)}.")
        if expectation not in EXPECTATIONS:
            raise UserError(f"Arm {name!r} is expected to {expectation!r}: choose one of {', '.join(EXPECTATIONS)}.")
    for name, values in {"the baseline": baseline, **arms}.items():
        if strange := set(values) - set(seeds):
            raise UserError(f"There are values of {name} with seeds {sorted(strange)}, which the study does not have.")
