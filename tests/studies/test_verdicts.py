"""Values of cells in, verdicts out: pairing, what is missing, what diverged, what leaks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from charlab.errors import UserError
from charlab.studies.definition import EXPECTATIONS, Expectation
from charlab.studies.evidence import decide, power_to_support, t_evidence
from charlab.studies.pairs import Value
from charlab.studies.report import sentences
from charlab.studies.verdicts import compare
from tests.helpers.comparisons import BASELINE, SEEDS, arm, one


def test_figures_are_those_of_scipy_and_statsmodels() -> None:
    before, after = np.random.default_rng(0).normal(1.5, 0.01, size=(2, 9))
    values = dict(enumerate(after.tolist()))
    comparison = one(values, baseline=dict(enumerate(before.tolist())), seeds=range(9))
    test = stats.ttest_1samp(before - after, 0.0)
    assert comparison.n == 9
    assert list(comparison.differences.values()) == pytest.approx((before - after).tolist())
    assert comparison.mean == pytest.approx((before - after).mean())
    assert comparison.standard_deviation == pytest.approx((before - after).std(ddof=1))
    assert comparison.p_difference == pytest.approx(test.pvalue)
    assert comparison.interval_90 == pytest.approx(tuple(test.confidence_interval(0.90)))
    assert comparison.interval_95 == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert comparison.p_equivalence == pytest.approx(ttost_paired(before, after, -0.02, 0.02)[0])
    flipped = stats.permutation_test(
        (before, after), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", vectorized=True
    )
    assert comparison.p_sign_flip == pytest.approx(flipped.pvalue)
    deviation = (before - after).std(ddof=1)
    assert comparison.power == power_to_support(9, 0.02, deviation, 1)


def test_seeds_are_paired_whatever_their_order() -> None:
    shuffled = {seed: arm(0.03)[seed] for seed in (5, 2, 7, 0, 1, 6, 4, 3)}
    assert one(shuffled) == one(arm(0.03))


def test_each_study_is_judged_as_in_the_simulations() -> None:
    expectations: tuple[Expectation, ...] = ("improve", "worsen", "no difference", "improve")
    generator = np.random.default_rng(1)
    seen = set()
    for _ in range(15):
        baseline = generator.normal(1.5, 0.01, size=8)
        arms = baseline - generator.normal(0, 0.02, size=(4, 1)) + generator.normal(0, 0.01, size=(4, 8))
        differences = baseline - arms
        expected = decide(t_evidence(differences.mean(1), differences.std(1, ddof=1), 8, 0.02), expectations)
        names = [f"arm {i}" for i in range(4)]
        comparisons = compare(
            dict(enumerate(baseline.tolist())),
            {name: dict(enumerate(values)) for name, values in zip(names, arms.tolist(), strict=True)},
            seeds=SEEDS,
            margin=0.02,
            expectations=dict(zip(names, expectations, strict=True)),
        )
        assert [comparison.verdict for comparison in comparisons.values()] == expected.tolist()
        seen |= set(expected.tolist())
    assert seen == {"equivalent", "supported", "refuted", "inconclusive"}


@pytest.mark.parametrize("looks", [(), (6, 9)])
def test_the_interval_that_is_shown_is_the_one_that_decides(looks: tuple[int, ...]) -> None:
    """The interval alone leads to the verdict."""
    random, margin, seen = np.random.default_rng(0), 0.01, set()
    for _ in range(60):
        seeds = range(9)
        baseline = dict(zip(seeds, random.normal(1.5, 0.01, 9).tolist(), strict=True))
        spread = random.choice([0.003, 0.008])
        arms = {
            f"{expected} {i}": {seed: baseline[seed] - effect + random.normal(0, spread) for seed in seeds}
            for expected in EXPECTATIONS
            for i, effect in enumerate(random.choice([-0.03, -0.01, -0.005, 0.0, 0.005, 0.01, 0.03], 2))
        }
        expectations: dict[str, Expectation] = {name: name[:-2] for name in arms}  # type: ignore[misc]
        found = compare(
            baseline, arms, seeds=seeds, margin=margin, expectations=expectations, planned_looks=looks
        )  # fmt: skip
        for comparison in found.values():
            (low, high), verdict, same = comparison.interval, comparison.verdict, comparison.expectation
            seen.add((verdict, same))
            inside = -margin < low and high < margin
            if same == "no difference":
                beyond = low > margin or high < -margin
                assert (inside, beyond) == (verdict == "supported", verdict == "refuted"), comparison
                continue
            low, high = (low, high) if same == "improve" else (-high, -low)
            assert inside == (verdict == "equivalent") or verdict in ("supported", "refuted"), comparison
            assert (low > 0) == (verdict == "supported") or verdict in ("equivalent", "refuted"), comparison
            assert verdict != "refuted" or high < margin, comparison
    assert len(seen) >= 9


def test_an_arm_that_changes_no_bit_is_equivalent() -> None:
    comparison = one(dict(BASELINE))
    assert comparison.verdict == "equivalent"
    assert (comparison.p_difference, comparison.p_equivalence, comparison.p_sign_flip) == (1.0, 0.0, 1.0)
    assert comparison.power == 1.0


# what is missing


@pytest.mark.parametrize("missing", [arm(0.03, seed_3=None), {s: v for s, v in arm(0.03).items() if s != 3}])
def test_a_pair_without_a_value_is_left_out_and_named(missing: dict[int, Value]) -> None:
    comparison = one(missing)
    others = [seed for seed in SEEDS if seed != 3]
    rest = one({s: arm(0.03)[s] for s in others}, baseline={s: BASELINE[s] for s in others}, seeds=others)
    assert (comparison.n, comparison.absent, comparison.provisional) == (7, (3,), True)
    assert (comparison.mean, comparison.p_difference) == (rest.mean, rest.p_difference)
    assert not rest.provisional
    assert one(arm(0.03), baseline=BASELINE | {3: None}).differences == comparison.differences


def test_arms_without_values_count_in_the_family_all_the_same() -> None:
    comparisons = compare(
        BASELINE, {"arm": arm(0.01), "later": {}, "leaky": arm(1.0, seed_0="leaks")}, seeds=SEEDS, margin=0.02
    )
    assert comparisons["arm"].p_difference_holm == pytest.approx(3 * one(arm(0.01)).p_difference)
    assert comparisons["arm"].p_equivalence_holm == pytest.approx(3 * one(arm(0.01)).p_equivalence)
    assert (comparisons["later"].verdict, comparisons["later"].n) == ("none", 0)
    assert math.isnan(comparisons["later"].mean)


@pytest.mark.parametrize(("ended", "verdict"), [(0, "none"), (1, "none"), (2, "inconclusive")])
def test_one_pair_gets_no_verdict(ended: int, verdict: str) -> None:
    comparison = one({seed: value for seed, value in arm(0.03).items() if seed < ended})
    assert comparison.verdict == verdict
    assert comparison.too_few_seeds


@pytest.mark.parametrize(("ended", "too_few"), [(5, True), (6, False)])
def test_seeds_count_once_both_cells_have_ended(ended: int, too_few: bool) -> None:
    cells = {f"seed_{seed}": None for seed in range(ended, 8)}
    assert one(arm(0.03, **cells)).too_few_seeds == too_few
    assert not one(arm(0.03, seed_0="diverged", seed_1="diverged", seed_2="diverged")).too_few_seeds


# what diverged

values = st.lists(st.integers(-40, 40), min_size=8, max_size=8).map(
    lambda numbers: {seed: 1.5 + number / 256 for seed, number in enumerate(numbers)}
)


@settings(max_examples=40, deadline=None)
@given(values, values, st.sets(st.integers(0, 7), min_size=1), st.sampled_from(EXPECTATIONS))
def test_an_arm_with_diverged_cells_has_nothing_shown_in_its_favor(
    baseline: dict[int, Value], finished: dict[int, Value], seeds: set[int], expectation: Expectation
) -> None:
    comparison = one(finished | dict.fromkeys(seeds, "diverged"), expectation, baseline=baseline)
    favorable = {"improve": "supported", "worsen": "refuted", "no difference": "supported"}
    assert comparison.verdict not in {"equivalent", favorable[expectation]}
    assert comparison.diverged == tuple(sorted(seeds))
    assert comparison.seeds_needed is None


@settings(max_examples=40, deadline=None)
@given(values, values, st.sets(st.integers(0, 7), min_size=1))
def test_diverging_spares_no_arm_what_its_finished_cells_show(
    baseline: dict[int, Value], finished: dict[int, Value], seeds: set[int]
) -> None:
    survivors = one({seed: v for seed, v in finished.items() if seed not in seeds}, baseline=baseline)
    comparison = one(finished | dict.fromkeys(seeds, "diverged"), baseline=baseline)
    if survivors.verdict in {"refuted", "equivalent"}:
        assert comparison.verdict == "refuted"
    assert (comparison.n, comparison.interval_90) == (survivors.n, survivors.interval_90)


def test_finished_cells_refute_where_signs_alone_would_not() -> None:
    differences = [0.021, 0.021, -0.1, -0.1, -0.1, -0.1, -0.1]  # with one diverged, 6 of 8 lie below the margin
    finished: dict[int, Value] = {seed: 1.5 + seed / 100 - d for seed, d in enumerate(differences)}
    assert one(finished | {7: "diverged"}).verdict == "refuted"


def test_an_arm_that_always_diverges_is_worse() -> None:
    cells = dict.fromkeys(SEEDS, "diverged")
    verdicts = [one(cells, expectation).verdict for expectation in EXPECTATIONS]
    assert verdicts == ["refuted", "supported", "refuted"]
    assert one(cells).p_difference == 2 / 2**8
    assert math.isnan(one(cells).p_sign_flip)


def test_a_diverged_cell_is_worse_than_any_in_the_sign_test() -> None:
    cells = dict.fromkeys(range(1, 8), "diverged")
    assert one(arm(0.0) | {0: 9.0} | cells).p_difference == 2 / 2**8
    assert one(arm(0.0) | {0: 0.1} | cells).p_difference == 2 * 9 / 2**8


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_diverged(value: float) -> None:
    assert one(arm(0.03, seed_3=value)) == one(arm(0.03, seed_3="diverged"))


def test_where_both_diverged_nothing_is_shown() -> None:
    for expectation in EXPECTATIONS:
        comparison = one(arm(9.0, seed_3="diverged"), expectation, baseline=BASELINE | {3: "diverged"})
        assert comparison.verdict == "inconclusive"
        assert (comparison.n, len(comparison.differences)) == (7, 7)
        assert comparison.diverged == comparison.baseline_diverged == (3,)


cells = st.lists(st.integers(-40, 40) | st.sampled_from(["diverged", None]), min_size=8, max_size=8).map(
    lambda numbers: {
        seed: 1.5 + number / 256 if isinstance(number, int) else number for seed, number in enumerate(numbers)
    }
)
MIRROR: dict[Expectation, Expectation] = {"improve": "worsen", "worsen": "improve", "no difference": "no difference"}


@settings(max_examples=80, deadline=None)
@given(cells, cells, st.sampled_from(EXPECTATIONS))
def test_baseline_and_arm_change_places(left: dict[int, Value], right: dict[int, Value], expected: Expectation) -> None:
    comparison, mirrored = one(right, expected, baseline=left), one(left, MIRROR[expected], baseline=right)
    assert comparison.verdict == mirrored.verdict
    assert comparison.p_difference == pytest.approx(mirrored.p_difference)
    assert comparison.seeds_needed == mirrored.seeds_needed
    assert comparison.diverged == mirrored.baseline_diverged


@settings(max_examples=50, deadline=None)
@given(cells, cells, st.sampled_from(EXPECTATIONS), st.permutations(SEEDS), st.integers(-8, 8))
def test_neither_the_order_of_seeds_nor_the_unit_matters(
    left: dict[int, Value], right: dict[int, Value], expected: Expectation, order: list[int], exponent: int
) -> None:
    def rescaled(values: dict[int, Value]) -> dict[int, Value]:
        return {seed: v * 2.0**exponent if isinstance(v, float) else v for seed, v in values.items()}

    comparison = one(right, expected, baseline=left)
    other = one(rescaled(right), expected, baseline=rescaled(left), seeds=order, margin=0.02 * 2.0**exponent)
    assert other.verdict == comparison.verdict
    assert other.p_difference_holm == pytest.approx(comparison.p_difference_holm)
    assert other.p_sign_flip == pytest.approx(comparison.p_sign_flip, nan_ok=True)
    assert other.seeds_needed == comparison.seeds_needed


@settings(max_examples=50, deadline=None)
@given(values, values, st.sampled_from(EXPECTATIONS))
def test_more_seeds_are_named_where_they_could_settle_it(
    baseline: dict[int, Value], finished: dict[int, Value], expectation: Expectation
) -> None:
    comparison = one(finished, expectation, baseline=baseline)
    if comparison.verdict != "inconclusive":
        assert comparison.seeds_needed is None
    elif expectation != "no difference":
        assert comparison.seeds_needed is None or comparison.seeds_needed > 8
        assert comparison.seeds_needed is not None or comparison.standard_deviation > 0.4


def test_no_seeds_are_named_that_would_not_settle_it() -> None:
    near = one(arm(0.02, spread=0.1), "no difference")
    assert (near.verdict, near.seeds_needed) == ("inconclusive", None)
    wide = one(arm(0.0, spread=2.0), "no difference")
    assert wide.verdict == "inconclusive"
    assert wide.seeds_needed is not None
    assert wide.seeds_needed > 8


# what leaks


def test_an_arm_that_leaks_gets_no_verdict() -> None:
    comparison = one(arm(1.3, seed_3="leaks"))
    assert (comparison.verdict, comparison.leaking, comparison.p_difference_holm) == ("none", (3,), 1.0)
    comparisons = compare(BASELINE | {5: "leaks"}, {"a": arm(0.03), "b": arm(-0.5)}, seeds=SEEDS, margin=0.02)
    assert [comparison.verdict for comparison in comparisons.values()] == ["none", "none"]
    assert comparisons["b"].baseline_leaking == (5,)


# what makes no study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 0.0}, "smallest difference that matters"),
        ({"margin": math.nan}, "smallest difference that matters"),
        ({"seeds": [*SEEDS, 3]}, "repeat themselves"),
        ({"seeds": range(7)}, r"the arm 'arm' with seeds \[7\]|the baseline with seeds \[7\]"),
        ({"expectations": {"other": "improve"}}, "'other', which is not an arm: the arms are arm"),
        ({"expectations": {"arm": "win"}}, "'arm' is expected to 'win': choose one of improve, worsen, no difference"),
        ({"arms": {}}, "no arm besides the baseline"),
    ],
)
def test_what_makes_no_study_is_refused(changes: dict, message: str) -> None:
    study = {"arms": {"arm": arm(0.03)}, "seeds": SEEDS, "margin": 0.02} | changes
    with pytest.raises(UserError, match=message):
        compare(BASELINE, study.pop("arms"), **study)


@pytest.mark.parametrize("expectation", EXPECTATIONS)
@pytest.mark.parametrize("improvement", [-0.1, -0.001, 0.001, 0.1])
@pytest.mark.parametrize("side", ["arm", "baseline"])
def test_a_bound_shows_nothing_that_a_lower_value_could_undo(side, improvement, expectation) -> None:
    is_arm = side == "arm"
    found = one(arm(improvement, 0.1), expectation, bounds=["arm"] if is_arm else [], baseline_bound=not is_arm)
    exact = one(arm(improvement, 0.1), expectation).verdict
    shown = improvement == (0.1 if is_arm else -0.1)  # the bound alone is lower already
    close = {("arm", "worsen"), ("baseline", "improve")}  # the other one cannot be better by the margin
    refuted = abs(improvement) < 0.02 and (side, expectation) in close
    assert found.verdict == (exact if shown else "refuted" if refuted else "inconclusive")
    assert math.isnan(found.p_sign_flip)
    assert found.seeds_needed is None


def test_two_bounds_are_compared_as_they_are() -> None:
    both = one(arm(-0.1), "worsen", bounds=["arm"], baseline_bound=True)
    assert both.verdict == one(arm(-0.1), "worsen").verdict == "supported"
    assert "Both figures are upper bounds" in sentences.caution(both)
    assert "both figures are upper bounds (≤)" in sentences.reason(both)
