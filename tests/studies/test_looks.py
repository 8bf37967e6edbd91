"""Critical values against published ones and against simulated studies; error rates over all looks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.looks import decide_at_looks, simulate, table
from charlab.studies import looks
from charlab.studies.definition import Expectation
from charlab.studies.looks import critical_values, idle_looks, sequential_p
from charlab.studies.pairs import Value
from charlab.studies.verdicts import Comparison, compare
from tests.references.looks import t_statistics

MANY = 4000  # seeds per look, with which the variance is as good as known
PLANNED = (6, 9, 12, 16)


@pytest.fixture(scope="module")
def simulated() -> list[dict[str, float | str]]:
    return list(simulate())


@pytest.mark.parametrize(
    ("count", "published"),
    [  # equal looks, two-sided 5%: gsDesign, sfPower with param = 1
        (2, [2.2414, 2.1254]),
        (3, [2.3940, 2.2938, 2.1999]),
        (5, [2.5758, 2.4913, 2.4108, 2.3392, 2.2756]),
    ],
)
def test_large_studies_have_the_published_boundaries(count: int, published: list[float]) -> None:
    found = critical_values([MANY * (look + 1) for look in range(count)], 0.025)
    np.testing.assert_allclose(found, published, atol=0.01)


@pytest.mark.parametrize(
    ("count", "published"),
    [(2, [2.157, 2.201]), (3, [2.279, 2.295, 2.296]), (5, [2.438, 2.427, 2.410, 2.397, 2.386])],
)
def test_another_spending_function_has_its_published_boundaries(
    monkeypatch: pytest.MonkeyPatch, count: int, published: list[float]
) -> None:
    """Lan and DeMets' spending function of Pocock's type, two-sided 5%, as gsDesign's sfLDPocock."""
    monkeypatch.setattr(looks, "spent", lambda share: np.log(1 + (np.e - 1) * np.asarray(share)))
    found = critical_values([MANY * (look + 1) for look in range(count)], 0.025)
    np.testing.assert_allclose(found, published, atol=0.01)


def test_the_first_look_has_the_exact_quantile_of_t() -> None:
    assert critical_values(PLANNED, 0.025)[0] == pytest.approx(stats.t.isf(0.025 * 6 / 16, 5), rel=1e-9)
    assert sequential_p(np.array(0.001), 0, PLANNED) == pytest.approx(0.001 * 16 / 6, rel=1e-9)


@pytest.mark.parametrize("planned", [PLANNED, pytest.param((6, 7, 8), marks=pytest.mark.slow), (3, 20)])
@pytest.mark.parametrize("level", [0.05, pytest.param(0.025 / 3, marks=pytest.mark.slow)])
def test_each_look_spends_its_share_of_the_error_rate(planned: tuple[int, ...], level: float) -> None:
    """Among simulated studies without an effect, the share found significant by each look is what may be spent."""
    t = t_statistics(planned, studies=200_000, seed=7)
    significant = np.logical_or.accumulate(t >= critical_values(planned, level), axis=-1).mean(0)
    expected = level * np.divide(planned, planned[-1])
    np.testing.assert_allclose(significant, expected, atol=4 * np.sqrt(level / 200_000))


def test_a_sequential_p_value_is_the_level_at_which_a_look_becomes_significant() -> None:
    for level in (0.003, 0.02, 0.3):
        for look, critical in enumerate(critical_values(PLANNED, level)):
            p = stats.t.sf(critical, PLANNED[look] - 1)
            assert sequential_p(np.array(p), look, PLANNED) == pytest.approx(level, rel=0.01)


def test_a_study_with_one_look_is_tested_as_without_looks() -> None:
    p = np.array([1e-4, 0.02, 0.7])
    np.testing.assert_allclose(sequential_p(p, 0, (8,)), p)


def test_certain_and_impossible_evidence() -> None:
    assert sequential_p(np.array([0.0, 1.0]), 2, PLANNED) == pytest.approx([1e-7, 1.0])


@pytest.mark.slow
def test_looks_that_can_hardly_settle_anything() -> None:
    assert idle_looks(PLANNED, 3) == {}
    assert list(idle_looks((6, 50, 100), 20)) == [6]


def test_verdicts_at_looks_are_those_of_the_simulated_rule() -> None:
    """`compare` reads one study look by look, `decide_at_looks` many at once."""
    generator = np.random.default_rng(3)
    expectations: list[Expectation] = ["improve", "no difference", "worsen"]
    seeds = list(range(PLANNED[-1]))
    for true in (0.0, 0.006, 0.02):
        for differences in true + 0.01 * generator.standard_normal((6, 3, PLANNED[-1])):
            verdicts, settled = decide_at_looks(differences, 0.01, PLANNED, expectations)
            arms = {f"arm{i}": dict(enumerate(-row)) for i, row in enumerate(differences)}
            found = compare(
                dict.fromkeys(seeds, 0.0),
                arms,
                seeds=seeds,
                margin=0.01,
                expectations={f"arm{i}": expectation for i, expectation in enumerate(expectations)},
                planned_looks=PLANNED,
            )
            assert [comparison.verdict for comparison in found.values()] == list(verdicts)
            assert [len(comparison.seeds) for comparison in found.values()] == [PLANNED[look] for look in settled]


