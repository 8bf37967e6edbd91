"""Curves over numeric factors, against parabolas whose optimum is known."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from charlab.studies.definition import Arm
from charlab.studies.plan import Plan
from charlab.studies.report.contents import gather
from charlab.studies.report.factors import Line, numeric_factors
from charlab.studies.report.figures import Drawings
from charlab.studies.report.style import drawing
from charlab.studies.state import read_results
from tests.helpers.made_up_study import MadeUpArm, make_study

RATES = ("3e-4", "1e-3", "3e-3", "1e-2", "3e-2")


def parabola(x: np.ndarray, best: float, scale: float = 0.1) -> np.ndarray:
    """Return losses with a minimum of 1.5, quadratic in the logarithm."""
    return 1.5 + scale * np.log(x / best) ** 2


def test_the_optimum_of_a_parabola_is_found_between_the_values() -> None:
    x = np.array([0.001, 0.003, 0.01, 0.03])
    bests = np.array([0.004, 0.005, 0.006])
    line = Line("", x, np.stack([parabola(x, best) for best in bests]), logarithmic=True)
    found, at_end = line.optima()
    np.testing.assert_allclose(found, bests)
    assert not at_end.any()
    mean, (low, high) = line.optimum()
    logs = np.log(bests)
    half_width = 4.302653 * logs.std(ddof=1) / math.sqrt(3)
    assert (mean, low, high) == pytest.approx(tuple(np.exp(logs.mean() + half_width * np.array([0, -1, 1]))))


def test_a_linear_axis_has_a_linear_optimum() -> None:
    x = np.array([1.0, 2.0, 3.0])
    line = Line("", x, (x - 2.2)[None, :] ** 2, logarithmic=False)
    assert line.optimum()[0] == pytest.approx(2.2)
    assert line.optimum()[1] == (-math.inf, math.inf)


def test_an_optimum_at_the_end_of_the_grid_is_no_optimum() -> None:
    x = np.array([0.001, 0.003, 0.01])
    line = Line("model=gpt", x, np.stack([parabola(x, 0.1), parabola(x, 0.003)]), logarithmic=True)
    assert list(line.optima()[1]) == [True, False]
    assert line.sentence("lr", 0.01) == (
        "lr, model=gpt: the best value, 0.00548, is at the end of the grid for 1 of 2 seeds, so the grid is too short."
    )


def test_what_may_be_set_without_losing_the_margin() -> None:
    x = np.geomspace(1e-4, 1e-1, 61)
    line = Line("", x, parabola(x, 1e-2)[None, :], logarithmic=True)
    reach = math.exp(math.sqrt(0.02 / 0.1))
    assert line.tolerated(0.02) == pytest.approx((1e-2 / reach, 1e-2 * reach), rel=0.02)
    assert line.tolerated(100.0) == pytest.approx((1e-4, 1e-1))


def test_runs_that_diverged_end_the_curve() -> None:
    x = np.array([0.001, 0.003, 0.01, 0.03])
    values = np.stack([parabola(x, 0.003)] * 2)
    values[1, 3] = math.inf
    line = Line("", x, values, logarithmic=True)
    assert list(np.isfinite(line.mean)) == [True, True, True, False]
    assert line.tolerated(100.0)[1] == pytest.approx(0.01)
    assert line.optimum()[0] == pytest.approx(0.003)


def test_a_value_that_diverges_between_others_is_not_called_good() -> None:
    x = np.array([0.001, 0.003, 0.01, 0.03, 0.1])
    values = np.full((2, 5), 1.5)
    values[:, 1] -= 0.1
    values[1, 2] = math.inf
    assert Line("", x, values, logarithmic=True).tolerated(1.0) == pytest.approx((0.001, 0.003))


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """A study over five learning rates and two models."""
    arms, made = [], []
    for model, best in (("gpt", 3e-3), ("lstm", 6e-3)):
        for rate in RATES:
            name = f"{model}+lr={rate}"
            arms.append(Arm(name, (f"model={model}", f"optimizer.lr={rate}"), factors={"model": model, "lr": rate}))
            made.append(MadeUpArm(name, float(parabola(np.array(float(rate)), best, 0.02))))
    plan = make_study(tmp_path, made, seeds=3, noise=0.002, sweep=True, hypothesis="")
    replace(plan, arms=tuple(arms)).save(tmp_path / "outputs" / "studies" / "made_up")
    return tmp_path / "outputs"


@pytest.mark.slow
def test_a_grid_has_a_line_for_each_model(grid: Path) -> None:
    results = read_results(Plan.load(grid / "studies" / "made_up"), grid)
    (factor,) = numeric_factors(results)
    assert factor.name == "lr"
    assert [line.label for line in factor.lines] == ["model=gpt", "model=lstm"]
    assert [line.optimum()[0] for line in factor.lines] == pytest.approx([3e-3, 6e-3], rel=0.15)
    contents = gather(results)
    sentences = contents.factors[0].sentences(contents.plan.margin)
    assert sentences[0].startswith("lr, model=gpt: the best value is 0.00")
    with drawing():
        figures = Drawings(results, contents).for_page()
        assert "factors-lr" in figures
        assert "factors" in Drawings(results, contents).for_paper()


def test_a_missing_cell_does_not_shorten_the_grid(tmp_path: Path) -> None:
    arms = [
        MadeUpArm(
            f"lr={rate}",
            float(parabola(np.array(float(rate)), 3e-3)),
            factors={"lr": rate},
            fates={307: ("killed", "Killed by signal 9.")} if rate == "1e-2" else {},
        )
        for rate in RATES[:4]
    ]
    plan = make_study(tmp_path, arms, seeds=4, sweep=True, hypothesis="")
    (factor,) = numeric_factors(read_results(plan, tmp_path / "outputs"))
    (line,) = factor.lines
    assert line.x.tolist() == [3e-4, 1e-3, 3e-3, 1e-2]
    assert line.values.shape == (3, 4)
    assert factor.sentences(0.01)[0].startswith("lr, over 3 of 4 seeds: the best value is 0.00")


def test_arms_that_a_look_has_settled_stay_on_the_curve(tmp_path: Path) -> None:
    arms = [
        MadeUpArm(f"lr={rate}", float(parabola(np.array(float(rate)), 1e-3)), factors={"lr": rate})
        for rate in ("1e-3", "3e-4", "3e-3")
    ]
    plan = make_study(tmp_path, arms, seeds=9, planned_looks=(6, 9))
    (factor,) = numeric_factors(read_results(plan, tmp_path / "outputs"))
    assert factor.lines[0].values.shape == (6, 3)
    assert factor.sentences(0.01)[0].startswith("lr, over 6 of 9 seeds: the best value is 0.00")


def test_a_study_of_parts_has_no_curve(tmp_path: Path) -> None:
    plan = make_study(tmp_path, [MadeUpArm("gpt", 1.5), MadeUpArm("lstm", 1.4)], seeds=2)
    assert numeric_factors(read_results(plan, tmp_path / "outputs")) == ()


def test_a_grid_on_which_every_value_has_diverged_with_some_seed_has_no_curve(tmp_path: Path) -> None:
    arms = [
        MadeUpArm(f"lr={rate}", 1.5, factors={"lr": rate}, fates={seed: ("diverged", "The loss became nan.")})
        for rate, seed in zip(RATES[:3], (305, 306, 307), strict=True)
    ]
    plan = make_study(tmp_path, arms, seeds=3, sweep=True, hypothesis="")
    assert numeric_factors(read_results(plan, tmp_path / "outputs")) == ()


@pytest.mark.slow
def test_the_lines_of_every_factor_have_labels(tmp_path: Path) -> None:
    arms = [
        MadeUpArm(f"lr={rate}+layers={layers}", 1.5, factors={"lr": rate, "layers": layers})
        for rate, layers in itertools.product(RATES[:3], "246")
    ]
    results = read_results(make_study(tmp_path, arms, seeds=2, sweep=True, hypothesis=""), tmp_path / "outputs")
    with drawing():
        first, second = Drawings(results, gather(results)).for_paper()["factors"].axes
    assert {text.get_text() for text in first.texts} == {"layers=2", "layers=4", "layers=6"}
    assert {text.get_text() for text in second.texts} == {f"lr={rate}" for rate in RATES[:3]}
    assert first.get_ylim() == second.get_ylim()


def test_long_names_of_other_factors_leave_room_for_the_curve(tmp_path: Path) -> None:
    arms = [MadeUpArm(f"lr={rate}", 1.5, factors={"lr": rate, "text": 80 * "x"}) for rate in RATES[:3]]
    results = read_results(make_study(tmp_path, arms, seeds=2, sweep=True, hypothesis=""), tmp_path / "outputs")
    with drawing():
        (axes,) = Drawings(results, gather(results)).for_page()["factors-lr"].axes
    assert axes.get_position().width > 0.3
