"""Times to a target: when a curve crosses it, and the rank test against scipy, brute force and simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from charlab.errors import UserError
from charlab.studies.evidence import decide
from charlab.studies.pairs import Value
from charlab.studies.time_to_target import RankTest, Reached, crossing
from charlab.studies.verdicts import Comparison, compare
from tests.references.statistics import log_speed_ups, signed_rank_p

NEVER = math.inf


def curve(*values: float) -> pd.DataFrame:
    steps = np.arange(len(values)) * 100
    return pd.DataFrame({"step": steps, "seconds": steps / 50, "value": values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((4.0, 2.0, 1.5), Reached(180, 200)),
        ((4.0, 1.6, 1.5), Reached(100, 200)),
        ((4.0, 1.5, 2.0), Reached(96, 200)),  # the first crossing counts
        ((4.0, 2.0, 1.7), Reached(NEVER, 200)),
        ((1.5, 1.4), Reached(0, 100)),
        ((math.inf, 1.5), Reached(100, 100)),
        ((4.0, math.nan, 1.5), Reached(200, 200)),
    ],
)
def test_a_crossing_is_interpolated_between_evaluations(values: tuple[float, ...], expected: Reached) -> None:
    assert crossing(curve(*values), "step", 1.6) == pytest.approx(expected)
    seconds = Reached(expected.time / 50, expected.limit / 50)
    assert crossing(curve(*values), "seconds", 1.6) == pytest.approx(seconds)


def test_a_run_without_evaluations_has_no_time() -> None:
    with pytest.raises(UserError, match="no evaluations on validation text"):
        crossing(curve(), "step", 1.6)


def test_without_censoring_it_is_the_test_of_wilcoxon() -> None:
    times = np.random.default_rng(0).lognormal(5, 0.1, size=(2, 11))
    test = RankTest(*[[Reached(time, NEVER) for time in row] for row in times])
    differences = np.log(times[0] / times[1])
    evidence = test.evidence(0.05)
    for i, threshold in enumerate((-0.05, 0.0, 0.05)):
        expected = [
            stats.wilcoxon(differences - threshold, alternative=side, method="exact").pvalue
            for side in ("less", "greater")
        ]
        assert [evidence.below[i], evidence.above[i]] == pytest.approx(expected)
    walsh = sorted((a + b) / 2 for i, a in enumerate(differences) for b in differences[i:])
    assert test.estimate() == (pytest.approx(np.median(walsh)), "")
    assert test.interval(0.025) == pytest.approx((walsh[10], walsh[-11]))  # 10 is the tables' critical sum for 11 pairs


times = st.tuples(st.sampled_from([20.0, 40.0, 50.0, 80.0, 100.0, NEVER]), st.sampled_from([100.0, 200.0]))


NOT_MONOTONE = [  # without being made so: a smaller ratio has a larger p-value
    ((100.0, 100.0), (50.0, 100.0)), ((50.0, 100.0), (20.0, 100.0)), ((20.0, 100.0), (80.0, 200.0)),
    ((50.0, 200.0), (NEVER, 100.0)), ((40.0, 200.0), (20.0, 200.0)), ((100.0, 100.0), (50.0, 100.0)),
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@example(pairs=NOT_MONOTONE, level=0.2)
@example(pairs=[((a, 100.0), (b, 100.0)) for a, b in ((20, 20), (40, 20), (50, 20), (50, 50), (80, 40))], level=0.05)
@given(pairs=st.lists(st.tuples(times, times), min_size=1, max_size=6), level=st.sampled_from([0.05, 0.2, 0.4]))
def test_ties_and_censored_runs_against_all_sign_patterns(
    pairs: list[tuple[tuple[float, float], tuple[float, float]]], level: float
) -> None:
    before, after = ([Reached(*pair[i]) for pair in pairs] for i in range(2))
    test = RankTest(before, after)
    shifts = changes(before, after)
    p_values = np.array([signed_rank_p(log_speed_ups(before, after, math.exp(shift))) for shift in shifts])
    below, above = np.maximum.accumulate(p_values[::-1, 0])[::-1], np.maximum.accumulate(p_values[:, 1])
    evidence = test.evidence(0.35)
    for i, threshold in enumerate((-0.35, 0.0, 0.35)):
        p_below, p_above = signed_rank_p(log_speed_ups(before, after, math.exp(threshold)))
        assert evidence.above[i] == pytest.approx(max(p_above, above[shifts < threshold].max(initial=0)))
        assert evidence.below[i] == pytest.approx(max(p_below, below[shifts > threshold].max(initial=0)))
    low, high = test.interval(level)
    for shift, p_below, p_above in zip(
        shifts, below, above, strict=True
    ):  # what is rejected is outside of the interval
        assert p_above >= level - 1e-9 or shift <= low + 1e-9
        assert p_below >= level - 1e-9 or shift >= high - 1e-9
        assert p_above < level + 1e-9 or shift >= low - 1e-9
        assert p_below < level + 1e-9 or shift <= high + 1e-9


def test_a_time_that_the_shift_puts_at_the_limit_is_seen() -> None:
    lost, won = ((20.0, 100.0), (50.0, 100.0)), ((50.0, 100.0), (20.0, 100.0))
    pairs = [lost, lost, ((20.0, 100.0), (80.0, 100.0)), ((40.0, 100.0), (20.0, 100.0)), won, won]
    before, after = ([Reached(*pair[i]) for pair in pairs] for i in range(2))
    shifts = changes(before, after)
    p_values = np.array([signed_rank_p(log_speed_ups(before, after, math.exp(shift))) for shift in shifts])
    expected = p_values[shifts > 0.35, 0].max()
    assert RankTest(before, after).evidence(0.35).below[2] == pytest.approx(expected)


def changes(before: list[Reached], after: list[Reached]) -> np.ndarray:
    """Every shift at which a p-value may change, and one between any two."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True)]
    ratios = [math.log(a.time / b.time) for a, b in pairs if max(a.time, b.time) < NEVER]
    points = {(a + b) / 2 for a in ratios for b in ratios}
    points |= {math.log(a.time / b.limit) for a, b in pairs if a.time < NEVER}
    points |= {math.log(a.limit / b.time) for a, b in pairs if b.time < NEVER}
    found = np.unique(np.round(sorted(points | {0.0}), 14))
    return np.sort(np.concatenate([found, (found[1:] + found[:-1]) / 2, [found[0] - 1, found[-1] + 1]]))


