"""One real study, each cell of it a process: what is planned is what runs, and a rerun runs nothing."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from charlab.runs.record import Record
from charlab.studies import load
from charlab.studies.outcomes import cell_path
from charlab.studies.plan import Plan
from tests.helpers.warm import warm

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
TINY = (
    "data.batch_size=2",
    "model.embed_dim=16",
    "model.num_layers=1",
    "trainer.max_steps=4",
    "estimate_batches=2",
    "callbacks.samples.length=10",
)


@pytest.mark.slow
def test_a_study_from_its_file_to_its_report(tmp_path: Path, conf: Path, write_study: Callable[..., str]) -> None:
    stop = "'+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: nothing}'"
    arms = f"{{learned: [], rotary: [model/position=rotary], raises: [{stop}]}}"
    write_study("seeds: [1, 2]", arms=arms)
    command = ("--config-dir", str(conf), "study=mine")
    first = run_study(tmp_path, *command)
    assert first.returncode == 1, first.stderr
    assert "mine: 4 of 6 finished, 2 failed" in first.stdout
    share = r"6 cells in 0:\d\d:\d\d, 1 at a time: \d+% of the time was training, \d+% evaluation\."
    assert re.fullmatch(share, first.stdout.splitlines()[-1])
    reason, again = re.search(r"raises/2 failed: (.*)\n  again: (.*)\n", first.stdout).groups()
    alone = subprocess.run(
        warm([sys.executable, *shlex.split(again)[1:]]), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (alone.returncode, reason in alone.stderr) == (1, True), alone.stderr
    study = tmp_path / "my results/studies/mine"
    plan = Plan.load(study)
    for cell in plan.cells:
        if cell.arm != "raises":
            record = study / "runs" / cell.key / "record.json"
            assert record.resolve() == (tmp_path / "my results/runs" / cell.run / "record.json").resolve()
    assert plan.looks == ()  # no seed has ended with all arms
    assert (study / "report").is_dir()
    table = load("mine", str(tmp_path / "my results"))
    assert table["status"].tolist() == ["finished", "finished", "failed"] * 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("my results/runs/*/*/record.json")}
    write_study("seeds: [1, 2]", arms="{learned: [], rotary: [model/position=rotary]}")
    second = run_study(tmp_path, *command)
    assert second.returncode == 0, second.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "mine: 4 of 4 finished" in second.stdout
    assert "of the time was training" not in second.stdout  # no cell ran
    assert Plan.load(study).looks == (2,)
    run_printed_commands(study / "report" / "report.md", tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("record.json") if not path.is_symlink()}
    records = [record for path in before if (record := Record.load(path.parent)).status == "finished"]
    assert len(records) == 4
    assert not any(record.has_figure("sliding") or (record.folder / "loss.png").exists() for record in records)
    third = run_study(tmp_path, *command, "study.protocol=sliding")
    assert third.returncode == 0, third.stderr
    for record in records:  # completed, not trained again
        completed = Record.load(record.folder)
        assert completed.has_figure("sliding")
        assert completed.time == record.time


@pytest.mark.slow
def test_a_cell_of_two_processes_is_trained_by_both(tmp_path: Path, text_path: Path) -> None:
    text = ("data=textfile", f"data.path={text_path}", "data.context_length=8")
    two = ("trainer=ddp", "trainer.accelerator=cpu", "compute.threads=1")
    done = run_study(tmp_path, "study.name=mine", "model=gpt", *text, *two)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "mine: 1 of 1 finished" in done.stdout
    study = tmp_path / "my results/studies/mine"
    (cell,) = Plan.load(study).cells
    record = Record.load(tmp_path / "my results/runs" / cell.run)
    assert (cell.processes, record.machine["processes"]) == (2, 2)
    assert (record.steps, record.characters_seen) == (4, 4 * 2 * 8)  # steps × windows × T, of both processes
    assert "compute it by" not in cell_path(study, cell, ".log").read_text()  # a failing process would end the other


@pytest.mark.slow
def test_a_cell_leaves_at_most_a_dozen_files(tmp_path: Path, text_path: Path) -> None:
    text = ("data=textfile", f"data.path={text_path}", "data.context_length=8")
    done = run_study(tmp_path, "study.name=mine", "model=gpt", "trainer.accelerator=cpu", *text)
    assert done.returncode == 0, (done.stdout, done.stderr)
    outputs = tmp_path / "my results"
    study = outputs / "studies/mine"
    (cell,) = Plan.load(study).cells  # its seed is the first, which also samples a text for the report
    files = [path for path in outputs.rglob("*") if path.is_file() and not path.is_relative_to(study / "report")]
    own = [str(path.relative_to(outputs)) for path in files if path.parent != study]
    assert {f"runs/{cell.run}/record.json", f"studies/mine/cells/{cell.key}.json"} < {*own}
    assert len(own) <= 12, own


def run_study(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run a study of tiny models in a folder."""
    command = [sys.executable, str(SCRIPT), "-m", *settings, "output_dir=my results", *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(warm(command), cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run_printed_commands(page: Path, folder: Path) -> None:
    """Type every command that a report prints, in the folder where the study was run."""
    (folder / "scripts").symlink_to(SCRIPT.parent)
    commands = [block.content for block in MarkdownIt().parse(page.read_text()) if block.info == "sh"]
    assert len(commands) == 4  # study, report, two arms
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
    assert not (folder / "outputs").exists()
