"""What benchmarks of a GPU ask for, measure and say, without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import benchmarks.__main__ as program
from benchmarks import gpu
from benchmarks.pairs import OURS, measure
from benchmarks.training import COMPILED
from charlab.errors import UserError

ROOT = Path(__file__).parents[2]
PEAK = 989e12  # of an H200


@pytest.fixture
def h200(monkeypatch):
    """Pretend that there is an H200, on which a training reaches a tenth of the peak."""

    def train(*overrides, estimates=()):
        assert "trainer=gpu" in overrides
        found = {"flops": 0.1 * PEAK, "training_s": 40.0, "characters_per_second": 1e6, "step_ms": 10.0}
        return found | {f"estimate_{step}": 1.6 for step in estimates}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu, "run_training", train)


def figures(name):
    """Measure a round of a benchmark, and return the value of each figure, with the record's machine."""
    (record,) = measure(name, gpu.BENCHMARKS[name](), 1, lambda line: None)
    return {figure["key"]: figure["value"] for figure in record["figures"]}, record["machine"]


@pytest.mark.parametrize("name", gpu.BENCHMARKS)
def test_without_a_gpu_nothing_is_measured(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="This benchmark needs a GPU"):
        next(measure(name, gpu.BENCHMARKS[name](), 1, pytest.fail))


@pytest.mark.slow
def test_without_a_gpu_the_command_ends_in_one_sentence():
    command = [sys.executable, "-m", "benchmarks", "gpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "This benchmark needs a GPU: run it where torch.cuda.is_available().\n"


def test_the_group_runs_in_order_and_in_few_rounds(monkeypatch):
    asked = {}
    monkeypatch.chdir(ROOT)  # where `main` goes
    monkeypatch.setattr(program, "measure", lambda name, benchmark, pairs, say: asked.update({name: pairs}) or [])
    program.main(["gpu"])
    assert tuple(asked) == ("gpu_transformer", "gpu_step", "gpu_cells", "gpu_synchronization")
    assert max(asked.values()) <= 2


def test_the_transformer_is_held_to_the_published_loss(h200):
    found, machine = figures("gpu_transformer")
    assert found["estimate_1800"] == pytest.approx(1.6 - 1.628)
    assert found["estimate_2000"] == 1.6
    assert found["share_of_peak"] == pytest.approx(0.1)
    assert machine["gpu"] == "NVIDIA H200"


def test_a_step_of_the_recipe_has_as_many_operations_on_both_sides(h200, monkeypatch):
    monkeypatch.setattr(gpu, "run_recipe", lambda *arguments: {"step_ms": 20.0})
    benchmark = gpu.BENCHMARKS["gpu_step"]()
    measured = {name: benchmark.sides[name](0) for name in (OURS, COMPILED)}
    assert measured[COMPILED]["share_of_peak"] == pytest.approx(measured[OURS]["share_of_peak"] / 2)


def test_six_cells_differ_in_their_seeds(h200, monkeypatch):
    asked = []

    def run(commands, *, at_once):
        asked.append({command[-1] for command in commands})
        return {"wall_s": 1.0 if at_once else 3.0}

    monkeypatch.setattr(gpu, "run_trainings_at_once", run)
    found, _ = figures("gpu_cells")
    assert found == {"wall_s": 3.0}
    assert asked == [{f"seed={seed}" for seed in range(6)}] * 2


def test_synchronization_is_watched_by_a_test(h200, monkeypatch):
    ran = []
    monkeypatch.setattr(gpu, "run_program", lambda *command: ran.append(command) or {"wall_s": 1.0})
    found, _ = figures("gpu_synchronization")
    assert found == {"waiting_steps": 0.0}
    ((*_, test),) = ran
    file, name = test.split("::")
    assert f"def {name}(" in (ROOT / file).read_text()