def at_looks(values: Mapping[int, float | str | None], n: int = 16) -> Comparison | None:
    """Compare an arm with a baseline of 2 nats, where the first n seeds have ended."""
    arm = {seed: value for seed, value in values.items() if seed < n}
    found = compare(dict.fromkeys(arm, 2.0), {"arm": arm}, seeds=list(range(16)), margin=0.01, planned_looks=PLANNED)  # type: ignore[arg-type]
    return found.get("arm")


def test_a_look_is_read_once_all_its_cells_have_ended() -> None:
    values = {seed: 1.98 + 0.03 * (-1) ** seed for seed in range(16)}
    assert at_looks(values, 5) is None
    for n, seeds in ((6, 6), (8, 6), (9, 9), (15, 12), (16, 16)):
        comparison = at_looks(values, n)
        assert comparison is not None
        assert (comparison.n, len(comparison.seeds)) == (seeds, seeds)


def test_an_interval_is_wider_at_a_look_and_agrees_with_the_verdict() -> None:
    values = {seed: 1.98 + 0.004 * (-1) ** seed for seed in range(16)}
    comparison = at_looks(values)
    assert comparison is not None
    assert (comparison.verdict, comparison.n) == ("supported", 6)
    assert comparison.interval[0] > 0
    differences = np.array([0.02 - 0.004 * (-1) ** seed for seed in range(6)])
    half_width = stats.t.isf(0.025 * 6 / 16, 5) * differences.std(ddof=1) / np.sqrt(6)
    assert comparison.interval == pytest.approx((differences.mean() - half_width, differences.mean() + half_width))
    assert comparison.p_difference == pytest.approx(2 * stats.ttest_1samp(differences, 0).pvalue / 2 * 16 / 6)


def test_diverged_pairs_spend_by_look_as_well() -> None:
    """An arm that always diverges: the sign test of the first look has 6/16 of the error rate, of the second 3/16."""
    comparison = at_looks(dict.fromkeys(range(16), "diverged"))
    assert comparison is not None
    assert comparison.verdict == "refuted"
    assert (len(comparison.seeds), comparison.p_holm) == (6, pytest.approx(2.0**-6 * 16 / 6))


def test_an_arm_that_diverges_after_a_look_has_nothing_shown_in_its_favor() -> None:
    """The first look shows that it is not worse by the margin, the second that it is not better, but it diverges."""
    differences = [0.0143, -0.0003] * 3 + [-0.006] * 5
    values: dict[int, Value] = {seed: 2.0 - difference for seed, difference in enumerate(differences)}
    values[11] = "diverged"
    found = compare(
        dict.fromkeys(range(12), 2.0), {"arm": values}, seeds=range(12), margin=0.01, planned_looks=(6, 12)
    )["arm"]
    assert (found.verdict, found.diverged) == ("refuted", (11,))
    assert found.p_equivalence == 1.0


def test_bounds_that_different_looks_have_shown_are_shown_together() -> None:
    """The first look shows that the arm is not worse by the margin, the second that it is not better."""
    differences = [0.015, -0.007] * 3 + [-0.02] * 3
    arm = {seed: 2.0 - difference for seed, difference in enumerate(differences)}
    seeds = range(9)
    found = compare(dict.fromkeys(seeds, 2.0), {"arm": arm}, seeds=seeds, margin=0.01, planned_looks=(6, 9))["arm"]
    assert (found.verdict, found.n) == ("equivalent", 9)
    assert -0.01 < found.interval[0] < found.mean < found.interval[1] < 0.01
    first = np.array(differences[:6])
    low = first.mean() - stats.t.isf(0.05 * 6 / 9, 5) * first.std(ddof=1) / np.sqrt(6)
    assert found.interval[0] == pytest.approx(low)


def test_the_interval_of_cells_that_did_not_diverge_has_their_degrees_of_freedom() -> None:
    comparison = at_looks({0: 1.9, 1: 1.95, 2: 2.0, 3: "diverged", 4: "diverged", 5: "diverged"})
    assert comparison is not None
    half_width = stats.t.isf(0.025 * 6 / 16, 2) * 0.05 / np.sqrt(3)
    assert comparison.interval == pytest.approx((0.05 - half_width, 0.05 + half_width))


@pytest.mark.slow
@pytest.mark.parametrize("row", range(27))
def test_false_verdicts_over_all_looks(simulated: list[dict[str, float | str]], row: int) -> None:
    """At most 6.3% of 2,000 studies, which is 5% and 2.6 standard errors, whatever the arms and their spread."""
    found = simulated[row]
    false = {
        (0.0, "improve"): ["supported"],
        (0.01, "improve"): ["equivalent", "refuted"],
        (0.01, "no difference"): ["supported"],
    }[found["difference"], found["expected"]]  # type: ignore[index]
    for verdict in false:
        assert found[verdict] <= 0.063, found


@pytest.mark.slow
def test_the_documented_table_is_the_simulation(simulated: list[dict[str, float | str]]) -> None:
    assert table(simulated) in (Path(__file__).parents[2] / "docs" / "looks.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_looks_save_seeds_where_effects_are_clear(simulated: list[dict[str, float | str]]) -> None:
    clear = [row for row in simulated if row["deviation"] == 0.003 and row["expected"] == "improve"]
    assert all(row["seeds"] < 7 for row in clear)  # type: ignore[operator]
