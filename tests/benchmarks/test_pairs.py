"""Sides are measured alternately, compared within each round, and the page says what came out."""

import itertools
import json

import pytest

from benchmarks import training
from benchmarks.__main__ import BENCHMARKS
from benchmarks.pairs import OURS, Benchmark, Figure, measure, save
from tools.results.speed import benchmarks

OURS_MS, THEIRS_MS = (10.0, 20.0, 40.0), (30.0, 30.0, 90.0)


@pytest.fixture
def benchmark():
    """Three rounds on a machine that becomes slower and slower."""
    ours, theirs = iter(OURS_MS), iter(THEIRS_MS)
    return Benchmark(
        "A step",
        {OURS: lambda _: {"ms": next(ours)}, "other": lambda _: {"ms": next(theirs)}},
        [
            Figure("ms", "step", "ms", "times less", "other", 2.5),
            Figure("ms", "step", "ms", "times more", "other", 1.0),
            Figure("ms", "step", "ms", "share above", "other", 0.1),
            Figure("ms", "step", "ms", "more by", "other", -15.0),
            Figure("ms", "step", "ms", "itself", None, 15.0),
            Figure("ms", "step", "ms", "itself"),
        ],
    )


def test_a_comparison_is_the_median_over_rounds_of_those_within_each(benchmark):
    *_, record = measure("step", benchmark, 3, lambda line: None)
    figures = record["figures"]
    assert [figure["value"] for figure in figures] == pytest.approx([2.25, 1 / 2.25, 1 / 2.25 - 1, -20, 20, 20])
    assert [figure["reached"] for figure in figures] == [False, False, True, True, False, None]
    assert figures[0]["medians"] == {OURS: 20.0, "other": 30.0}
    assert (figures[0]["lowest"], figures[0]["highest"]) == (1.5, 3.0)
    assert "gpu" not in record["machine"]


def test_sides_take_turns_in_being_first():
    said = []
    sides = {side: lambda number: {"round": number} for side in (OURS, "b", "c")}
    records = list(
        measure("order", Benchmark("Order", sides, [], before=lambda: said.append("0 0 before")), 3, said.append)
    )
    order = [line.split()[2].rstrip(":") for line in said]
    assert order == ["before", OURS, "b", "c", "b", "c", OURS, "c", OURS, "b"]
    assert [len(record["rounds"]) for record in records] == [1, 2, 3]
    assert [pair["b"]["round"] for pair in records[-1]["rounds"]] == [0, 1, 2]


def test_records_become_a_table(benchmark, tmp_path):
    file = tmp_path / "benchmarks.jsonl"
    assert benchmarks(file) == ""
    for record in measure("step", benchmark, 3, lambda line: None):
        save({**record, "name": "other"}, file)
        save(record, file)
    other, step = map(json.loads, file.read_text().splitlines())
    assert (other["name"], step["name"]) == ("other", "step")
    assert step["rounds"][2] == {OURS: {"ms": 40.0}, "other": {"ms": 90.0}}
    rows = [line for line in benchmarks(file).splitlines() if line.startswith("| `step")]
    assert rows[0] == "| `step` | step | 20 ms | 30 ms (other) | 2.25× (1.50× to 3.00×) | 2.50× ✗ | 3 |"
    assert rows[2] == "| `step` | step | 20 ms | 30 ms (other) | -55.6% (-66.7% to -33.3%) | +10.0% ✓ | 3 |"
    assert rows[3] == "| `step` | step | 20 ms | 30 ms (other) | -20 ms (-50 ms to -10 ms) | -15 ms ✓ | 3 |"
    assert rows[5] == "| `step` | step | 20 ms | – | 20 ms (10 ms to 40 ms) | – | 3 |"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_us_first_and_compares_what_it_has(name):
    benchmark = BENCHMARKS[name]()
    assert next(iter(benchmark.sides)) == OURS
    assert benchmark.figures
    assert {figure.against for figure in benchmark.figures} <= {*benchmark.sides, None}


def test_an_unknown_option_and_an_unknown_key_have_goals_of_their_own(monkeypatch):
    asked = []
    monkeypatch.setattr(
        training, "run_program", lambda *command, exit_code=0: asked.append((command[-1], exit_code)) or {"wall_s": 1.0}
    )
    monkeypatch.setattr(training, "run_to_first_step", lambda *overrides: {"first_step_s": 1.0})
    monkeypatch.setattr(training, "run_twice", lambda *overrides: {"again_s": 1.0})
    benchmark = BENCHMARKS["start_up"]()
    measured = benchmark.sides[OURS](0)
    assert asked == [("--help", 0), ("model=nope", 2), ("model.typo=1", 2)]
    goals = {figure.key: figure.goal for figure in benchmark.figures}
    assert (goals["option_s"], goals["mistake_s"]) == (1.5, 3.0)
    assert goals.keys() == measured.keys()


def test_goals_are_those_of_least_ratios_and_largest_costs():
    for compared, goal, good, bad in (
        ("times less", 2.0, 2.5, 1.5),
        ("times more", 2.0, 2.5, 1.5),
        ("share above", 0.03, 0.02, 0.04),
        ("more by", 1.0, 0.5, 2.0),
        ("itself", 3.0, 2.0, 4.0),
    ):
        figure = Figure("x", "x", "s", compared, "other", goal)
        assert list(itertools.starmap(figure.is_reached, [(good,), (bad,)])) == [True, False]
