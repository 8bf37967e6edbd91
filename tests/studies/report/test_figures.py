import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb

from charlab.studies.report.contents import gather
from charlab.studies.report.figures import Curve, Drawings, _loss_limits, curve_over_seeds, draw_differences
from charlab.studies.report.style import drawing, label_at_right, looks, new_figure, picture, short_names, spread
from tests.helpers.made_up_study import LONG, NASTY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures(troubled, told):
    with drawing():
        drawings = Drawings(troubled, told)
        yield drawings, drawings.for_page() | drawings.for_paper()


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).map(sorted))
def test_labels_move_apart_by_as_little_as_can_be(heights):
    from sklearn.isotonic import IsotonicRegression  # which takes long to import

    gap = 0.1
    found = np.array(spread(heights, gap, low=-9, high=9))
    offsets = gap * np.arange(len(heights))
    nearest = IsotonicRegression().fit_transform(np.arange(len(heights)), np.array(heights) - offsets) + offsets
    assert found == pytest.approx(nearest, abs=1e-6)  # least squares under found[i + 1] ≥ found[i] + gap


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=9).map(sorted))
def test_labels_stay_next_to_the_axes_if_there_is_room(heights):
    found = np.array(spread(heights, 0.1, low=0, high=1))
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-9
    assert (np.diff(found) >= 0.1 - 1e-9).all()


def test_a_curve_compares_seeds_at_the_same_share_of_their_steps():
    rows = [(0, 0.0, 4.0, 1), (10, 5.0, 2.0, 1), (20, 10.0, 1.0, 1), (0, 0.0, 3.0, 2), (40, 8.0, 1.5, 2)]
    points = pd.DataFrame(rows, columns=["step", "seconds", "value", "seed"]).assign(metric="estimate/validation/nll")
    batch = pd.DataFrame([(5, 1.0, 9.0, 1, "train/loss")], columns=[*points.columns])
    curve = curve_over_seeds(pd.concat([points, batch]), "seconds")
    assert curve.x.tolist() == [0, 4.5, 9]  # half of the second seed's steps took 4 seconds
    assert curve.low.tolist() == [3, 2, 1]
    assert curve.high.tolist() == [4, 2.25, 1.5]
    assert curve.mean.tolist() == [3.5, 2.125, 1.25]
    assert curve_over_seeds(points, "step").x.tolist() == [0, 15, 30]


def test_a_curve_begins_where_all_seeds_have_been_measured():
    points = pd.DataFrame({"step": [0, 8, 4, 8], "value": [4.0, 2.0, 2.5, 1.0], "seed": [1, 1, 2, 2]})
    curve = curve_over_seeds(points.assign(metric="train/loss"), "step")
    assert curve.x.tolist() == [4, 8]
    assert curve.mean.tolist() == [2.75, 1.5]


def test_a_curve_is_over_seeds_of_earlier_versions_too():
    rows = [(0, 4.0, 1, "estimate/validation/nll"), (8, 2.0, 1, "estimate/validation/nll")]
    rows += [(0, 3.0, 2, "validation/nll"), (8, 1.0, 2, "validation/nll")]
    curve = curve_over_seeds(pd.DataFrame(rows, columns=["step", "value", "seed", "metric"]), "step")
    assert curve.mean.tolist() == [3.5, 1.5]
    assert curve.low.tolist() == [3.0, 1.0]


def test_a_curve_needs_something_finite():
    points = pd.DataFrame([(0, 0, 0.0, "train/loss", math.nan, 1)], columns=["step", "characters", "seconds", "metric", "value", "seed"])  # fmt: skip  # noqa: E501
    assert curve_over_seeds(points, "step") is None
    assert curve_over_seeds(points.assign(value=2.0), "step").mean.tolist() == [2.0]


def test_every_pair_is_drawn_with_its_mean_and_interval(plain):
    drawings = Drawings(plain, gather(plain))
    with drawing():
        axes = draw_differences(drawings.contents.judgments, drawings.looks, width=5).axes[0]
    comparison = plain.comparisons()["none"]
    lines = [(list(line.get_xdata()), line.get_marker()) for line in axes.lines]
    assert (list(comparison.differences.values()), "o") in lines
    assert ([comparison.mean], "D") in lines
    assert (list(comparison.interval), "None") in lines
    assert {"rotary", "none", "supported", "margin ±0.01"} <= set(texts(axes))
    low, high = axes.get_xlim()
    assert (
        low < min(comparison.differences.values()) < 0 < max(plain.comparisons()["rotary"].differences.values()) < high
    )


