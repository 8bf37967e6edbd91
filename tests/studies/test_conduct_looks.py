"""Studies with planned looks, conducted with made-up runs: what runs at each look, and what is shown of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from charlab.errors import UserError
from charlab.runs.record import Record
from charlab.studies.definition import Arm, Definition
from charlab.studies.outcomes import STOP_FILE, Outcome
from charlab.studies.plan import Cell, Plan
from charlab.studies.report.contents import gather
from charlab.studies.state import StudyResults
from charlab.studies.sweep import conduct

SEEDS = tuple(range(16))
LOOKS = (6, 9, 12, 16)
ARMS = (Arm("baseline", ()), Arm("clear", ("model=gpt",)), Arm("unclear", ("model=lstm",)))


def make_plan() -> Plan:
    cells = tuple(
        Cell(arm.name, seed, f"mine/{arm.name}{seed}", (f"seed={seed}",), "c0de") for seed in SEEDS for arm in ARMS
    )
    return Plan(
        name="mine",
        hypothesis="It helps.",
        baseline="baseline",
        arms=ARMS,
        cells=cells,
        seeds=SEEDS,
        planned_seeds=16,
        planned_looks=LOOKS,
        records=".",
    )


def loss(cell: Cell) -> float:
    """The clear arm is better by 0.05, the other by 0.01 with a spread that hides it."""
    wave = (-1) ** cell.seed
    return {"baseline": 2.0, "clear": 1.95 + 0.001 * wave, "unclear": 1.99 + 0.03 * wave}[cell.arm]


class Runs:
    """An executor for tests: it notes the cells of each launch, and makes them finish or fail."""

    def __init__(self) -> None:
        self.launches: list[list[str]] = []
        self.failing: set[str] = set()

    def __call__(self, study: Path, cells: Sequence[Cell]) -> None:
        self.launches.append([cell.key for cell in cells])
        for cell in cells:
            failed = cell.key in self.failing
            Outcome("failed" if failed else "finished", "Why.\n" * failed, seconds=1.0).save(study, cell)
            if not failed:
                metrics = [{"protocol": "blocks", "split": "validation", "nll": loss(cell), "likelihood": "exact"}]
                folder = study.parents[1] / "runs" / cell.run
                Record(folder, "mine", cell.fingerprint, "finished", metrics=metrics, code=cell.code).save()


@pytest.fixture
def runs() -> Runs:
    return Runs()


@pytest.fixture
def run(runs: Runs, tmp_path: Path) -> Callable[[], StudyResults]:
    return lambda: conduct(make_plan(), tmp_path, runs, Console())


def test_a_settled_arm_is_not_run_on(
    runs: Runs, run: Callable[[], StudyResults], capsys: pytest.CaptureFixture[str]
) -> None:
    results = run()
    keys = [{key.partition("/")[0] for key in launch} for launch in runs.launches]
    assert keys == [{"baseline", "clear", "unclear"}, *[{"baseline", "unclear"}] * 3]
    assert [len(launch) for launch in runs.launches] == [18, 6, 6, 8]
    statuses = Counter(result.status for result in results.cells)
    assert statuses == {"finished": 38, "not needed": 10}
    assert results.finished
    verdicts = {arm: (found.verdict, found.n) for arm, found in results.comparisons().items()}
    assert verdicts == {"clear": ("supported", 6), "unclear": ("inconclusive", 16)}
    assert "Look after 6 seeds: clear supported, unclear inconclusive." in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_is_run_again(runs: Runs, run: Callable[[], StudyResults], capsys: pytest.CaptureFixture[str]) -> None:
    run()
    runs.launches = []
    capsys.readouterr()
    assert run().finished
    assert runs.launches == []
    assert capsys.readouterr().out.count("Look after") == 1


def test_a_look_waits_for_all_its_cells(runs: Runs, run: Callable[[], StudyResults]) -> None:
    """No figure is shown of cells that no look has read, and the study goes on where it stopped."""
    runs.failing = {"unclear/7"}
    results = run()
    assert len(runs.launches) == 2
    statuses = Counter(result.status for result in results.cells)
    assert statuses == {"finished": 18, "held back": 5, "failed": 1, "missing": 14, "not needed": 10}
    assert results.comparisons()["unclear"].n == 6
    assert [seed for seed, value in results.values("unclear").items() if value is not None] == list(range(6))
    runs.failing, runs.launches = set(), []
    assert run().finished
    assert [len(launch) for launch in runs.launches] == [1, 6, 8]


def test_after_a_look_nothing_more_starts_if_a_cell_has_stopped_the_study(runs: Runs, tmp_path: Path) -> None:
    def stopping(study: Path, cells: Sequence[Cell]) -> None:
        runs(study, cells)
        (study / STOP_FILE).touch()

    assert not conduct(make_plan(), tmp_path, stopping, Console()).finished
    assert [len(launch) for launch in runs.launches] == [18]
    assert conduct(make_plan(), tmp_path, runs, Console()).finished
    assert [len(launch) for launch in runs.launches] == [18, 6, 6, 8]


def test_before_the_first_look_nothing_is_shown(runs: Runs, run: Callable[[], StudyResults]) -> None:
    runs.failing = {"clear/0"}
    results = run()
    assert results.comparisons() == {}
    contents = gather(results)
    assert "The first look, after 6 seeds, has not been reached: nothing is shown yet." in [
        notice.text for notice in contents.notices
    ]
    assert all(arm.mean is None for arm in contents.arms.values())


def test_the_report_says_what_looks_did(run: Callable[[], StudyResults]) -> None:
    contents = gather(run())
    method, limits = " ".join(contents.method), " ".join(contents.limits)
    assert "planned after 6, 9, 12 and 16 seeds" in method
    assert "clear after 6 seeds" in method
    assert "That saved 10 of 48 cells." in method
    assert "biased" in limits
    assert not contents.unfinished
    assert "n = 6 at this look" in contents.judgments[0].reason


@pytest.mark.slow
def test_a_change_of_looks_makes_a_study_exploratory(runs: Runs, tmp_path: Path) -> None:
    plan = make_plan()
    conduct(plan, tmp_path, runs, Console())
    results = conduct(replace(plan, planned_looks=(9, 16)), tmp_path, runs, Console())
    assert results.plan.exploratory
    assert "Looks were planned after 6, 9, 12 and 16 seeds at first, and are now after 9 and 16 seeds." in (
        results.plan.amendments
    )


def test_runs_that_another_protocol_has_scored_are_scored_again(runs: Runs, tmp_path: Path) -> None:
    """They have ended, but no look could be read before they are."""
    conduct(make_plan(), tmp_path, runs, Console())
    runs.launches = []
    results = conduct(replace(make_plan(), protocol="sliding"), tmp_path, runs, Console())
    assert [len(launch) for launch in runs.launches] == [18]  # which these runs do not score by it, either
    assert results.comparisons() == {}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("looks: [6, 6, 9]", "study.looks=[6, 6, 9] (in study/mine.yaml) must increase"),
        ("looks: [9, 6]", "must increase"),
        ("looks: []", "must increase"),
        ("looks: [5, 9]", "begins with too few seeds for the test: use 6 or more"),
        ("looks: [6, 9]\nseeds: [1, 2, 3, 4, 5, 6, 7]", "lists 7 seeds, but the last of study.looks is at 9"),
        ("looks: 6", "study.looks (in study/mine.yaml) must be"),
    ],
)
def test_looks_that_cannot_be(
    write_study: Callable[..., str], define_study: Callable[..., Definition], body: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        define_study(write_study(body))
    assert message in str(error.value)


def test_looks_set_the_number_of_seeds(
    write_study: Callable[..., str], define_study: Callable[..., Definition]
) -> None:
    definition = define_study(write_study("looks: [6, 9]"))
    assert definition.looks == (6, 9)
    assert definition.seeds == tuple(range(305, 314))
