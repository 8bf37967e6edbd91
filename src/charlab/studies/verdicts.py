"""Compare the arms of a study with its baseline, given the values of its cells."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from charlab.errors import UserError
from charlab.studies.definition import EXPECTATIONS, Expectation
from charlab.studies.evidence import Evidence, Verdict, decide, holm, holm_levels, minimum_seeds, refutation
from charlab.studies.pairs import Pairs, TimePairs, Value

_OF_PAIRS = ("seeds", "differences", "diverged", "baseline_diverged", "unreached", "baseline_unreached", "leaking",
             "baseline_leaking", "absent", "bound", "n", "mean", "mean_sign", "standard_deviation")  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """The comparison of an arm with the baseline, in the metric's unit.

    A difference is baseline minus arm for one seed. Lower values of the metric are better, so a positive difference
    means that the arm is better. Seeds are in the study's order. For times to a target, everything is in natural
    logarithms: a difference is the logarithm of the speed-up, the margin the logarithm of a ratio, the mean Hodges and
    Lehmann's estimate. The tests are those of `time_to_target` instead of t-tests.

    With planned looks, everything is as of the look that settled the arm, or else of the last one that was reached;
    p-values are sequential, and intervals are the overlap of the repeated confidence intervals so far (see `looks`).

    Attributes:
        verdict: the verdict; "none" if the arm or the baseline leaks, or fewer than two pairs of cells have ended.
        seeds: the seeds that are compared: the study's, or those of the look.
        planned_seeds: number of seeds when the first cell ran.
        planned_looks: number of seeds at each planned look; empty if the study is tested once.
        differences: differences by seed; infinite if one cell of the pair diverged.
        diverged: seeds for which the arm diverged; `baseline_diverged` is the same for the baseline, and so on.
        unreached: seeds for which the arm did not reach the target.
        leaking: seeds for which the arm leaks.
        absent: seeds for which the arm or the baseline has no value: not run yet, running, or failed.
        n: number of finite differences, used for the mean, the standard deviation and the intervals.
        mean: mean difference; nan if there are none.
        mean_sign: "≥" or "≤" if runs that did not reach the target make the mean a bound, else "".
        standard_deviation: standard deviation of the differences (n − 1 in the denominator); nan for fewer than two.
        interval_90: two-sided 90% t-interval of the mean; its ends are the one-sided 95% bounds.
        interval_95: two-sided 95% t-interval of the mean; intervals are infinite for fewer than two differences.
        interval: the interval that decides: the t-interval of the mean at the level at which Holm's method tested the
            arm for this verdict. The verdict is equivalent if the interval is within ±margin, supported if it excludes
            0, and refuted if it excludes an effect of the margin. If cells diverged, the 95% interval of the others.
        confidence: the confidence level of `interval`.
        p_difference: two-sided p-value of the paired t-test (for diverged cells, see `compare`).
        p_equivalence: p-value of the two one-sided t-tests against ±margin; `_holm` is adjusted over the arms.
        p_holm: p-value of the test that decided or failed to support, adjusted over the arms.
        p_sign_flip: two-sided p-value of the permutation test; nan if cells diverged, or only one side is a bound.
        power: lower bound on the power to support a true difference equal to the margin with this n and spread.
        seeds_needed: number of seeds that would settle an inconclusive verdict; None if the verdict is another,
            no number is certain to (as if cells diverged, or only one side is a bound), or it exceeds 10,000.
    """

    arm: str
    expectation: Expectation
    verdict: Verdict
    margin: float
    metric: str
    target: float | None
    num_arms: int
    seeds: tuple[int, ...]
    planned_seeds: int
    looks: tuple[int, ...]
    planned_looks: tuple[int, ...]
    differences: Mapping[int, float]
    diverged: tuple[int, ...]
    baseline_diverged: tuple[int, ...]
    unreached: tuple[int, ...]
    baseline_unreached: tuple[int, ...]
    leaking: tuple[int, ...]
    baseline_leaking: tuple[int, ...]
    absent: tuple[int, ...]
    bound: bool
    baseline_bound: bool
    n: int
    mean: float
    mean_sign: str
    standard_deviation: float
    interval_90: tuple[float, float]
    interval_95: tuple[float, float]
    interval: tuple[float, float]
    confidence: float
    p_difference: float
    p_difference_holm: float
    p_equivalence: float
    p_equivalence_holm: float
    p_holm: float
    p_sign_flip: float
    power: float
    seeds_needed: int | None

    @property
    def minimum_seeds(self) -> int:
        """The fewest seeds that a study with this number of arms needs."""
        return self.planned_looks[0] if self.planned_looks else minimum_seeds(self.num_arms)

    @property
    def ended(self) -> int:
        """The number of pairs with both cells ended."""
        return len(self.seeds) - len(self.absent)

    @property
    def too_few_seeds(self) -> bool:
        """Whether fewer pairs have ended than the study needs."""
        return self.ended < self.minimum_seeds

    @property
    def provisional(self) -> bool:
        """Whether some cells still have no value."""
        return bool(self.absent)

    @property
    def mixed(self) -> bool:
        """Whether a bound is compared with an exact value, which can only prove a difference in one direction."""
        return self.bound != self.baseline_bound


def compare(
    baseline: Mapping[int, Value],
    arms: Mapping[str, Mapping[int, Value]],
    *,
    seeds: Sequence[int],
    margin: float,
    metric: str = "nll",
    target: float | None = None,
    expectations: Mapping[str, Expectation] | None = None,
    planned_seeds: int | None = None,
    looks: Collection[int] = (),
    planned_looks: Sequence[int] = (),
    bounds: Collection[str] = (),
    baseline_bound: bool = False,
) -> dict[str, Comparison]:
    """Compare each arm with the baseline over paired seeds, by the rules of `evidence.decide`.

    P-values are adjusted over all arms. Arms without values count with p-values of 1, so that a missing arm never helps
    another one.

    *Nothing is dropped silently.* A value that is not finite, or "diverged", is worse than any other value. Nothing can
    then be shown in favor of its arm: no improvement, no equivalence, no absence of a worsening. Evidence against the
    arm comes from the t-test over the finished pairs, which are biased in its favor, or from the sign test over all
    pairs, whichever is stronger. If the baseline diverged, the same applies in the opposite direction; if both diverged
    for one seed, that pair is no evidence. A cell that "leaks" leaves its arm without a verdict; if it is the
    baseline's, it leaves all arms without one. A cell without a value (None, or no entry) excludes its pair and makes
    the verdict provisional.

    *An upper bound can prove a difference in one direction only.* If the arm's values are upper bounds and the
    baseline's are exact, the arm is at least as good as it appears: it can be shown to be better, but neither worse nor
    equivalent. If the baseline's values are the bounds, the same applies in the opposite direction. Two bounds are
    compared directly.

    *A run that does not reach the target* counts as later than any that does, within the time that both were trained;
    see `time_to_target`.

    *Planned looks share the error rates.* A look is read once all its pairs have ended. An arm that it settles keeps
    its verdict and takes no part in later looks. What an earlier look has shown in favor of an arm that diverges at a
    later one no longer counts.

    Args:
        baseline: the baseline's value by seed; lower is better. Times to a target are `time_to_target.Reached`.
        margin: the smallest difference that matters, greater than 0; for times to a target, the logarithm of a ratio.
        expectations: expectation by arm; by default, "improve".
        planned_looks: number of seeds at each planned look, the last of them all seeds; by default, one test of all.
        bounds: names of the arms whose values are upper bounds.

    Returns:
        A comparison for each arm, in the order given; empty if the first planned look has not been reached.
    """
    expectations = expectations or {}
    _check(baseline, arms, seeds, margin, expectations)
    expected = [expectations.get(name, "improve") for name in arms]
    stages = tuple(planned_looks) or (len(seeds),)
    evidence = Evidence(np.ones((3, len(arms))), np.ones((3, len(arms))))
    verdicts, reached = ["inconclusive"] * len(arms), [0] * len(arms)
    looked: list[list[Pairs]] = []  # by look and arm
    kind = Pairs if target is None else TimePairs
    pairs: list[Pairs] = []
    for look, n in enumerate(stages):
        now = [kind(baseline, values, seeds[:n], mixed=(name in bounds) != baseline_bound, bound=name in bounds)
               for name, values in arms.items()]  # fmt: skip
        runs = [verdict == "inconclusive" for verdict in verdicts]
        if planned_looks and any(pair.absent for pair, unsettled in zip(now, runs, strict=True) if unsettled):
            break
        found = np.minimum(evidence, np.stack([pair.evidence(margin, planned_looks, look) for pair in now], axis=-1))
        found = np.stack([pair.admissible(Evidence(*found[..., i])) for i, pair in enumerate(now)], axis=-1)
        evidence = Evidence(*np.where(runs, found, evidence))
        decided = decide(evidence, expected)
        pairs = pairs or list(now)
        looked.append(now)
        for i, pair in enumerate(now):
            if runs[i]:
                verdicts[i], pairs[i], reached[i] = pair.verdict(str(decided[i])), pair, look
        if "inconclusive" not in verdicts:
            break
    if not pairs:
        return {}
    denied = refutation(evidence, expected)
    families = {"difference": evidence.difference, "equivalence": evidence.equivalence, "refutation": denied}
    adjusted = {family: holm(p_values) for family, p_values in families.items()}
    comparisons = {}
    for i, (name, pair, verdict) in enumerate(zip(arms, pairs, verdicts, strict=True)):
        family = _family(verdict, expected[i])
        sides = 2 if family == "difference" else 1  # the other tests are one-sided
        level = 0.025 if pair.any_diverged or pair.leaks else float(holm_levels(families[family])[i]) / sides
        interval = partial(_interval, [look[i] for look in looked[: reached[i] + 1]], planned_looks)
        comparisons[name] = Comparison(
            arm=name,
            expectation=expected[i],
            verdict=verdict,  # type: ignore[arg-type]  # NumPy strings have no Literal type
            margin=margin,
            metric=metric,
            target=target,
            num_arms=len(arms),
            planned_seeds=len(seeds) if planned_seeds is None else planned_seeds,
            looks=tuple(looks),
            planned_looks=tuple(planned_looks),
            baseline_bound=baseline_bound,
            **{name: getattr(pair, name) for name in _OF_PAIRS},
            interval_90=interval(0.05),
            interval_95=interval(0.025),
            interval=interval(level),
            confidence=1 - 2 * level,
            p_difference=float(evidence.difference[i]),
            p_difference_holm=float(adjusted["difference"][i]),
            p_equivalence=float(evidence.equivalence[i]),
            p_equivalence_holm=float(adjusted["equivalence"][i]),
            p_holm=float(adjusted[family][i]),
            p_sign_flip=pair.sign_flip(planned_looks),
            power=pair.power(margin, len(arms), planned_looks),
            seeds_needed=pair.seeds_needed(margin, len(arms), expected[i]) if verdict == "inconclusive" else None,
        )
    return comparisons


def _interval(pairs: Sequence[Pairs], planned_looks: Sequence[int], level: float) -> tuple[float, float]:
    """Return the interval of an arm's mean, given its pairs at each look so far: the overlap of the looks' intervals.

    They hold at all looks at once, so a bound that one look has shown stays shown, as in sequential p-values. If cells
    diverged, or if the intervals do not overlap, it is that of the last look.
    """
    found = [pair.interval(level, planned_looks=planned_looks, look=look) for look, pair in enumerate(pairs)]
    low, high = max(low for low, _ in found), min(high for _, high in found)
    return found[-1] if pairs[-1].any_diverged or pairs[-1].leaks or not low <= high else (low, high)


def _family(verdict: str, expectation: Expectation) -> str:
    """Return the family of tests that decided, or that failed to support."""
    if verdict == "equivalent" or (verdict != "refuted" and expectation == "no difference"):
        return "equivalence"
    return "refutation" if verdict == "refuted" else "difference"


def _check(
    baseline: Mapping[int, Value], arms: Mapping[str, Mapping[int, Value]], seeds: Sequence[int], margin: float,
    expectations: Mapping[str, Expectation],
) -> None:  # fmt: skip
    if not arms:
        raise UserError("The study has no arm besides the baseline: add one to study.arms.")
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"The margin is {margin}: give the smallest difference that matters, a number above 0.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"The seeds {list(seeds)} repeat themselves: the same seed twice is not a second sample.")
    for name, expectation in expectations.items():
        if name not in arms:
            raise UserError(f"An expectation names {name!r}, which is not an arm: the arms are {', '.join(arms)}.")
        if expectation not in EXPECTATIONS:
            raise UserError(f"Arm {name!r} is expected to {expectation!r}: choose one of {', '.join(EXPECTATIONS)}.")
    for name, values in {"the baseline": baseline, **arms}.items():
        if strange := set(values) - set(seeds):
            raise UserError(f"There are values of {name} with seeds {sorted(strange)}, which the study does not have.")
