"""How a verdict is put into words."""

from __future__ import annotations

import dataclasses

import pytest

from charlab.evaluation.bootstrap import TextInterval
from charlab.studies.definition import Expectation
from charlab.studies.pairs import Value
from charlab.studies.report import sentences
from tests.helpers.comparisons import BASELINE, SEEDS, arm, one

BETTER = "mean improvement 0.0306 nats per character, 95% interval 0.0185 to 0.0427, Holm-adjusted p = 0.000557, n = 8"
SAME = (
    "within the margin of 0.02 of the baseline "
    "(mean improvement 0.0012 nats per character, 90% interval −0.0017 to 0.0041, Holm-adjusted p < 0.0001, n = 8)."
)
UNCLEAR = "mean improvement 0.0113 nats per character, 95% interval −0.0130 to 0.0355, Holm-adjusted p = 0.309, n = 8"
NOT_THE_SAME = UNCLEAR.replace("95% interval −0.0130 to 0.0355", "90% interval −0.0082 to 0.0307").replace("309", "211")
FRESH = "if the spread over seeds stays as it is, a fresh study of"


@pytest.mark.parametrize(
    ("improvement", "spread", "expectation", "reason"),
    [
        (0.03, 1.0, "improve", f"Supported: better than the baseline ({BETTER})."),
        (
            -0.03,
            1.0,
            "improve",
            "Refuted: an improvement of 0.02 or more is ruled out "
            "(mean improvement −0.0294 nats per character, 95% upper bound −0.0197, n = 8).",
        ),
        (
            -0.03,
            1.0,
            "worsen",
            "Supported: worse than the baseline (mean improvement −0.0294 nats per character, 95% interval −0.0415 to "
            "−0.0173, Holm-adjusted p = 0.000713, n = 8).",
        ),
        (
            0.03,
            1.0,
            "worsen",
            "Refuted: a worsening of 0.02 or more is ruled out "
            "(mean improvement 0.0306 nats per character, 95% lower bound 0.0209, n = 8).",
        ),
        (0.001, 0.3, "improve", f"Equivalent: {SAME}"),
        (0.001, 0.3, "worsen", f"Equivalent: {SAME}"),
        (0.001, 0.3, "no difference", f"Supported: {SAME}"),
        (
            0.06,
            1.0,
            "no difference",
            "Refuted: the difference is larger than the margin of 0.02 (mean improvement 0.0606 nats per "
            "character, 90% interval 0.0509 to 0.0703, Holm-adjusted p < 0.0001, n = 8).",
        ),
        (
            0.01,
            2.0,
            "improve",
            f"Inconclusive: an improvement is not shown, and one of 0.02 is not ruled out ({UNCLEAR}); "
            f"{FRESH} 30 seeds would settle it.",
        ),
        (
            0.01,
            2.0,
            "no difference",
            f"Inconclusive: a difference of 0.02 is neither shown nor ruled out ({NOT_THE_SAME}); "
            f"{FRESH} 20 seeds would settle it.",
        ),
        (
            0.02,
            0.1,
            "no difference",
            "Inconclusive: a difference of 0.02 is neither shown nor ruled out (mean improvement 0.0201 nats per "
            "character, 90% interval 0.0191 to 0.0210, Holm-adjusted p = 0.547, n = 8); the difference is so close "
            "to the margin that more seeds may not settle it.",
        ),
        (
            0.0,
            200.0,
            "worsen",
            "Inconclusive: a worsening is not shown, and one of 0.02 is not ruled out (mean improvement 0.1250 nats "
            "per character, 95% interval −2.2996 to 2.5496, Holm-adjusted p = 0.906, n = 8); with this spread, not "
            "even 10,000 seeds would settle it.",
        ),
    ],
)
def test_a_verdict_has_its_reason(improvement: float, spread: float, expectation: Expectation, reason: str) -> None:
    assert sentences.reason(one(arm(improvement, spread), expectation)) == reason


@pytest.mark.parametrize(
    ("cells", "baseline", "reason"),
    [
        (
            arm(0.03, seed_2="diverged"),
            BASELINE,
            "Inconclusive: an improvement is not shown, and one of 0.02 is not ruled out (the arm has no finite loss "
            "with 1 of 8 seeds, which counts against it; over the other 7: mean improvement 0.0307 nats per character, "
            "95% interval 0.0162 to 0.0452); more seeds settle nothing until these cells are fixed.",
        ),
        (
            dict.fromkeys(SEEDS, "diverged"),
            BASELINE,
            "Refuted: an improvement of 0.02 or more is ruled out "
            "(the arm has no finite loss with 8 of 8 seeds, which counts against it).",
        ),
        (
            arm(0.0) | {0: 1.4},
            BASELINE | dict.fromkeys(range(1, 8), "diverged"),
            "Supported: better than the baseline (the baseline has no finite loss with 7 of 8 seeds, which counts "
            "against it; over the other 1: mean improvement 0.1000 nats per character).",
        ),
        (
            arm(1.4, seed_2="leaks", seed_4="leaks"),
            BASELINE,
            "No verdict: the arm sees what it predicts (with seeds 2, 4), so its figures mean nothing.",
        ),
        (
            arm(0.03),
            BASELINE | {5: "leaks"},
            "No verdict: the baseline sees what it predicts (with seed 5).",
        ),
        ({0: 1.4}, BASELINE, "No verdict: fewer than two pairs of cells have a value."),
    ],
)
def test_what_diverged_or_leaks_is_said(cells: dict[int, Value], baseline: dict[int, Value], reason: str) -> None:
    assert sentences.reason(one(cells, baseline=baseline)) == reason