def test_a_baseline_that_never_gets_there_leaves_the_speed_up_open() -> None:
    test = RankTest([Reached(NEVER, 400)] * 3 + [Reached(300, 400)] * 5, [Reached(200, 400)] * 8)
    assert test.interval(0.025) == (pytest.approx(math.log(1.5)), NEVER)
    assert test.estimate() == (pytest.approx(math.log(2)), "≥")
    mirrored = RankTest([Reached(200, 400)] * 8, [Reached(NEVER, 400)] * 8)
    assert mirrored.interval(0.025)[0] == -NEVER
    assert mirrored.estimate() == (pytest.approx(-math.log(2)), "≤")


@pytest.mark.parametrize(
    ("after", "estimate", "sign"),
    [
        ([Reached(NEVER, NEVER)] * 8, -NEVER, ""),
        ([Reached(NEVER, NEVER)] * 3 + [Reached(100, 400)] * 5, -math.log(2), "≤"),  # where the runs of 400 steps end
        ([Reached(NEVER, NEVER)] * 2 + [Reached(100, 400)] * 6, math.log(2), ""),
        ([Reached(0, 400)] * 8, NEVER, ""),
        ([Reached(0, 400)] * 3 + [Reached(100, 400)] * 5, math.log(4), "≥"),
        ([Reached(0, 400)] * 2 + [Reached(100, 400)] * 6, math.log(2), ""),
    ],
)
def test_runs_that_diverged_or_began_at_the_target(after: list[Reached], estimate: float, sign: str) -> None:
    """More than half of all averages of two differences are infinite, if three of eight differences are."""
    before = [Reached(200, 400)] * 8
    assert RankTest(before, after).estimate() == (pytest.approx(estimate), sign)
    assert RankTest(after, before).estimate() == (pytest.approx(-estimate), {"≤": "≥", "≥": "≤"}.get(sign, ""))


