"""Studies by the launchers that have processes of their own on this machine, whatever is killed meanwhile."""

import os
import signal
import time

import pytest

from tests.studies.real_sweeps import Sweep, assert_only_missing_runs, needs_cluster, parent_of

TWO_AT_ONCE = ("launcher=joblib", "hydra.launcher.n_jobs=2")


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def assert_killed_cell_is_run_again(sweep):
    process = sweep.start()
    killed, outcome = sweep.wait_until_running()
    os.kill(outcome.process, signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1, output
    assert "3 of 4 finished" in output
    assert sweep.outcomes()[killed.key].fate == "killed"
    assert "SIGKILL" in sweep.outcomes()[killed.key].reason
    assert_only_missing_runs(sweep, killed)


@pytest.mark.slow
def test_joblib_when_a_cell_is_killed(tmp_path):
    assert_killed_cell_is_run_again(Sweep(tmp_path, *TWO_AT_ONCE))


@pytest.mark.slow
def test_joblib_when_a_worker_is_killed(tmp_path):
    sweep = Sweep(tmp_path, *TWO_AT_ONCE)
    process = sweep.start()
    _, outcome = sweep.wait_until_running()
    os.kill(parent_of(outcome.process), signal.SIGKILL)  # joblib then gives up; the study does not
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "The launcher gave up" in output
    assert len(sweep.finished()) == 4


@pytest.mark.slow
def test_nothing_goes_on_when_a_sweep_is_killed(tmp_path):
    sweep = Sweep(tmp_path, *TWO_AT_ONCE)
    process = sweep.start()
    cell, outcome = sweep.wait_until_running()
    worker = parent_of(outcome.process)
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 30
    while is_alive(outcome.process) or sweep.outcomes()[cell.key].fate == "running":  # its worker writes that down
        assert time.monotonic() < end
        time.sleep(0.05)
    while is_alive(worker):  # joblib's own would wait for work for ever
        assert time.monotonic() < end
        time.sleep(0.05)
    assert sweep.outcomes()[cell.key].fate == "interrupted"
    time.sleep(1.0)  # in which an orphaned worker could begin another
    assert "running" not in {outcome.fate for outcome in sweep.outcomes().values() if outcome is not None}


@pytest.mark.parametrize("launcher", [pytest.param("ray", marks=needs_cluster("ray"))])
def test_ray_when_a_cell_is_killed(tmp_path, launcher):
    assert_killed_cell_is_run_again(Sweep(tmp_path, f"launcher={launcher}"))
