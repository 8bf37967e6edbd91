import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from charlab.errors import UserError
from charlab.runs.archive import Archive
from charlab.studies import load
from charlab.studies.definition import Arm
from charlab.studies.outcomes import Outcome, cell_path, held
from charlab.studies.plan import Plan
from charlab.studies.state import StudyResults, read_results
from tests.helpers.made_up_study import CODE, MadeUpArm, make_study
from tools.results.__main__ import keep


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., tuple[Plan, StudyResults]]:
    """Make up a study of a baseline, 0.1 better than what follows it, and read it."""

    def made(*arms: MadeUpArm, **settings: object) -> tuple[Plan, StudyResults]:
        plan = make_study(tmp_path, arms or (MadeUpArm("base", 1.9), MadeUpArm("arm", 2.0)), **settings)  # type: ignore[arg-type]
        return plan, read_results(plan, tmp_path / "outputs", tmp_path / "records")

    return made


def record_of(root: Path, plan: Plan, key: str) -> Path:
    return root / "outputs" / "runs" / plan.cell(key).run / "record.json"


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_values_are_those_of_the_protocol(study) -> None:
    plan, results = study()
    for protocol in ("blocks", "sliding", "estimate"):
        of_protocol = replace(results, plan=replace(plan, protocol=protocol))
        for seed, value in of_protocol.values("arm").items():
            record = next(r.record for r in results.cells if r.cell.key == f"arm/{seed}")
            assert value == record.metric(protocol, "validation")["nll"]


def test_a_worse_arm_is_found_to_be_worse(study) -> None:
    plan, results = study()
    (comparison,) = results.comparisons().values()
    by_hand = [results.values("base")[seed] - results.values("arm")[seed] for seed in plan.seeds]
    assert comparison.verdict == "refuted"
    assert comparison.mean == pytest.approx(np.mean(by_hand))
    assert results.mismatch() is None
    assert results.unpaired() is None


def test_nothing_is_compared_with_one_seed_or_one_arm(study) -> None:
    assert study(seeds=1)[1].comparisons() == {}
    assert study(MadeUpArm("base", 1.9), name="alone")[1].comparisons() == {}


def test_what_became_of_each_cell(study, tmp_path: Path) -> None:
    fates = {
        306: ("failed", "It raised."),
        307: ("diverged", "The loss is not a number."),
        308: ("missing", ""),
        309: ("killed", "Killed by SIGKILL."),
        310: ("timed out", "Too long."),
        311: ("interrupted", "Ctrl-C."),
    }
    plan, results = study(MadeUpArm("base", 1.9), MadeUpArm("arm", 2.0, fates=fates))
    found = {result.cell.seed: result for result in results.of("arm")}
    assert {seed: (result.status, result.reason) for seed, result in found.items()} == {
        305: ("finished", ""),
        **fates,
        312: ("finished", ""),
    }
    assert [seed for seed, result in found.items() if result.ended] == [305, 307, 312]
    values = results.values("arm")
    assert [values[seed] for seed in (306, 307, 308, 309, 310, 311)] == [None, "diverged", None, None, None, None]
    cell_path(results.folder, found[307].cell, ".json").unlink()  # as of a run that is kept elsewhere
    by_record = read_results(plan, tmp_path / "outputs").of("arm")[2]
    assert (by_record.status, by_record.reason) == ("diverged", "The loss is not a number.")
    table = results.table().set_index(["arm", "seed"])
    assert list(table.loc["arm", "status"]) == [result.status for result in results.of("arm")]
    assert table.loc[("arm", 306), "value"] != table.loc[("arm", 306), "value"]  # nan
    assert table.loc[("arm", 305), "value"] == values[305]


def test_a_leaking_arm_has_no_verdict(study) -> None:
    _, results = study(MadeUpArm("base", 1.9), MadeUpArm("arm", 0.1, honest=4.0))
    assert set(results.values("arm").values()) == {"leaks"}
    assert results.comparisons()["arm"].verdict == "none"
    assert set(results.table().query("arm == 'arm'")["honest_nll"]) == {4.0}


def test_a_figure_that_is_not_finite_counts_against_its_arm(study, tmp_path: Path) -> None:
    plan, _ = study()
    path = record_of(tmp_path, plan, "arm/305")
    metrics = json.loads(path.read_text())["metrics"]
    change(path, metrics=[{**entry, "nll": None} for entry in metrics])
    change(record_of(tmp_path, plan, "arm/306"), metrics=[])
    values = read_results(plan, tmp_path / "outputs").values("arm")
    assert (values[305], values[306]) == ("diverged", None)


