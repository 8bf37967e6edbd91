from dataclasses import replace
from pathlib import Path

import pytest

from charlab.errors import UserError
from charlab.studies.definition import Arm
from charlab.studies.plan import Cell, Plan


def make_plan(seeds: tuple[int, ...] = (1, 2), **changes: object) -> Plan:
    arms = (Arm("a", ()), Arm("b", ("x=1",), "worsen"))
    cells = tuple(Cell(arm.name, seed, f"run/{arm.name}{seed}", ()) for seed in seeds for arm in arms)
    plan = Plan(
        name="mine",
        hypothesis="It helps.",
        baseline="a",
        arms=arms,
        cells=cells,
        seeds=seeds,
        planned_seeds=len(seeds),
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = make_plan(looks=(2,), amendments=("The arm b was added.",), time_limit=3.0, fail_fast=True)
    plan.save(tmp_path)
    assert Plan.load(tmp_path) == plan
    assert plan.cell("b/2").run == "run/b2"
    assert plan.arm("b").expect == "worsen"


def test_a_plan_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no study in"):
        Plan.load(tmp_path)
    make_plan().save(tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="another version"):
        Plan.load(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="is corrupt"):
        Plan.load(tmp_path)


def test_a_study_that_grew_is_exploratory() -> None:
    former = make_plan(looks=(2,))
    same = make_plan().continuing(former)
    assert (same.planned_seeds, same.looks, same.amendments, same.exploratory) == (2, (2,), (), False)
    grown = make_plan((1, 2, 3)).continuing(former)
    assert (grown.planned_seeds, grown.looks, grown.amendments, grown.exploratory) == (2, (2,), (), True)


@pytest.mark.parametrize(("seeds", "left"), [((1, 3), "seed 2 was"), ((1, 4, 5), "seeds 2 and 3 were")])
def test_a_study_without_some_of_its_seeds_is_exploratory(seeds: tuple[int, ...], left: str) -> None:
    plan = make_plan(seeds).continuing(make_plan((1, 2, 3), looks=(3,)))
    assert plan.amendments == (f"The {left} left out.",)
    assert plan.exploratory


def test_the_order_of_seeds_matters_to_looks_alone() -> None:
    former, turned = make_plan((1, 2, 3)), make_plan((3, 2, 1))
    assert turned.continuing(former).amendments == ()
    former, turned = (replace(plan, planned_looks=(2, 3)) for plan in (former, turned))
    assert turned.continuing(former).exploratory
    assert not former.continuing(former).exploratory


def test_what_was_decided_anew_is_told_and_remembered() -> None:
    first = make_plan()
    arms = (Arm("a", ()), Arm("b", ("x=2",), "no difference"), Arm("c", ()))
    cells = (first.cells[0], Cell("b", 1, "run/other", ()), Cell("c", 1, "run/c1", ()))
    second = make_plan(margin=0.5, hypothesis="It hurts.", arms=arms, cells=cells).continuing(first)
    assert second.amendments == (
        "The hypothesis was “It helps.” at first, and is now “It hurts.”.",
        "The margin was 0.01 at first, and is now 0.5.",
        "The arm b was expected to worsen at first, and is now to make no difference.",
        "The arm b was changed.",
        "The arm c was added.",
    )
    assert second.exploratory
    third = make_plan().continuing(second)
    assert third.amendments[:5] == second.amendments
    assert third.amendments[-1] == "The arm c was left out."


def test_a_plan_that_shares_no_run_is_another_study() -> None:
    other = make_plan(cells=(Cell("a", 1, "run/else", ()),), margin=0.5)
    assert other.continuing(make_plan(looks=(2,))) == other
