"""The benchmarks' recipes are the reference's own: function, gradients, initial weights, steps."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from charlab.configuration.build import build
from charlab.configuration.compose import compose
from tests.references import nanogpt_recipe as reference


@functools.cache
def composed(name):
    return compose([f"experiment=benchmark/{name}"])


@pytest.fixture(params=["recipe", pytest.param("gpu_recipe", marks=pytest.mark.slow)])
def pair(request):
    """A configuration of charlab's, and the recipe that it follows; the larger one has fewer layers, to be quick."""
    config = composed(request.param).copy()
    if request.param == "recipe":
        return config, reference.CPU
    config.model.num_layers = 2
    return config, dataclasses.replace(reference.GPU, layers=2)


def build_model(config):
    torch.manual_seed(0)
    return build(config.model, 65)


def test_loss_and_gradients_are_the_same_for_the_same_weights(pair):
    config, recipe = pair
    ours, theirs = build_model(config).eval(), reference.Transformer(65, recipe).eval()
    for parameter in ours.parameters():  # weights so large that every part has its say
        nn.init.normal_(parameter, mean=0.02, std=3.4 / recipe.embed_dim**0.5)
    theirs.load_state_dict(ours.state_dict())
    assert (config.data.context_length, config.data.batch_size) == (recipe.context_length, recipe.batch_size)
    window = torch.randint(65, (2, recipe.context_length + 1))
    losses = ours.loss(window), theirs(window[:, :-1], window[:, 1:])
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = expected[name].grad.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4 * scale, rtol=1e-4)


def test_dropout_is_the_recipes(pair):
    config, recipe = pair
    assert config.model.dropout == config.model.mixer.dropout == recipe.dropout


def test_sizes_are_the_published_ones():
    sizes = [
        sum(parameter.numel() for parameter in build_model(composed(name)).parameters())
        for name in ("recipe", "gpu_recipe")
    ]
    assert sizes == [804_096, 10_745_088]


def test_initial_weights_are_as_large(pair):
    config, recipe = pair
    expected = dict(reference.Transformer(65, recipe).named_parameters())
    for name, parameter in build_model(config).named_parameters():
        assert parameter.std().item() == pytest.approx(expected[name].std().item(), rel=0.05), name


def test_every_step_has_the_recipes_rate_and_decay(pair):
    config, recipe = pair
    ours = build_model(config)
    optimizer, expected = build(config.optimizer)(ours), reference.build_optimizer(ours)
    for group, other in zip(optimizer.param_groups, expected.param_groups, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in other["params"]]
        for setting in ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"):
            assert group[setting] == other[setting], setting
    schedule, steps = build(config.scheduler), config.trainer.max_steps
    assert steps == recipe.steps
    for step in range(steps):  # ours is read in the middle of a step
        rate = schedule((step + 0.5) / steps) * config.optimizer.lr
        assert rate == pytest.approx(reference.rate(step, steps), abs=6e-6)
    assert config.trainer.gradient_clip_val == 1.0
    assert config.evaluate_every == recipe.evaluate_every
    assert config.estimate_batches == recipe.evaluation_batches


@pytest.mark.parametrize("log_every", [1, 5])
def test_the_reference_learns(log_every):
    recipe = dataclasses.replace(reference.CPU, evaluation_batches=1, batch_size=2, log_every=log_every)
    text = "to be, or not to be: that is the question\n" * 40
    found = reference.train(text, recipe, steps=12)
    assert len(found["step_s"]) == found["steps"] == 12
    assert 1.5 < found["blocks"] < 2.9  # log V is 2.9
    assert found["blocks"] == pytest.approx(found["estimate"]["validation"], abs=0.2)
