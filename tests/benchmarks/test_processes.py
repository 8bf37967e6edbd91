"""What fresh processes say is numbers, under the names that figures ask for."""

import pytest

from benchmarks.processes import QUIET, run_program, run_recipe, run_training
from charlab.errors import UserError

COMPARED = {"wall_s", "training_s", "evaluation_s", "steps", "blocks", "step_ms", "peak_memory_mb"}


@pytest.mark.corpus
@pytest.mark.slow
def test_both_sides_say_what_is_compared():
    theirs = run_recipe("--steps", 100)
    ours = run_training(  # a hundred steps are the recipe's warm-up
        "experiment=benchmark/recipe", "trainer.max_steps=100", "scheduler.warmup=1", "compute.compile=false", *QUIET
    )
    for measured in (theirs, ours):
        assert measured.keys() >= COMPARED
        assert all(isinstance(value, int | float) for value in measured.values())
    assert theirs["blocks"] == pytest.approx(ours["blocks"], abs=0.03)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_fails_is_quoted(stream):
    with pytest.raises(UserError, match="ended with exit code 3: the reason"):
        run_program("-S", "-c", f"import sys; print('the reason', file=sys.{stream}); sys.exit(3)")