def test_runs_that_never_get_there_are_no_evidence() -> None:
    test = RankTest([Reached(NEVER, 400)] * 8, [Reached(NEVER, 400)] * 8)
    assert (test.evidence(0.1).below == 1).all()
    assert test.interval(0.025) == (-NEVER, NEVER)
    assert math.isnan(test.estimate()[0])


def test_longer_training_alone_proves_nothing() -> None:
    """An arm that reaches the target only after the baseline's runs have ended is not shown to be sooner."""
    evidence = RankTest([Reached(NEVER, 100)] * 8, [Reached(150, 400)] * 8).evidence(0.1)
    assert evidence.difference == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100.0, 80.0])  # 0% and about half of the runs do not reach the target
@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_error_rates_with_censoring(limit: float, factor: float) -> None:
    """Sound at no difference for the difference, and at exactly the margin for equivalence and refutation."""
    studies, false = 500, {"supported": 0, "equivalent": 0, "refuted": 0}
    generator = np.random.default_rng(round(limit * factor))
    for _ in range(studies):
        shared = generator.normal(math.log(80), 0.05, size=8)
        own = shared + 0.1 * generator.standard_normal((2, 8))
        before, after = np.exp(own - np.array([[0.0], [math.log(factor)]]))
        test = RankTest(*[[Reached(t if t <= limit else NEVER, limit) for t in row] for row in (before, after)])
        found = test.evidence(math.log(1.2))
        verdict = str(decide(type(found)(found.below[:, None], found.above[:, None]), ["improve"])[0])
        different = found.difference < 0.05
        false["supported"] += bool(factor == 1 and different)
        false["equivalent"] += factor > 1 and verdict == "equivalent"
        false["refuted"] += factor > 1 and verdict == "refuted"
    allowed = 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / studies)
    assert all(number / studies <= allowed for number in false.values()), false


def timed(baseline: list[Value], arm: list[Value], **changes: object) -> Comparison:
    values = [dict(enumerate(cells)) for cells in (baseline, arm)]
    options: dict = {"seeds": range(len(arm)), "margin": math.log(1.1), "metric": "steps_to", "target": 1.6} | changes
    return compare(values[0], {"arm": values[1]}, **options)["arm"]


def reached(*times: float, limit: float = 400) -> list[Value]:
    return [Reached(time, limit) for time in times]


BASELINE = reached(200, 210, 190, 205, 195, 220, 185, 215)


def test_a_study_of_times() -> None:
    comparison = timed(BASELINE, reached(100, 110, 90, 101, 99, 105, 95, 112))
    assert comparison.verdict == "supported"
    assert comparison.n == 8
    assert math.exp(comparison.mean) == pytest.approx(2, abs=0.1)
    assert comparison.p_difference == 2 / 256
    assert comparison.interval == comparison.interval_95
    assert comparison.interval[0] > comparison.margin


def test_a_cell_that_diverged_never_reaches_the_target() -> None:
    comparison = timed(BASELINE, [*reached(100, 110, 90, 101, 99, 105, 95), "diverged"])
    assert comparison.unreached == (7,)
    assert comparison.differences[7] == -NEVER
    assert comparison.n == 8
    assert timed(BASELINE, ["diverged"] * 8).interval[1] < 0


def test_pairs_without_a_value_are_left_out_and_leaks_leave_no_verdict() -> None:
    assert timed(BASELINE, [*reached(100, 110, 90, 101, 99, 105, 95), None]).provisional
    assert timed(BASELINE, [*reached(100, 110, 90, 101, 99, 105, 95), "leaks"]).verdict == "none"


def test_a_bound_on_the_loss_can_prove_an_arm_sooner_but_not_later() -> None:
    sooner, later = reached(100, 110, 90, 101, 99, 105, 95, 112), reached(*[350] * 8)
    assert timed(BASELINE, sooner, bounds=["arm"]).verdict == "supported"
    assert timed(BASELINE, later, bounds=["arm"], expectations={"arm": "worsen"}).verdict == "inconclusive"
    assert timed(BASELINE, later, expectations={"arm": "worsen"}).verdict == "supported"
