"""What a study shows of one arm, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from charlab.studies.paired import MOST_SEEDS, Verdict, minimum_seeds
from charlab.studies.plan import Expectation
from charlab.studies.writing import interval, nats, p_value


@dataclass(frozen=True)
class Comparison:
    """An arm compared with the baseline, in the metric's unit.

    A difference is baseline minus arm for one seed, in a metric of which less is better: positive where the arm is
    better. Seeds are listed in the study's order.

    Attributes:
        arm: its name.
        expectation: what was expected of it.
        verdict: "none" where the arm or the baseline leaks, or fewer than two pairs of cells have ended.
        margin: the smallest difference that matters.
        num_arms: of the study, the baseline not counted.
        seeds: of the study.
        planned_seeds: how many there were when the first cell ran.
        looks: how many seeds had finished when results were looked at.
        differences: by seed; infinite where one cell of the pair diverged.
        diverged: seeds with which the arm diverged.
        baseline_diverged: seeds with which the baseline did.
        leaking: seeds with which the arm leaks.
        baseline_leaking: seeds with which the baseline does.
        absent: seeds for which the arm or the baseline has no value: not run yet, running, or failed.
        bound: whether the arm's values are upper bounds.
        baseline_bound: whether the baseline's are.
        n: number of finite differences; what mean, deviation and intervals are of.
        mean: of the differences; nan if there are none.
        standard_deviation: of the differences, with n − 1 in the denominator; nan for fewer than two.
        interval_90: two-sided t-interval of the mean; its ends are the one-sided 95% bounds.
        interval_95: likewise; both are infinite for fewer than two differences.
        p_difference: two-sided, of the paired t-test (if cells diverged, see `compare`).
        p_difference_holm: adjusted over the arms.
        p_equivalence: of the two one-sided t-tests against ±margin.
        p_equivalence_holm: adjusted over the arms.
        p_sign_flip: two-sided, of the permutation test; nan if cells diverged, or one of the two is a bound.
        power: the chance to support a true difference of the margin with this n and spread, at Holm's strictest step.
        seeds_needed: how many seeds would settle an inconclusive verdict; None where it is not inconclusive or no
            number up to 10,000 would.
    """

    arm: str
    expectation: Expectation
    verdict: Verdict
    margin: float
    num_arms: int
    seeds: tuple[int, ...]
    planned_seeds: int
    looks: tuple[int, ...]
    differences: Mapping[int, float]
    diverged: tuple[int, ...]
    baseline_diverged: tuple[int, ...]
    leaking: tuple[int, ...]
    baseline_leaking: tuple[int, ...]
    absent: tuple[int, ...]
    bound: bool
    baseline_bound: bool
    n: int
    mean: float
    standard_deviation: float
    interval_90: tuple[float, float]
    interval_95: tuple[float, float]
    p_difference: float
    p_difference_holm: float
    p_equivalence: float
    p_equivalence_holm: float
    p_sign_flip: float
    power: float
    seeds_needed: int | None

    @property
    def minimum_seeds(self) -> int:
        """How many seeds a study of so many arms needs at the least."""
        return minimum_seeds(self.num_arms)

    @property
    def too_few_seeds(self) -> bool:
        """Whether fewer pairs than that have ended."""
        return len(self.seeds) - len(self.absent) < self.minimum_seeds

    @property
    def provisional(self) -> bool:
        """Whether cells are still without a value."""
        return bool(self.absent)

    @property
    def exploratory(self) -> bool:
        """Whether seeds were added to what was planned."""
        return len(self.seeds) > self.planned_seeds

    @property
    def mixed(self) -> bool:
        """Whether a bound is compared with an exact value, which shows one thing only."""
        return self.bound != self.baseline_bound

    @property
    def sign(self) -> str:
        """What stands before an improvement that the true one is at least, or at most; mostly nothing."""
        return ("≥ " if self.bound else "≤ ") if self.mixed else ""

    @property
    def caution(self) -> str:
        """What bounds leave of the verdict, in a sentence; nothing where all values are exact."""
        if self.bound and self.baseline_bound:
            return "Both figures are upper bounds (≤): what is judged is the bounds, not the likelihoods below them."
        if self.bound:
            return (
                "The arm's figure is an upper bound (≤), and its true one may be lower: it can be shown to be better "
                "than the baseline, but neither worse nor the same."
            )
        if self.baseline_bound:
            return (
                "The baseline's figure is an upper bound (≤), and its true one may be lower: the arm can be shown to "
                "be worse than the baseline, but neither better nor the same."
            )
        return ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What has to be read before the verdict, a sentence each; mostly nothing."""
        sentences = []
        if self.too_few_seeds:
            ended = len(self.seeds) - len(self.absent)
            sentences.append(
                f"Too few seeds to rely on: cells have ended with {ended}, and a study of "
                f"{_count(self.num_arms, 'arm')} needs at least {self.minimum_seeds}."
            )
        if self.provisional:
            sentences.append(f"Provisional: arm or baseline has no value yet with {_seeds(self.absent)}.")
        if self.exploratory:
            before = sorted({look for look in self.looks if look < len(self.seeds)})
            looked = f" after looks at {' and '.join(map(str, before))}" if before else ""
            sentences.append(
                f"Exploratory: planned with {_count(self.planned_seeds, 'seed')} and grown to {len(self.seeds)}"
                f"{looked}, which makes false findings more frequent than stated; confirm it with fresh seeds."
            )
        return tuple(sentences)

    @property
    def reason(self) -> str:
        """The verdict in one sentence, with its figures."""
        if self.verdict == "none":
            return f"No verdict: {self._obstacle}."
        claim = _CLAIMS[self.verdict][self.expectation].format(margin=f"{self.margin:g}")
        remedy = f"; {self._remedy}" if self.verdict == "inconclusive" else ""
        return f"{self.verdict.capitalize()}: {claim} ({self._figures}){remedy}."

    @property
    def _obstacle(self) -> str:
        """Why there is no verdict."""
        if self.baseline_leaking:
            return f"the baseline sees what it is to predict (with {_seeds(self.baseline_leaking)})"
        if self.leaking:
            return f"the arm sees what it is to predict (with {_seeds(self.leaking)}), so its figures mean nothing"
        return "fewer than two pairs of cells have a value"

    @property
    def _figures(self) -> str:
        """What the verdict rests on."""
        figures = [f"mean improvement {self.sign}{nats(self.mean)} nats per character"] if self.n else []
        if self.bound or self.baseline_bound:
            whose = (
                "both figures are upper bounds"
                if not self.mixed
                else (f"the {'arm' if self.bound else 'baseline'}'s figure is an upper bound")
            )
            figures.append(f"{whose} (≤)")
        fates = [
            f"the {whose} diverged with {len(seeds)} of {_count(len(self.seeds), 'seed')}, which counts against it"
            for whose, seeds in (("arm", self.diverged), ("baseline", self.baseline_diverged))
            if seeds
        ]
        if not fates:
            return ", ".join([*figures, *self._test, f"n = {self.n}"])
        if self.n > 1:
            figures.append(f"95% interval {interval(self.interval_95)}")
        return "; ".join(fates + ([f"over the other {self.n}: {', '.join(figures)}"] if self.n else []))

    @property
    def _test(self) -> list[str]:
        """The interval, and what was compared with 5%, of the test that decided."""
        same = self.verdict == "supported" if self.expectation == "no difference" else self.verdict == "equivalent"
        if same:
            return [f"90% interval {interval(self.interval_90)}", f"Holm-adjusted {p_value(self.p_equivalence_holm)}"]
        if self.verdict == "refuted" and self.expectation == "improve":
            return [f"95% upper bound {nats(self.interval_90[1])}"]
        if self.verdict == "refuted" and self.expectation == "worsen":
            return [f"95% lower bound {nats(self.interval_90[0])}"]
        return [f"95% interval {interval(self.interval_95)}", f"Holm-adjusted {p_value(self.p_difference_holm)}"]

    @property
    def _remedy(self) -> str:
        """What would settle an inconclusive verdict."""
        if self.diverged or self.baseline_diverged:
            return "more seeds settle nothing before the cells that diverge are mended"
        if self.mixed:
            return "one of the two figures is a bound, so no number of seeds is sure to settle it"
        if self.seeds_needed is not None:
            return (
                f"if the spread over seeds stays as it is, a fresh study of {self.seeds_needed} seeds would settle it"
            )
        if self.expectation == "no difference" and abs(self.mean) > self.margin / 2:
            return "the difference is too close to the margin for more seeds to be sure to settle it"
        return f"not even {MOST_SEEDS:,} seeds would settle it with the spread seen"


_CLAIMS: dict[str, dict[str, str]] = {
    "equivalent": dict.fromkeys(
        ("improve", "worsen"), "better or worse than the baseline by less than the margin of {margin}"
    ),
    "supported": {
        "improve": "better than the baseline",
        "worsen": "worse than the baseline",
        "no difference": "better or worse than the baseline by less than the margin of {margin}",
    },
    "refuted": {
        "improve": "an improvement of {margin} or more is ruled out",
        "worsen": "a worsening of {margin} or more is ruled out",
        "no difference": "the difference is larger than the margin of {margin}",
    },
    "inconclusive": {
        "improve": "an improvement is not shown, and one of {margin} is not ruled out",
        "worsen": "a worsening is not shown, and one of {margin} is not ruled out",
        "no difference": "a difference of {margin} is neither shown nor ruled out",
    },
}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
