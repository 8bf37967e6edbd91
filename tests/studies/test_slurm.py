"""Studies on a real SLURM cluster: one must be running, and `sbatch` be there."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.studies.real_sweeps import Sweep, assert_only_missing_runs, needs_cluster, parent_of

pytestmark = needs_cluster("slurm")


def jobs():
    """Return the ids of the jobs in the queue whose names are a study's."""
    queue = subprocess.run(["squeue", "--noheader", "--array", "--format=%i %j"], capture_output=True, text=True)
    lines = [line.split() for line in queue.stdout.splitlines()]
    return [job for job, name in lines if name.startswith("charlab-")]


@pytest.fixture(autouse=True)
def _cluster():
    assert shutil.which("sbatch"), "SLURM is not installed"
    assert jobs() == []


def test_a_cancelled_job_is_the_only_one_that_is_submitted_again(tmp_path):
    sweep = Sweep(tmp_path, "launcher=slurm")
    process = sweep.start()
    killed, outcome = sweep.wait_until_running()
    with open(f"/proc/{parent_of(outcome.process)}/environ", encoding="utf-8") as environment:
        variables = dict(pair.partition("=")[::2] for pair in environment.read().split("\0"))
    job = f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"
    subprocess.run(["scancel", job], check=True)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    assert "3 of 4 finished" in output
    assert sweep.outcomes()[killed.key].fate in ("killed", "interrupted"), output
    assert_only_missing_runs(sweep, killed)


@pytest.mark.thorough
def test_an_array_is_submitted_in_pieces_that_the_cluster_takes(tmp_path, monkeypatch):
    """The cluster is the real one, but for the size that it says it takes."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho 'MaxArraySize            = 3'\n")
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    sweep = Sweep(tmp_path, "launcher=slurm")
    code, output = sweep.run()
    assert code == 0, output
    names = [path.name for path in (sweep.folder / "jobs").iterdir()]
    arrays = {name.partition("_")[0] for name in names if not name.startswith(".")}
    assert len(arrays) == 2
    assert len(sweep.finished()) == 4


def test_an_interrupted_sweep_cancels_its_jobs(tmp_path):
    sweep = Sweep(tmp_path, "launcher=slurm")
    process = sweep.start()
    sweep.wait_until_running()
    assert len(jobs()) == 4
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert jobs() == []
    assert "running" not in {outcome.fate for outcome in sweep.outcomes().values() if outcome is not None}


def test_cells_of_a_killed_sweep_are_not_run_twice(tmp_path):
    sweep = Sweep(tmp_path, "launcher=slurm", "launcher.array_parallelism=1")
    process = sweep.start()
    sweep.wait_until_running()
    process.kill()
    process.wait()
    process.stdout.close()
    code, output = sweep.run()
    assert code == 0, output
    assert jobs() == []
    assert len(sweep.finished()) == 4
    assert len(list((sweep.folder / "jobs").glob("*/*_log.out"))) <= 5  # one may have begun before it was cancelled
