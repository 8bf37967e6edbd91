"""Studies on this machine and on Ray while processes of theirs are killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.studies.real_sweeps import Sweep, assert_only_missing_runs, needs_cluster

TWO_AT_ONCE = ("launcher.at_once=2",)


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
def test_here_when_a_cell_is_killed(tmp_path):
    assert_killed_cell_is_run_again(Sweep(tmp_path, *TWO_AT_ONCE))


def assert_nothing_goes_on_when_it_is_killed(sweep):
    process = sweep.start()
    cell, outcome = sweep.wait_until_running()
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 60
    while is_alive(outcome.process) or "running" in fates(sweep).values():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert fates(sweep)[cell.key] == "interrupted"
    before = fates(sweep)
    time.sleep(1.0)  # in which another cell could begin
    assert fates(sweep) == before


def fates(sweep):
    return {key: outcome.fate for key, outcome in sweep.outcomes().items() if outcome is not None}


@pytest.mark.slow
def test_nothing_goes_on_when_a_sweep_is_killed(tmp_path):
    assert_nothing_goes_on_when_it_is_killed(Sweep(tmp_path, *TWO_AT_ONCE))


@pytest.mark.slow
def test_an_interrupted_sweep_ends_its_cells(tmp_path):
    sweep = Sweep(tmp_path, *TWO_AT_ONCE)
    process = sweep.start()
    _, outcome = sweep.wait_until_running()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert not is_alive(outcome.process)
    assert {o.fate for o in sweep.outcomes().values() if o is not None} <= {"interrupted", "finished"}
    assert sweep.run()[0] == 0
    assert len(sweep.finished()) == 4


@pytest.mark.parametrize("launcher", [pytest.param("ray", marks=needs_cluster("ray"))])
def test_ray_when_a_cell_is_killed(tmp_path, launcher):
    assert_killed_cell_is_run_again(Sweep(tmp_path, f"launcher={launcher}"))


@pytest.mark.thorough
@pytest.mark.parametrize("launcher", [pytest.param("ray", marks=needs_cluster("ray"))])
def test_nothing_goes_on_when_a_sweep_on_ray_is_killed(tmp_path, launcher):
    assert_nothing_goes_on_when_it_is_killed(Sweep(tmp_path, f"launcher={launcher}"))


@pytest.mark.parametrize(
    ("asked", "code", "sentence"),
    [
        pytest.param("", 0, "4 of 4 finished", marks=needs_cluster("ray")),
        pytest.param("1", 2, "Ray does not start: Failed to set up", marks=needs_cluster("ray")),  # 512 MiB at most
    ],
)
def test_ray_within_uv_run_uploads_the_working_folder_only_if_asked(tmp_path, asked, code, sentence):
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)  # as tools/install.sh finds it
    if uv is None:
        pytest.skip("uv is not installed")
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(700 * 2**20)
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    environment.pop("RAY_ENABLE_UV_RUN_RUNTIME_ENV", None)
    if asked:
        environment["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = asked
    command = [uv, "run", "--offline", "--no-project", "--active", *Sweep(tmp_path, "launcher=ray").command]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )
    assert done.returncode == code, done.stdout
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout
