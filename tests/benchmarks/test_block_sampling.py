"""What is measured of block diffusion's samples, of a run that takes a second."""

import math

import pytest

from benchmarks import block_sampling


@pytest.mark.slow
def test_every_number_of_evaluations_has_a_speed_and_a_likelihood(monkeypatch, tmp_path):
    monkeypatch.setattr(block_sampling, "LENGTH", 9)
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 40)
    found = block_sampling.measure(
        [
            *("experiment=part2/block_diffusion", "data=textfile", f"data.path={text}", f"output_dir={tmp_path}"),
            *("data.context_length=8", "model.embed_dim=16", "model.num_layers=1", "model.mixer.num_heads=2"),
            *("trainer.max_steps=2", "budget.max_seconds=null", "estimate_batches=1", "~logger.tensorboard"),
        ]
    )
    assert found.keys() == {
        "nll_of_text",
        *(f"{what}_{steps}" for what in ("nll", "characters_per_second") for steps in (4, 2, 1)),
    }
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    assert found["nll_4"] > found["nll_of_text"]  # samples of a model that has learned nothing