@pytest.mark.parametrize("text", ["{", json.dumps({"format": 99})])
def test_a_record_that_cannot_be_read_is_left_and_named(study, tmp_path: Path, text: str) -> None:
    plan, _ = study()
    path = record_of(tmp_path, plan, "arm/305")
    path.write_text(text)
    Outcome("finished").save(tmp_path / "outputs" / "studies" / plan.name, plan.cell("arm/305"))
    results = read_results(plan, tmp_path / "outputs", tmp_path / "records")
    result = next(result for result in results.cells if result.cell.key == "arm/305")
    assert result.status == "corrupt"
    assert str(path) in result.reason
    assert results.values("arm")[305] is None
    assert path.read_text() == text


def test_records_that_are_kept_elsewhere_count(study, tmp_path: Path) -> None:
    plan, before = study()
    points = len(before.curves("arm"))
    (tmp_path / "records").mkdir()
    (tmp_path / "outputs" / "runs" / "made_up").rename(tmp_path / "records" / "made_up")
    after = read_results(plan, tmp_path / "outputs", tmp_path / "records")
    assert after.values("arm") == before.values("arm")
    assert {result.folder.parts[-3] for result in after.cells} == {"records"}
    assert len(after.curves("arm")) == points > 0
    path = tmp_path / "records" / plan.cell("arm/305").run / "record.json"
    path.write_text("{")
    result = read_results(plan, tmp_path / "outputs", tmp_path / "records").of("arm")[0]
    assert result.status == "missing"  # it can be run, since the corrupt record is elsewhere
    assert str(path) in result.reason


def test_a_run_by_the_plans_code_goes_before_a_kept_one_by_other_code(study, tmp_path: Path) -> None:
    """A divergence under today's code is not hidden by what former code has reached."""
    plan, _ = study()
    path, kept = record_of(tmp_path, plan, "arm/305"), tmp_path / "records" / plan.cell("arm/305").run / "record.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(path.read_text())
    change(kept, code="0123456789ab")
    change(path, status="diverged", metrics=[], error="The loss is not a number.")
    result = read_results(plan, tmp_path / "outputs", tmp_path / "records").of("arm")[0]
    assert (result.status, result.older) == ("diverged", False)
    change(kept, code=CODE)  # the same code did not diverge elsewhere
    result = read_results(plan, tmp_path / "outputs", tmp_path / "records").of("arm")[0]
    assert (result.status, result.older) == ("finished", False)


