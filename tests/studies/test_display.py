"""What is shown of a study is what the study's folder says."""

import errno
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from charlab.runs.record import Record
from charlab.runs.store import Run
from charlab.studies import display
from charlab.studies.cell import write_cell
from charlab.studies.display import Progress, print_shares, seconds_left, showing
from charlab.studies.outcomes import Outcome, cell_path, held
from charlab.studies.plan import Cell
from charlab.studies.state import CellResult, StudyResults

CELLS = [Cell(arm, seed, f"{arm}/{seed}", ()) for seed in (1, 2) for arm in ("a", "b")]
A1, B1, A2, B2 = CELLS


def test_time_left_follows_the_arm():
    assert seconds_left({}, {A1: 0.0}, 1) is None
    assert seconds_left({A1: 10.0, B1: 30.0}, {A2: 0.0, B2: 0.0}, 1) == 40.0
    assert seconds_left({A1: 10.0, B1: 30.0}, {A2: 4.0, B2: 40.0}, 1) == 6.0
    assert seconds_left({A1: 10.0}, {B1: 0.0, A2: 0.0, B2: 0.0}, 2) == 15.0  # an unknown arm is an average one
    assert seconds_left({A1: 10.0, B1: 30.0}, {A2: 0.0, B2: 0.0}, 2) == 30.0  # the longest cannot be divided
    assert seconds_left({A1: 10.0}, {}, 2) == 0.0


def test_cells_are_counted_by_their_outcomes(tmp_path):
    Outcome("failed", "earlier", 9.0).save(tmp_path, A1)
    shown = Progress(tmp_path, CELLS)
    assert shown.look() == []  # what failed earlier is about to run again
    Outcome("finished", seconds=8.0).save(tmp_path, A1)
    failure = Outcome("failed", "Traceback\nValueError: no", 2.0, 1)
    failure.save(tmp_path, B1)
    with held(cell_path(tmp_path, A2, ".lock")):
        Outcome("running", started="now").save(tmp_path, A2)
        assert shown.look() == [(A1, Outcome("finished", seconds=8.0)), (B1, failure)]
        assert (shown.running, shown.failed) == ([A2], 1)
        assert shown.line(B1, failure).startswith("2/4  b/1 failed after 0:00:02 (ValueError: no)")
        assert shown.seconds_left() == pytest.approx(16.0, abs=1.0)
        assert shown.look() == []
    shown.look()  # the process is gone, though its outcome still says that it runs
    assert (shown.running, shown.failed) == ([], 2)


def test_a_lock_that_is_out_of_reach_ends_no_display(tmp_path, monkeypatch):
    running = Outcome("running", started="now")
    running.save(tmp_path, A1)

    def refuse(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    assert Outcome.load(tmp_path, A1) == running


def test_a_file_gets_a_line_for_each_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LOOKS", 0.01)
    output = io.StringIO()
    with showing(tmp_path, CELLS, Console(file=output, width=40)):
        for cell in CELLS:
            Outcome("finished", seconds=1.0, exit_code=0).save(tmp_path, cell)
    lines = output.getvalue().splitlines()
    assert len(lines) == 4
    assert all(re.search(r"[ab]/[12] finished after 0:00:01", line) for line in lines)


def test_a_terminal_gets_a_bar_and_the_failures(tmp_path):
    output = io.StringIO()
    with showing(tmp_path, CELLS, Console(file=output, width=100, force_terminal=True, color_system=None)):
        Outcome("finished", seconds=1.0, exit_code=0).save(tmp_path, A1)
        Outcome("timed out", "It took too long.", seconds=1.0, exit_code=-15).save(tmp_path, B1)
    shown = output.getvalue()
    assert "b/1 timed out after 0:00:01 (It took too long.)" in shown
    assert "a/1 finished" not in shown
    assert "2/4 cells" in shown
    assert "1 done, 0 running, 1 failed" in shown


@pytest.mark.parametrize(
    ("steps", "seconds", "expected"),
    [
        (1000, None, "a/1  step 250  0:00:30 left"),
        (-1, 25.0, "a/1  step 250  0:00:15 left"),
        (1000, 12.0, "a/1  step 250  0:00:02 left"),
        (-1, None, "a/1  step 250"),
        (None, None, "a/1  step 250"),
    ],
)
def test_a_running_cell_shows_its_step_and_the_time_left(tmp_path, steps, seconds, expected):
    study = tmp_path / "studies" / "mine"
    config = {"trainer": {"max_steps": steps}, "budget": {"max_seconds": seconds}} if steps else {}
    write_cell(cell_path(study, A1, ".yaml"), config, tmp_path / "runs" / A1.run, ())
    curves = tmp_path / "runs" / A1.run / "metrics.csv"
    curves.parent.mkdir(parents=True)
    shown = Progress(study, CELLS)
    output = Console(file=io.StringIO(), width=80)

    def lines():
        shown.look()
        output.print(shown.bar())
        return [line.strip() for line in output.file.getvalue().splitlines()]

    with held(cell_path(study, A1, ".lock")):
        Outcome("running", started="now").save(study, A1)
        assert lines()[-1] == "a/1  starting"
        curves.write_text("step,characters,seconds,metric,value\n")
        assert lines()[-1] == "a/1  starting"
        curves.write_text(f"{curves.read_text()}250,900,10.000,train/loss,2.5\n300,9")  # half a line
        assert lines()[-1] == expected
        cell_path(study, A1, ".yaml").unlink()
        assert Progress(study, CELLS)._doing(A1) == "step 250"


def test_the_part_of_the_time_that_was_training():
    record = Record(Path("run"), "mine", "f", "finished", time={"training_s": 6.0, "evaluation_s": 2.0})
    cells = (
        CellResult(A1, "finished", run=Run(record)),
        CellResult(B1, "failed"),
        CellResult(A2, "finished", run=Run(record)),
    )
    output = io.StringIO()
    print_shares(StudyResults(None, cells, Path("study")), [A1, B1], 10.0, 2, Console(file=output, width=200))
    assert output.getvalue() == "2 cells in 0:00:10, 2 at a time: 30% of the time was training, 10% evaluation.\n"
