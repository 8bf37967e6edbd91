"""What a benchmark measures in processes of their own."""

import pytest

from charlab.benchmarks.processes import run_module, run_training, run_trainings_at_once
from charlab.errors import UserError
from tests.runs.conftest import TINY


@pytest.mark.slow
def test_a_training_is_measured_by_its_record_and_by_a_clock_outside(text_path):
    command = [*TINY, "trainer.max_steps=40", f"data.path={text_path}"]
    measured = run_training(*command)
    assert measured["steps"] == 40
    assert 0 < measured["step_ms"] < 1e3 * measured["training_s"] < 1e3 * measured["wall_s"]
    assert measured["evaluation_s"] > 0
    assert run_trainings_at_once([command, command], at_once=True)["wall_s"] > measured["training_s"]
    with pytest.raises(UserError, match="exit code 2"):
        run_training("model=typo")


@pytest.mark.slow
def test_the_plainest_loop_takes_the_same_overrides(text_path):
    overrides = [override for override in TINY if not override.startswith("callbacks")]
    measured = run_module("tests.references.plain_loop", 20, *overrides, f"data.path={text_path}")
    assert 0 < measured["mean_step_ms"] < 1e3 * measured["wall_s"]
    assert measured["peak_memory_mb"] > 100
