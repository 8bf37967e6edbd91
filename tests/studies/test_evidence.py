"""The tests of paired differences, against scipy, statsmodels and plain loops, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from charlab.studies.definition import Expectation
from charlab.studies.evidence import (
    Evidence,
    decide,
    holm,
    holm_levels,
    minimum_seeds,
    power,
    power_to_support,
    refutation,
    seeds_to_settle,
    sign_evidence,
    sign_flip_p,
    t_evidence,
    t_interval,
)
from tests.references import statistics as reference

STUDIES = 2_000
SEEDS = 8


def evidence_of(differences: np.ndarray, margin: float) -> Evidence:
    """The evidence of differences (…, arms, seeds)."""
    return t_evidence(differences.mean(-1), differences.std(-1, ddof=1), differences.shape[-1], margin)


def simulate(effects: list[float], seed: int, studies: int = STUDIES) -> np.ndarray:
    """Differences (studies, arms, seeds) with a deviation of 1, of arms that share one baseline."""
    generator = np.random.default_rng(seed)
    baseline, arms = generator.normal(size=(studies, 1, SEEDS)), generator.normal(size=(studies, len(effects), SEEDS))
    return (baseline - arms) / np.sqrt(2) + np.array(effects)[:, None]


def most(share: float, trials: int = STUDIES) -> float:
    """What the share seen in so many trials exceeds once in a thousand times."""
    return float(stats.binom.ppf(0.999, trials, share)) / trials


# against scipy and statsmodels


def test_one_sided_p_values_are_those_of_scipy() -> None:
    before, after = np.random.default_rng(0).normal(size=(2, 5, 9)) * 0.1
    below, above = evidence_of(before - after, 0.03)
    for index, threshold in enumerate((-0.03, 0.0, 0.03)):
        np.testing.assert_allclose(
            below[index], stats.ttest_rel(before, after + threshold, 1, alternative="less").pvalue
        )
        np.testing.assert_allclose(
            above[index], stats.ttest_rel(before, after + threshold, 1, alternative="greater").pvalue
        )


def test_two_sided_and_equivalence_p_values_are_those_of_scipy_and_statsmodels() -> None:
    before, after = np.random.default_rng(1).normal(size=(2, 20, 8)) * 0.1
    evidence = evidence_of(before - after, 0.08)
    np.testing.assert_allclose(evidence.difference, stats.ttest_rel(before, after, 1).pvalue)
    expected = [ttost_paired(x, y, -0.08, 0.08)[0] for x, y in zip(before, after, strict=True)]
    np.testing.assert_allclose(evidence.equivalence, expected)


@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_intervals_are_those_of_scipy(confidence: float) -> None:
    differences = np.random.default_rng(2).normal(0.3, size=7)
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(confidence)
    interval = t_interval(differences.mean(), differences.std(ddof=1), 7, confidence)
    np.testing.assert_allclose(interval, [expected.low, expected.high])


def test_an_interval_of_one_value_has_no_bounds() -> None:
    assert t_interval(0.1, np.nan, 1, 0.95) == (-np.inf, np.inf)


def test_holm_equals_statsmodels() -> None:
    p_values = np.round(np.random.default_rng(3).random((3, 9)) ** 3, 2)  # with ties
    for row, adjusted in zip(p_values, holm(p_values), strict=True):
        np.testing.assert_allclose(adjusted, multipletests(row, method="holm")[1])


def test_power_equals_statsmodels() -> None:
    n = np.array([2, 8, 30])
    expected = [TTestPower().power(0.7, nobs, 0.025, alternative="larger") for nobs in n]
    np.testing.assert_allclose(power(n, 0.14, 0.2, 0.025), expected, rtol=1e-9)
    for deviation in (0.1, 0.02):  # so wide that hardly any study is equivalent
        expected = power(SEEDS, 0.01, deviation, 0.025 / 3)
        assert power_to_support(SEEDS, 0.01, deviation, 3) == pytest.approx(expected, abs=2e-3)


# the sign-flip test


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_sign_flips_are_all_enumerated(n: int) -> None:
    differences = np.round(np.random.default_rng(n).normal(0.4, size=n), 1)  # with ties
    assert sign_flip_p(differences) == reference.sign_flip_p(list(differences))


def test_sign_flip_is_the_permutation_test_of_scipy() -> None:
    before, after = np.random.default_rng(4).normal(size=(2, 8))
    permuted = stats.permutation_test(
        (before, after), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", vectorized=True
    )
    assert sign_flip_p(before - after) == pytest.approx(permuted.pvalue, abs=1e-12)


@pytest.mark.slow
def test_many_signs_are_drawn_and_always_the_same() -> None:
    differences = np.random.default_rng(5).normal(0.6, size=17)
    drawn = sign_flip_p(differences)
    assert drawn == sign_flip_p(differences)
    exact = reference.sign_flip_p(list(differences))
    assert 0.01 < exact < 0.3
    assert abs(drawn - exact) < 4 * np.sqrt(exact / 99_999)
    assert sign_flip_p(np.full(100, 0.1)) == 2 / 100_000  # each side counts the pattern seen, so p is never 0


def test_no_pair_shows_nothing_by_sign_flips() -> None:
    assert sign_flip_p(np.array([])) == 1.0


# pairs of which some have no finite difference


def test_sign_tests_are_those_of_scipy() -> None:
    differences = np.array([-np.inf, -0.3, -0.2, -0.01, 0.0, 0.02, 0.4, np.inf])
    evidence = sign_evidence(differences, 0.1)
    for index, threshold in enumerate((-0.1, 0.0, 0.1)):
        for side, count in ((evidence.below, differences < threshold), (evidence.above, differences > threshold)):
            assert side[index] == pytest.approx(stats.binomtest(int(count.sum()), 8, alternative="greater").pvalue)


def test_fewer_than_two_pairs_show_nothing() -> None:
    evidence = t_evidence(np.array([np.nan, 9.0]), np.array([np.nan, np.nan]), np.array([0, 1]), 0.1)
    np.testing.assert_array_equal(evidence, np.ones((2, 3, 2)))


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.0, "equivalent"), (0.05, "equivalent"), (0.1, "supported"), (-0.2, "refuted")]
)
def test_differences_without_spread_are_certain(mean: float, verdict: str) -> None:
    evidence = t_evidence(np.array([mean]), np.array([0.0]), 8, 0.1)
    assert decide(evidence, ["improve"]).tolist() == [verdict]


# how many seeds


@pytest.mark.parametrize(("num_arms", "expected"), [(1, 6), (2, 7), (3, 7), (6, 8), (7, 9)])
def test_the_fewest_seeds_are_those_with_which_signs_can_show_something(num_arms: int, expected: int) -> None:
    assert minimum_seeds(num_arms) == expected
    assert reference.sign_flip_p([1.0] * expected) <= 0.05 / num_arms < reference.sign_flip_p([1.0] * (expected - 1))


@pytest.mark.parametrize("num_arms", [1, 4])
@pytest.mark.parametrize("deviation", [0.011, 0.02, 0.05])
def test_so_many_seeds_settle_it_whatever_the_mean_is_and_one_fewer_does_not(num_arms: int, deviation: float) -> None:
    n = seeds_to_settle(deviation, 0.01, num_arms, "improve")
    assert n is not None
    assert n > minimum_seeds(num_arms)
    assert power(n, 0.01, deviation, 0.025 / num_arms) == pytest.approx(1 - 0.05 / num_arms, abs=0.02)
    for seeds, expected in ((n, False), (n - 1, True)):
        error = deviation / np.sqrt(seeds)
        supports, refutes = stats.t.isf([0.025 / num_arms, 0.05 / num_arms], seeds - 1) * [error, -error] + [0.0, 0.01]
        means = np.append(np.linspace(-0.01, 0.02, 301), (supports + refutes) / 2)
        others = np.full((means.size, num_arms - 1), np.nan)  # arms that show nothing, so that Holm is at its strictest
        sizes = np.concatenate([np.full((means.size, 1), seeds), np.zeros_like(others)], axis=1)
        evidence = t_evidence(np.column_stack([means, others]), np.full(sizes.shape, deviation), sizes, 0.01)
        verdicts = decide(evidence, ["improve"] * num_arms)[:, 0]
        assert ("inconclusive" in verdicts) == expected


def test_so_many_seeds_show_by_simulation_that_there_is_no_difference() -> None:
    n = seeds_to_settle(1.0, 1.1, 1, "no difference")
    assert n is not None
    shares = []
    for seeds in (n, n - 1):
        differences = np.random.default_rng(6).normal(size=(10_000, 1, seeds))
        shares.append((decide(evidence_of(differences, 1.1), ["no difference"]) == "supported").mean())
    assert shares[0] > 0.79
    assert shares[1] < 0.78


def test_no_number_of_seeds_is_named_beyond_reason() -> None:
    assert seeds_to_settle(1.0, 0.01, 1, "improve") is None
    assert seeds_to_settle(1.0, 0.01, 1, "no difference") is None
    assert seeds_to_settle(0.0, 0.01, 3, "improve") == minimum_seeds(3)


# the verdicts


def test_verdicts_are_those_of_the_rules_written_out() -> None:
    expectations: list[Expectation] = ["improve", "worsen", "no difference", "improve", "no difference", "worsen"]
    generator = np.random.default_rng(7)
    baseline = generator.normal(size=(30, SEEDS))
    effects = generator.normal(scale=1.5, size=(30, 6, 1)) * generator.integers(0, 2, size=(30, 6, 1))
    arms = baseline[:, None] - effects + generator.normal(size=(30, 6, SEEDS))
    reached: set[tuple[str, str]] = set()
    for margin in (0.4, 2.5):
        seen = decide(evidence_of(baseline[:, None] - arms, margin), expectations)
        for study in range(30):
            assert seen[study].tolist() == reference.verdicts(baseline[study], arms[study], margin, expectations)
        reached |= {pair for row in seen for pair in zip(expectations, row.tolist(), strict=True)}
    assert len(reached) == 4 + 4 + 3


@pytest.mark.parametrize("expectation", ["improve", "worsen"])
@pytest.mark.parametrize("num_arms", [1, 3, 6])
def test_without_any_effect_hardly_a_study_supports_one(num_arms: int, expectation: str) -> None:
    evidence = evidence_of(simulate([0.0] * num_arms, seed=num_arms), margin=0.2)
    supported = (decide(evidence, [expectation] * num_arms) == "supported").any(axis=1).mean()
    assert 0.005 < supported < most(0.025)


@pytest.mark.parametrize("num_arms", [3, 6])
@pytest.mark.parametrize("effect", [-5.0, 5.0])
def test_an_arm_with_an_effect_makes_the_others_hardly_less_safe(num_arms: int, effect: float) -> None:
    evidence = evidence_of(simulate([effect] + [0.0] * (num_arms - 1), seed=10 + num_arms), margin=0.2)
    verdicts = decide(evidence, ["improve"] * num_arms)
    assert (verdicts[:, 0] == ("supported" if effect > 0 else "refuted")).mean() > 0.99
    assert (verdicts[:, 1:] == "supported").any(axis=1).mean() < most(0.025)


@pytest.mark.parametrize("effect", [0.7, 1.2])
def test_an_effect_is_supported_as_often_as_its_power_says(effect: float) -> None:
    expected = float(power(SEEDS, effect, 1.0, 0.025))
    verdicts = decide(evidence_of(simulate([effect], seed=20), margin=0.1), ["improve"])
    assert (verdicts == "supported").mean() == pytest.approx(
        expected, abs=4 * np.sqrt(expected * (1 - expected) / STUDIES)
    )


@pytest.mark.parametrize(("deviation", "num_arms"), [(0.003, 1), (0.01, 1), (0.003, 3), (0.006, 3)])
def test_a_margin_is_supported_as_often_as_its_power_says(deviation: float, num_arms: int) -> None:
    expected = power_to_support(SEEDS, 0.01, deviation, num_arms)
    differences = deviation * simulate([0.01 / deviation], seed=22, studies=20_000)
    found = evidence_of(differences, 0.01)
    others = [np.broadcast_to(np.array([0.5, 1.0, 0.5])[:, None, None], (3, 20_000, num_arms - 1))] * 2
    evidence = Evidence(*(np.concatenate(sides, axis=-1) for sides in zip(found, others, strict=True)))
    seen = (decide(evidence, ["improve"] * num_arms)[:, 0] == "supported").mean()
    error = 4 * np.sqrt(expected * (1 - expected) / 20_000)
    assert seen > expected - error
    if num_arms == 1:
        assert seen < expected + error
    if (deviation, num_arms) == (0.003, 1):
        assert expected == pytest.approx(0.95, abs=0.003)  # not 1.000: one in twenty is equivalent


@pytest.mark.parametrize("margin", [0.3, 1.0, 2.0])
def test_the_level_of_a_test_decides_as_its_adjusted_p_value(margin: float) -> None:
    evidence = evidence_of(simulate([0.0, 0.5, 1.0, 2.0], seed=23, studies=200), margin)
    for p_values in [*evidence.equivalence, *evidence.difference, *refutation(evidence, ["improve"] * 4)]:
        assert ((p_values < holm_levels(p_values)) == (holm(p_values) < 0.05)).all()


@pytest.mark.parametrize("num_arms", [3, 6])
def test_effects_of_several_arms_are_supported_as_often_as_holm_allows(num_arms: int) -> None:
    verdicts = decide(evidence_of(simulate([1.2] * num_arms, seed=21), margin=0.1), ["improve"] * num_arms)
    strictest, mildest = power(SEEDS, 1.2, 1.0, 0.025 / num_arms), power(SEEDS, 1.2, 1.0, 0.025)
    assert strictest + 0.05 < (verdicts == "supported").mean() < mildest


@pytest.mark.parametrize("num_arms", [1, 3, 6])
def test_an_effect_of_exactly_the_margin_is_hardly_ever_denied(num_arms: int) -> None:
    evidence = evidence_of(simulate([1.0] * num_arms, seed=30 + num_arms), margin=1.0)
    verdicts = decide(evidence, ["improve"] * num_arms)
    ruled_out = (evidence.below[2] < 0.05).mean(axis=0)  # each arm's own, at 5%
    np.testing.assert_allclose(ruled_out, 0.05, atol=4 * np.sqrt(0.05 * 0.95 / STUDIES))
    assert (np.isin(verdicts, ["refuted", "equivalent"]).mean(axis=0) < most(0.05)).all()
    assert (verdicts == "equivalent").any(axis=1).mean() < most(0.05)
    assert (verdicts == "refuted").any(axis=1).mean() < most(0.05)
    same = decide(evidence, ["no difference"] * num_arms)
    assert (same == "supported").any(axis=1).mean() < most(0.05)
    assert (same == "refuted").any(axis=1).mean() < most(0.05)


def test_verdicts_other_than_supported_are_reached_too() -> None:
    evidence = evidence_of(simulate([0.0], seed=40), margin=1.5)
    expected = 2 * float(power(SEEDS, 1.5, 1.0, 0.05)) - 1
    assert (decide(evidence, ["improve"]) == "equivalent").mean() == pytest.approx(expected, abs=0.03)
    harmful = evidence_of(simulate([-1.0], seed=41), margin=0.2)
    expected = float(power(SEEDS, 1.2, 1.0, 0.05))
    assert (decide(harmful, ["improve"]) == "refuted").mean() == pytest.approx(expected, abs=0.03)
    assert (decide(harmful, ["worsen"]) == "supported").mean() > 0.5
