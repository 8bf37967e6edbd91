"""What is measured of block diffusion's samples, of a run that takes a second."""

import math

import pytest

from benchmarks import block_sampling
from benchmarks.inference import BENCHMARKS


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
    assert found.keys() == {*block_sampling.STEPS, block_sampling.TEXT}
    assert all(math.isfinite(value) and value > 0 for measured in found.values() for value in measured.values())
    nll = {side: measured["nll"] for side, measured in found.items()}
    assert nll["4 evaluations"] > nll[block_sampling.TEXT]  # samples of a model that has learned nothing
    assert all(math.isfinite(figure.compare(found)) for figure in BENCHMARKS["block_sampling"]().figures)
