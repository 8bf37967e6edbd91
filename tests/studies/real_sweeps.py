"""Real sweeps over real processes: a study of four cells, each of which takes as long as a process takes to start."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from charlab.runs.record import Record
from charlab.studies.outcomes import Outcome
from charlab.studies.plan import Plan
from tests.helpers.warm import warm

CLUSTERS = os.environ.get("CHARLAB_CLUSTERS", "").split(",")
SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
STUDY = """
defaults: [_base, _self_]
baseline: slow
overrides:
  - model=bigram
  - data=play
  - data.corpus.length=20000
  - data.context_length=16
  - data.batch_size=4
  - trainer=cpu
  - trainer.max_steps=20
  - compute.compile=false
  - estimate_batches=1
  - callbacks.samples.length=10
arms:
  slow: [optimizer.lr=1e-3]
  fast: [optimizer.lr=1e-2]
seeds: 2
"""


def needs_cluster(name):
    """Return marks for a test that submits to a cluster, which nobody wants by accident: CHARLAB_CLUSTERS names it."""
    return [pytest.mark.slow, pytest.mark.skipif(name not in CLUSTERS, reason=f"CHARLAB_CLUSTERS={name} runs it")]


def _hears_interrupts():
    """Undo what a shell does to all that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Sweep:
    """A sweep over the four cells in a folder of its own."""

    def __init__(self, folder, *overrides):
        (folder / "conf" / "study").mkdir(parents=True, exist_ok=True)
        (folder / "conf" / "study" / "four_cells.yaml").write_text(STUDY)
        self.outputs = folder / "outputs"
        self.folder = self.outputs / "studies" / "four_cells"
        self.command = [
            *(sys.executable, str(SCRIPT), "-m", "--config-dir", str(folder / "conf")),
            *("study=four_cells", f"output_dir={self.outputs}", *overrides),
        ]

    def start(self):
        """Start it; return its process, the leader of a group. With a cluster it is a new interpreter."""
        on_cluster = any(argument.startswith("launcher=") for argument in self.command)
        return subprocess.Popen(
            self.command if on_cluster else warm(self.command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_hears_interrupts,
        )

    def run(self):
        """Run it to its end; return its exit code and what it printed."""
        process = self.start()
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    @property
    def cells(self):
        return Plan.load(self.folder).cells

    def outcomes(self):
        """Return the outcome of each cell by its key."""
        return {cell.key: Outcome.load(self.folder, cell) for cell in self.cells}

    def finished(self):
        """Return when each cell that has finished did so, by its key."""
        records = {cell.key: self.outputs / "runs" / cell.run for cell in self.cells}
        return {
            key: (folder / "record.json").stat().st_mtime_ns
            for key, folder in records.items()
            if (folder / "record.json").exists() and Record.load(folder).status == "finished"
        }

    def wait_until_running(self, seconds=300.0):
        """Wait until a cell runs; return it with its outcome."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (self.folder / "plan.json").exists():
                for cell in self.cells:
                    outcome = Outcome.load(self.folder, cell)
                    if outcome is not None and outcome.fate == "running":
                        return cell, outcome
            time.sleep(0.05)
        raise AssertionError("no cell was begun")


def parent_of(process):
    """Return the process that has started this one."""
    listed = subprocess.run(["ps", "-o", "ppid=", str(process)], capture_output=True, text=True, check=True)
    return int(listed.stdout)


def assert_only_missing_runs(sweep, killed):
    """Check that all cells but one have finished, and that the sweep's command then runs exactly that one."""
    before = sweep.finished()
    assert set(before) == {cell.key for cell in sweep.cells} - {killed.key}
    started = {key: outcome.started for key, outcome in sweep.outcomes().items()}
    code, output = sweep.run()
    assert code == 0, output
    after = sweep.finished()
    assert set(after) == {cell.key for cell in sweep.cells}
    assert {key for key in before if before[key] != after[key]} == set()
    restarted = {key for key, outcome in sweep.outcomes().items() if outcome.started != started[key]}
    assert restarted == {killed.key}
