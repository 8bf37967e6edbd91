"""What `charlab verify STUDY` finds: plan, seeds, pairs, budget, and the runs themselves."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import charlab
from charlab.cli import main
from charlab.runs.record import Record
from charlab.studies.plan import Plan
from charlab.studies.verify import verify_named
from tests.helpers.made_up_study import MadeUpArm, make_study

STUDY_CHECKS = ("cells", "plan", "seeds", "pairing", "budget")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    make_study(tmp_path, [MadeUpArm("base", 1.5), MadeUpArm("arm", 1.48)], seeds=3)
    return tmp_path / "outputs"


def change(outputs: Path, cell: int, **values: object) -> Record:
    """Write another value into the record of a cell."""
    run = Plan.load(outputs / "studies/made_up").cells[cell].run
    record = dataclasses.replace(Record.load(outputs / "runs" / run), **values)
    record.save()
    return record


def holds(outputs: Path) -> dict[str, bool | None]:
    found = {finding.name: finding.passed for finding in verify_named("made_up", outputs, scoring=False)}
    return {name: found[name] for name in STUDY_CHECKS}


def test_an_untouched_study_holds(outputs: Path) -> None:
    assert holds(outputs) == dict.fromkeys(STUDY_CHECKS, True)


def test_a_cell_that_is_not_finished_is_no_mistake(outputs: Path) -> None:
    change(outputs, 1, status="failed")
    assert holds(outputs) == dict.fromkeys(STUDY_CHECKS, True) | {"cells": None}


def test_cells_that_an_earlier_look_has_spared_are_not_missed(tmp_path: Path) -> None:
    make_study(tmp_path, [MadeUpArm("base", 1.5), MadeUpArm("arm", 1.4)], seeds=9, planned_looks=(6, 9))
    found = {finding.name: finding for finding in verify_named("made_up", tmp_path / "outputs", scoring=False)}
    assert (found["cells"].passed, found["cells"].text) == (True, "12 of 18 finished, 6 not needed")


@pytest.mark.parametrize("values", [{"fingerprint": "another"}, {"seed": 99}, {"config": {"seed": 99, "data": {}}}])
def test_a_record_that_is_not_the_planned_one_is_found(outputs: Path, values: dict[str, object]) -> None:
    change(outputs, 0, **values)
    assert holds(outputs)["plan"] is False


def test_a_seed_used_twice_is_found(outputs: Path) -> None:
    folder = outputs / "studies/made_up"
    plan = Plan.load(folder)
    dataclasses.replace(plan, cells=(*plan.cells, plan.cells[0])).save(folder)
    assert holds(outputs)["seeds"] is False


def test_cells_with_other_windows_or_another_text_are_no_pair(outputs: Path) -> None:
    folder = outputs / "studies/made_up"
    data = {"train_fraction": 0.5, "dev_fraction": 0.0}
    change(outputs, 1, config={"data": data})
    assert holds(outputs)["pairing"] is False
    plan = Plan.load(folder)
    arms = tuple(dataclasses.replace(arm, paired=arm.name == "base") for arm in plan.arms)
    dataclasses.replace(plan, arms=arms).save(folder)
    assert holds(outputs)["pairing"] is None
    plan.save(folder)
    change(outputs, 1, config={"data": data | {"train_fraction": 0.9}}, corpus={"sha256": "0" * 64})
    assert holds(outputs)["pairing"] is False


def test_an_arm_with_more_steps_breaks_the_budget(outputs: Path) -> None:
    for cell in (1, 3, 5):
        change(outputs, cell, steps=401)
    assert holds(outputs)["budget"] is False


def test_the_budgets_of_runs_that_are_not_compared_are_not_said_to_be_equal(tmp_path: Path) -> None:
    arms = [MadeUpArm("base", 1.5), MadeUpArm("arm", 1.48, steps=500)]
    make_study(tmp_path, arms, seeds=1, sweep=True)
    assert holds(tmp_path / "outputs")["budget"] is None


def test_budget_and_pairing_are_unknown_before_a_cell_of_the_baseline_has_finished(tmp_path: Path) -> None:
    missing = dict.fromkeys((305, 306), ("missing", ""))
    make_study(tmp_path, [MadeUpArm("base", 1.5, fates=missing), MadeUpArm("arm", 1.48)], seeds=2)
    found = holds(tmp_path / "outputs")
    assert (found["budget"], found["pairing"]) == (None, None)


def test_the_sizes_of_a_scaling_study_share_its_budget(tmp_path: Path) -> None:
    arms = [MadeUpArm("small", 1.5), MadeUpArm("large", 1.48, steps=500)]
    make_study(tmp_path, arms, seeds=2, kind="scaling")
    assert holds(tmp_path / "outputs")["budget"] is False


@pytest.mark.slow
def test_a_real_study_and_a_cell_that_was_tampered_with(
    tmp_path: Path, conf: Path, write_study: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_study("seeds: [1, 2]", arms="{learned: [], rotary: [model/position=rotary]}")  # type: ignore[operator]
    tiny = (
        "model.embed_dim=16",
        "model.num_layers=1",
        "data.batch_size=2",
        "trainer.max_steps=4",
        "estimate_batches=2",
    )
    results = charlab.study("mine", *tiny)
    assert results is not None
    assert results.finished
    capsys.readouterr()
    assert main(["verify", "mine"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("✓") == len(printed.splitlines()) == len(STUDY_CHECKS) + 8
    assert "✓ weights       right in 4 of 4 cells" in printed
    folder = results.cells[3].folder
    assert folder is not None
    np.save(folder / "nll.npy", np.load(folder / "nll.npy") - np.float32(0.1))
    assert main(["verify", "mine", "quick=true"]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("✗")]
    assert len(wrong) == 1
    assert "wrong in 1 of 4 cells: rotary/2" in wrong[0]