def test_diverged_cells_are_drawn_at_the_edge(figures):
    _, found = figures
    axes = found["differences"].axes[0]
    assert "1 not finite" in texts(axes)
    assert axes.get_xscale() == "symlog"  # the bound is 30 margins away, and the margin can still be seen
    edge = next(line for line in axes.lines if line.get_marker() == "<")
    assert edge.get_xdata()[0] == axes.get_xlim()[0]


def test_a_leaking_arm_is_in_no_comparison_of_costs(figures):
    drawings, found = figures
    axes = found["costs-training_s"].axes[0]
    heights = [line.get_ydata()[0] for container in axes.containers for line in [container.lines[0]]]
    arms = drawings.contents.arms
    assert heights == pytest.approx([arm.mean for name, arm in arms.items() if name != "wrong axis"])
    assert not any("wrong axis" in text for text in texts(axes))
    assert {"≤ diffusion", "entropy of the text"} <= set(texts(axes))
    assert drawings.contents.captions["costs"].endswith("Not plotted because of false figures: wrong axis.")


def test_curves_show_how_training_ends_and_name_what_leaves_the_picture(figures):
    drawings, found = figures
    axes = found["curves-step"].axes[0]
    low, high = axes.get_ylim()
    assert low < 0.7  # the entropy of the text
    assert "wrong axis (leaks) ↓" in texts(axes)
    assert high < 4.2
    drawn = axes.lines[0].get_ydata()
    assert np.array_equal(drawn, drawings.curves["step"]["gpt"].mean)
    assert len(found["curves"].axes) == 3


def test_colors_are_different_and_the_baseline_black(figures):
    drawings, _ = figures
    colors = [to_hex(look.color) for look in drawings.looks.values()]
    assert colors[0] == "#000000"
    assert len(set(colors)) == len(colors)


def test_a_loss_that_rises_again_stays_in_the_picture(told):
    losses = np.array([4.0, 2.0, 1.5, 1.6, 1.9, 2.4])
    low, high = _loss_limits({"gpt": Curve(np.arange(6.0), losses, losses, losses)}, told.arms, None)
    assert low < 1.5 < 2.4 < high < 4.0


def test_text_can_be_read_on_white(figures):
    """By the definitions of contrast and relative luminance in WCAG 2.1."""
    _, found = figures
    for axes in (axes for figure in found.values() for axes in figure.axes):
        for text in axes.texts:
            parts = np.array(to_rgb(text.get_color()))
            linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
            assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5, text


def test_names_are_drawn_as_they_are(figures):
    drawings, found = figures
    shown = texts(found["differences"].axes[0])
    assert drawings.looks[NASTY].label in shown  # with its dollars, braces and backslash
    assert LONG not in shown
    assert not any(text.get_parse_math() for text in found["differences"].axes[0].texts)


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_figure_is_the_same_file_each_time(kind):
    files = set()
    for _ in range(2):
        with drawing():
            figure, [axes] = new_figure(2, 1)
            axes.plot([0, 1])
            label_at_right(axes, [(0.5, "a $_", "red")])
            files.add(picture(figure, kind))
    assert len(files) == 1


@example([f"{20 * 'a'}{i}{20 * 'b'}" for i in range(12)])
@given(st.lists(st.text("ab_", min_size=1, max_size=60), unique=True, max_size=12))
def test_labels_are_short_and_different(names):
    found = short_names(names)
    assert list(found) == names
    assert all(len(label) <= 24 for label in found.values())
    assert len(set(found.values())) == len(names)
    assert all(found[name] == name for name in names if len(name) <= 18)


@pytest.mark.parametrize("width", [4.0, 5.5])
def test_a_long_verdict_does_not_meet_the_name_of_its_arm(plain, width):
    contents = gather(plain)
    long = contents.judgments[0]._replace(verdict="inconclusive (≤), only the baseline tuned, exploratory")
    long = long._replace(comparison=dataclasses.replace(long.comparison, arm=LONG))
    with drawing():
        figure = draw_differences([long], looks([LONG, "learned"], "learned"), width=width)
        figure.draw_without_rendering()
        name, verdict = (text.get_window_extent() for text in figure.axes[0].texts[:2])
    assert name.x1 < verdict.x0