def test_records_in_an_archive_count(study, tmp_path: Path) -> None:
    plan, before = study()
    curves, sample, runs = before.curves("arm"), before.samples("arm"), tmp_path / "outputs" / "runs"
    for run in runs.glob("*/*"):
        keep(run, tmp_path / "records")
    runs.rename(tmp_path / "gone")
    after = read_results(plan, tmp_path / "outputs", tmp_path / "records")
    assert after.values("arm") == before.values("arm")
    assert [result.folder for result in after.cells] == [None] * len(plan.cells)
    pd.testing.assert_frame_equal(after.curves("arm"), curves)
    assert after.samples("arm") == sample != ""
    # The same runs, requalified by other code, whose fingerprints the plan has.
    archive = Archive(tmp_path / "records")
    for index, record in enumerate(archive.records()):
        record.requalified = [{"code": "0" * 12, "points": 3, "date": "2026-11-29", "fingerprint": f"{index:012d}"}]
        archive.add(record)
    keys = [f"{record.name}/{record.fingerprint}" for record in archive.records()]
    today = tuple(replace(cell, run=f"made_up/{keys.index(cell.run):012d}") for cell in plan.cells)
    former = read_results(replace(plan, cells=today), tmp_path / "outputs", tmp_path / "records")
    assert former.values("arm") == before.values("arm")
    pd.testing.assert_frame_equal(former.curves("arm"), curves)
    assert former.samples("arm") == sample
    (tmp_path / "records" / "runs.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"runs\.jsonl is corrupt: restore it"):
        read_results(plan, tmp_path / "outputs", tmp_path / "records")


def test_a_cell_runs_only_while_its_lock_is_held(study, tmp_path: Path) -> None:
    plan, results = study(MadeUpArm("base", 1.9), MadeUpArm("arm", 2.0, fates={305: ("missing", "")}))
    cell = plan.cell("arm/305")
    Outcome("running").save(results.folder, cell)
    assert read_results(plan, tmp_path / "outputs").of("arm")[0].status == "interrupted"
    with held(cell_path(results.folder, cell, ".lock")):
        assert read_results(plan, tmp_path / "outputs").of("arm")[0].status == "running"


def test_a_result_tells_if_scoring_it_or_running_it_again_has_failed(study, tmp_path: Path) -> None:
    plan, results = study()

    def read(started: str) -> tuple[str, str]:
        outcome = Outcome("failed", "Traceback\nOSError: no space", started=started)
        outcome.save(results.folder, plan.cell("arm/305"))
        result = read_results(plan, tmp_path / "outputs").of("arm")[0]
        return result.status, result.reason

    assert read("2026-11-21T21:09:00+00:00") == ("finished", "")  # it has failed after its record was written
    told = "This is an earlier result; the study's latest attempt failed: OSError: no space"
    assert read("2026-11-22T08:00:00+00:00") == ("finished", told)
    change(record_of(tmp_path, plan, "arm/305"), metrics=[])
    told = "It has not been scored by protocol=blocks; the study's latest attempt failed: OSError: no space"
    assert read("2026-11-21T21:09:00+00:00") == ("finished", told)


def test_results_of_other_code_are_marked(study, tmp_path: Path) -> None:
    plan, results = study(MadeUpArm("base", 1.9), MadeUpArm("arm", 2.0, code="0123456789ab"))
    assert [result.older for result in results.cells[:2]] == [False, True]
    change(record_of(tmp_path, plan, "arm/305"), code=CODE)
    assert [r.older for r in read_results(plan, tmp_path / "outputs").of("arm")] == [False, *[True] * 7]


@pytest.mark.parametrize(
    ("budget", "arm", "told"),
    [
        ("steps", MadeUpArm("arm", 2.0, steps=401), "equal steps: the baseline base has 400, but arm has 401."),
        (
            "characters",
            MadeUpArm("arm", 2.0, steps=399),
            "equal characters: the baseline base has 819,200, but arm has 817,152.",
        ),
        ("flops", MadeUpArm("arm", 2.0, steps=407), None),
        ("flops", MadeUpArm("arm", 2.0, steps=409), "equal flops (within 2%)"),
        ("flops", MadeUpArm("arm", 2.0, parameters=0), "but arm has an unknown amount."),
        ("seconds", MadeUpArm("arm", 2.0, seconds=41), None),
        ("seconds", MadeUpArm("arm", 2.0, seconds=37), "equal seconds (within 5%)"),
        ("parameters", MadeUpArm("arm", 2.0, parameters=820_000), None),
        ("parameters", MadeUpArm("arm", 2.0, parameters=830_000), "base has 807,808, but arm has 830,000."),
    ],
)
def test_budgets_that_do_not_match_are_told(study, budget: str, arm: MadeUpArm, told: str | None) -> None:
    mismatch = study(MadeUpArm("base", 1.9), arm, budget=budget)[1].mismatch()
    assert (mismatch is None) if told is None else (told in mismatch)


def test_a_baseline_of_unknown_cost_matches_nothing(study) -> None:
    unknown, known = MadeUpArm("base", 1.9, parameters=0), MadeUpArm("arm", 2.0)
    mismatch = study(unknown, known, budget="flops")[1].mismatch()
    assert "the baseline base has an unknown amount, but arm has 4,228" in mismatch


def test_arms_that_have_not_finished_match_anything(study) -> None:
    fates = dict.fromkeys(range(305, 313), ("failed", ""))
    assert study(MadeUpArm("base", 1.9), MadeUpArm("arm", 2.0, fates=fates))[1].mismatch() is None
    assert study(MadeUpArm("base", 1.9, fates=fates), MadeUpArm("arm", 2.0), name="other")[1].mismatch() is None


def test_budgets_are_medians_with_their_ranges(study) -> None:
    budgets = study()[1].budgets()
    assert budgets.loc["arm", ["steps", "steps_low", "steps_high"]].tolist() == [400, 400, 400]
    seconds = [40 + 0.1 * (seed % 7) for seed in range(305, 313)]
    row = budgets.loc["arm", ["training_s", "training_s_low", "training_s_high"]]
    assert row.tolist() == pytest.approx([np.median(seconds), min(seconds), max(seconds)])


def test_arms_on_other_windows_are_told(study) -> None:
    plan, results = study()
    arms = (plan.arms[0], replace(plan.arms[1], paired=False))
    assert "arm; pairing by seed" in replace(results, plan=replace(plan, arms=arms)).unpaired()


def test_samples_that_are_not_utf8_are_read_with_replacement_characters(study, tmp_path: Path) -> None:
    plan, results = study()
    (record_of(tmp_path, plan, "arm/305").parent / "samples.txt").write_bytes(b"caf\xe9 \xff\n")
    assert results.samples("arm") == "caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}\n"


def test_a_table_of_a_study_by_its_name(study, tmp_path: Path) -> None:
    plan, _ = study(name="position")
    factors = tuple(Arm(arm.name, arm.overrides, factors={"width": arm.name}) for arm in plan.arms)
    replace(plan, arms=factors).save(tmp_path / "outputs" / "studies" / "position")
    table = load("position", str(tmp_path / "outputs"))
    (tmp_path / "outputs" / "studies").rename(tmp_path / "kept")
    assert load("position", str(tmp_path / "outputs"), str(tmp_path / "kept")).equals(table)
    with pytest.raises(
        UserError, match=r"There is no study 'positoin' in .*outputs/studies or .*kept; did you mean position\?"
    ):
        load("positoin", str(tmp_path / "outputs"), str(tmp_path / "kept"))
    assert len(table) == 16
    assert set(table["width"]) == {"base", "arm"}
    assert table["bpc"].iloc[0] == pytest.approx(table["value"].iloc[0] / math.log(2))
