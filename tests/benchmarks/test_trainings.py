"""Benchmarks that train, in processes of their own."""

import pytest

from benchmarks.processes import run_module, run_study, run_training, run_trainings_at_once, run_twice
from charlab.errors import UserError

TINY = (
    "model=gpt",
    "data=textfile",
    "data.context_length=8",
    "data.batch_size=2",
    "model.embed_dim=16",
    "model.num_layers=1",
    "trainer.accelerator=cpu",
)
SMALL = ("estimate_batches=2", "trainer.log_every_n_steps=1", "callbacks.samples.length=20")


@pytest.fixture
def text_path(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("to be or not to be that is the question\n" * 40)
    return path


@pytest.mark.slow
@pytest.mark.thorough
def test_a_training_is_measured_by_its_record_and_by_a_clock_outside(text_path):
    command = [*TINY, *SMALL, "trainer.max_steps=40", f"data.path={text_path}"]
    measured = run_training(*command, "evaluate_every=20", estimates=(20, 40))
    assert measured["steps"] == 40
    assert 0 < measured["estimate_40"] != measured["estimate_20"] > 0
    assert 0 < measured["step_ms"] < 1e3 * measured["training_s"] < 1e3 * measured["wall_s"]
    assert measured["evaluation_s"] > 0
    assert 0 < measured["exit_s"] < measured["rest_s"] < measured["wall_s"]
    assert "sliding" not in measured
    assert run_twice(*command)["again_s"] < measured["wall_s"]
    assert run_trainings_at_once([command, command], at_once=True)["wall_s"] > measured["training_s"]
    with pytest.raises(UserError, match="exit code 2"):
        run_training("model=typo")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_study_is_measured_by_its_cells(text_path):
    measured = run_study(*TINY, *SMALL, "trainer.max_steps=3", "optimizer.lr=0.1,0.2", f"data.path={text_path}")
    assert 0 < measured["overhead_s"] < measured["wall_s"]
    assert 0 < measured["first_step_s"] < measured["wall_s"]


@pytest.mark.slow
def test_a_bare_trainer_and_the_plainest_loop_learn_the_same_between_the_steps_of_a_run(text_path):
    scheduled = ("scheduler=warmup_cosine", "trainer.gradient_clip_val=0.1", "callbacks.samples.length=20")
    measured = run_module("benchmarks.alternation", 3, 10, *TINY, *scheduled, f"data.path={text_path}")
    for side in ("", "bare_", "plain_"):
        assert len(measured[f"{side}step_ms"]) == 3
        assert 0 < min(measured[f"{side}step_ms"]) < 1e3 * measured["wall_s"]
        assert measured[f"{side}loss"] == pytest.approx(measured["loss"], rel=1e-5)
