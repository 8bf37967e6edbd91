"""The block bootstrap over a text, against resamples drawn block by block, and its coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from charlab.errors import UserError
from charlab.evaluation.bootstrap import TextInterval, bootstrap_text
from tests.references import statistics as reference

TEXTS = 1_000


def interval_of(differences: np.ndarray, sizes: np.ndarray | None = None) -> TextInterval:
    """The interval of one seed's differences by block."""
    sizes = np.full(differences.size, 2_000) if sizes is None else sizes
    return bootstrap_text(differences[None] + 3_000, np.full((1, differences.size), 3_000.0), sizes)


def test_the_closed_form_equals_drawn_resamples() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(2_000, 2_200, size=40)
    differences = 40 + signal.lfilter([1], [1, -0.5], generator.normal(0, 30, size=40))
    interval = interval_of(differences, sizes)
    drawn = reference.drawn_text_bootstrap(differences, sizes, length=5, stretches=8, resamples=3_000, seed=1)
    assert interval.mean == pytest.approx(differences.sum() / sizes.sum())
    assert interval.standard_error == pytest.approx(drawn.std() * np.sqrt(8 / 7), rel=0.04)
    assert interval.mean == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(3_000))


def test_eight_blocks_give_the_t_interval_of_scipy() -> None:
    differences = np.random.default_rng(2).normal(30, 20, size=8)
    interval = interval_of(differences)
    expected = stats.ttest_1samp(differences / 2_000, 0.0).confidence_interval(0.95)
    assert interval.interval_95 == pytest.approx((expected.low, expected.high))
    assert interval.standard_error == pytest.approx(stats.sem(differences / 2_000))
    single = stats.bootstrap((differences / 2_000,), np.mean, rng=np.random.default_rng(3)).standard_error
    assert interval.standard_error == pytest.approx(single * np.sqrt(8 / 7), rel=0.05)


@pytest.mark.parametrize(
    ("correlation", "least", "most"), [(0.0, 0.94, 0.98), (0.3, 0.93, 0.97), (0.6, 0.90, 0.945), (0.75, 0.84, 0.90)]
)
def test_the_interval_covers_as_often_as_said(correlation: float, least: float, most: float) -> None:
    noise = np.random.default_rng(4).gamma(2, 10, size=(TEXTS, 155)) - 20  # skewed, of mean 0
    texts = signal.lfilter([1], [1, -correlation], noise, axis=1)[:, 100:]
    covered = [interval.interval_95[0] < 0 < interval.interval_95[1] for interval in map(interval_of, texts)]
    assert least < np.mean(covered) < most


def test_seeds_are_averaged_first() -> None:
    baseline, arm = np.random.default_rng(5).normal(3_000, 30, size=(2, 4, 55))
    sizes = np.full(55, 2_000)
    interval = bootstrap_text(baseline, arm, sizes)
    assert interval.interval_95 == pytest.approx(interval_of(baseline.mean(0) - arm.mean(0)).interval_95)
    assert interval.characters == 110_000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-100, 100), min_size=2, max_size=30), st.integers(0, 29))
def test_neither_sign_nor_where_the_text_begins_matters(numbers: list[int], turn: int) -> None:
    differences, sizes = np.array(numbers, float), np.arange(2_000, 2_000 + len(numbers))
    interval, mirrored = interval_of(differences, sizes), interval_of(-differences, sizes)
    assert mirrored.interval_95 == pytest.approx((-interval.interval_95[1], -interval.interval_95[0]), abs=1e-12)
    turned = interval_of(np.roll(differences, turn), np.roll(sizes, turn))
    assert turned.interval_95 == pytest.approx(interval.interval_95, abs=1e-12)
    assert interval_of(differences + 0.25 * sizes, sizes).mean == pytest.approx(interval.mean + 0.25)
    assert interval_of(differences + 0.25 * sizes, sizes).standard_error == pytest.approx(
        interval.standard_error, abs=1e-12
    )


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(UserError, match=r"shapes \(2, 5\) and \(3, 5\) for 5 blocks"):
        bootstrap_text(np.ones((2, 5)), np.ones((3, 5)), np.full(5, 2_000))
    with pytest.raises(UserError, match="for 4 blocks"):
        bootstrap_text(np.ones((2, 5)), np.ones((2, 5)), np.full(4, 2_000))
    with pytest.raises(UserError, match="1,500 characters is one block"):
        bootstrap_text(np.ones((2, 1)), np.ones((2, 1)), np.array([1_500]))