def test_a_verdict_knows_what_weakens_it() -> None:
    comparison = one({seed: value for seed, value in arm(0.03).items() if seed < 5})
    assert (comparison.ended, comparison.minimum_seeds) == (5, 6)
    assert comparison.too_few_seeds
    assert comparison.provisional


@pytest.mark.parametrize(
    ("improvement", "expectation", "claim"),
    [
        (0.04, "improve", "Supported: better than the baseline by more than the margin of 0.02 ("),
        (-0.04, "worsen", "Supported: worse than the baseline by more than the margin of 0.02 ("),
        (0.03, "improve", "Supported: better than the baseline ("),
        (-0.03, "worsen", "Supported: worse than the baseline ("),
    ],
)
def test_only_an_interval_beyond_the_margin_is_said_to_be(improvement, expectation, claim) -> None:
    comparison = one(arm(improvement), expectation)
    low, high = (abs(end) for end in comparison.interval)
    assert (min(low, high) > 0.02) == ("more than" in claim)
    assert sentences.reason(comparison).startswith(claim)


@pytest.mark.slow
def test_a_spread_that_as_many_seeds_would_settle_is_not_called_hopeless() -> None:
    """At a first look, the bounds are wider than those of a study of as many seeds that is tested once."""
    differences = [0.02, 0.002] * 3
    values: dict[int, Value] = {seed: 1.5 + seed / 100 - found for seed, found in enumerate(differences)}
    comparison = one(values, seeds=range(16), planned_looks=(6, 9, 12, 16))
    assert (comparison.verdict, comparison.n, comparison.seeds_needed) == ("inconclusive", 6, None)
    assert sentences.reason(comparison).endswith("n = 6 at this look); more seeds may settle it.")


def test_a_spread_that_no_number_of_seeds_would_settle_is_not_called_a_close_call() -> None:
    reason = sentences.reason(one(arm(0.0, 200.0), "no difference"))
    assert reason.endswith("; with this spread, not even 10,000 seeds would settle it.")


def test_no_margin_is_claimed_over_a_baseline_that_diverged() -> None:
    cells = BASELINE | dict.fromkeys(range(2, 8), "diverged")
    comparison = one(arm(0.4, spread=0.01), baseline=cells)
    assert (comparison.verdict, comparison.interval[0] > 0.02) == ("supported", True)
    assert sentences.reason(comparison).startswith("Supported: better than the baseline (")


def test_six_arms_need_the_eight_seeds_of_the_default() -> None:
    comparison = one(arm(0.03))
    assert not dataclasses.replace(comparison, num_arms=6).too_few_seeds
    assert dataclasses.replace(comparison, num_arms=7).too_few_seeds


@pytest.mark.parametrize(
    ("improvement", "expectation", "study", "reason"),
    [
        (
            -0.3,
            "worsen",
            {"bounds": ["arm"]},
            "Inconclusive: a worsening is not shown, and one of 0.02 is not ruled out (mean improvement ≥ −0.2994 "
            "nats per character, the arm's figure is an upper bound (≤), 95% interval −0.3115 to −0.2873, "
            "Holm-adjusted p = 1, n = 8); one of the two figures is a bound, so no number of seeds is certain "
            "to settle it.",
        ),
        (
            0.3,
            "improve",
            {"baseline_bound": True},
            "Inconclusive: an improvement is not shown, and one of 0.02 is not ruled out (mean improvement ≤ 0.3006 "
            "nats per character, the baseline's figure is an upper bound (≤), 95% interval 0.2885 to 0.3127, "
            "Holm-adjusted p = 1, n = 8); one of the two figures is a bound, so no number of seeds is certain "
            "to settle it.",
        ),
    ],
)
def test_a_bound_is_named_where_the_verdict_is(improvement, expectation, study, reason) -> None:
    comparison = one(arm(improvement), expectation, **study)
    assert sentences.reason(comparison) == reason
    assert "may be lower" in sentences.caution(comparison)


def test_a_difference_that_is_nearly_nothing_is_not_written_as_nothing() -> None:
    assert "mean improvement 1e−06 nats per character" in sentences.reason(one(arm(1e-6, 0.0)))


def test_a_difference_over_texts_is_put_in_words() -> None:
    better, worse, open_ = (TextInterval(m, 0.01, (m - 0.02, m + 0.02), 111_539) for m in (0.034, -0.03, 0.01))
    assert sentences.on_other_text(better) == (
        "On other text of this kind, the arm would be expected to be better (mean improvement 0.0340 nats per "
        "character, 95% interval 0.0140 to 0.0540, block bootstrap over 111,539 characters)."
    )
    assert "expected to be worse (mean improvement −0.03" in sentences.on_other_text(worse)
    assert "(mean improvement by blocks 0.0340 nats per" in sentences.on_other_text(better, "sliding")
    assert "the arm may turn out better or worse" in sentences.on_other_text(open_)
