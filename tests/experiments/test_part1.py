"""The ladder of Part 1: exact parameter counts, untrained losses, and the published losses on the real text."""

import functools
import math
import os
import statistics
from pathlib import Path

import pytest
import torch

import charlab
from charlab.configuration.build import build
from charlab.configuration.compose import compose
from charlab.data.datamodule import CharacterDataModule
from charlab.evaluation.protocols import Estimate, evaluate

V = 65
PARAMETERS = {
    "bigram": 4_225,
    "bigram_embedding": 4_225,
    "single_head": 590_657,
    "multi_head": 2_213_057,
    "transformer": 19_636_289,
}
SOME = ("bigram", "transformer")  # the smallest and the largest


@functools.cache
def composed(name):
    return compose([f"experiment=part1/{name}"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in PARAMETERS]
)
def test_parameter_counts_are_exact(name):
    config = composed(name)
    with torch.device("meta"):
        model = build(config.model, V)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_runs_have_the_courses_windows_and_estimates(name):
    config = composed(name)
    assert (config.data.context_length, config.data.batch_size, config.seed) == (256, 32, 305)
    assert (config.evaluate_every, config.estimate_batches) == (200, 100)
    optimizers = {"transformer": ("adam", 1e-4), "bigram": ("adamw", 1e-2), "bigram_embedding": ("adamw", 1e-2)}
    optimizer, rate = optimizers.get(name, ("adamw", 6e-4))
    assert config.optimizer["_target_"].endswith(f".{optimizer}")
    assert config.optimizer.lr == rate


@pytest.fixture(scope="module")
def data() -> CharacterDataModule:
    assert (Path(os.environ["CHARLAB_DATA"]) / "tinyshakespeare").is_dir()
    data = build(compose(["experiment=part1/bigram"]).data)
    data.setup()
    return data


def untrained_loss(name, data, seed, num_batches):
    config = composed(name)
    torch.manual_seed(seed)
    model = build(config.model, V)
    protocol = Estimate(num_batches=num_batches)
    return evaluate(model, data.ids("validation"), protocol, context_length=256, batch_size=32).nll


@pytest.mark.corpus
def test_untrained_bigrams_have_the_published_loss_on_average(data):
    losses = [untrained_loss("bigram", data, seed, 10) for seed in range(16)]
    assert statistics.mean(losses) == pytest.approx(4.65, abs=0.05)


@pytest.mark.corpus
def test_untrained_transformer_has_the_published_loss(data):
    assert untrained_loss("transformer", data, 305, 1) == pytest.approx(4.23, abs=0.03)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "train", "validation"), [("bigram", 2.473, 2.502), ("bigram_embedding", 2.458, 2.493)]
)
def test_bigrams_reach_the_published_losses(name, train, validation, tmp_path):
    record = charlab.run(f"experiment=part1/{name}", "trainer.accelerator=cpu", f"output_dir={tmp_path}")
    assert record.steps == 1000
    assert record.metric("estimate", "train")["nll"] == pytest.approx(train, abs=0.03)
    assert record.metric("estimate", "validation")["nll"] == pytest.approx(validation, abs=0.03)


@pytest.mark.corpus
def test_softmax_over_the_wrong_axis_is_caught_and_the_honest_figure_given(tmp_path):
    record = charlab.run(
        "experiment=part1/wrong_axis", "trainer.accelerator=cpu", "trainer.max_steps=150", f"output_dir={tmp_path}"
    )
    assert record.causality["leaks"]
    assert record.causality["honest_nll"] > record.metric("blocks")["nll"] + 0.3
    assert record.causality["honest_nll"] < 2 * math.log(V)
