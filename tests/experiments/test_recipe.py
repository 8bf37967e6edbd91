"""The benchmark's recipe is the reference's own: function, gradients, initial weights, steps."""

import pytest
import torch
from torch import nn

from charlab.configuration.build import build
from charlab.configuration.compose import compose
from tests.references import nanogpt_recipe as reference


@pytest.fixture(scope="module")
def config():
    return compose(["experiment=benchmark/recipe"])


def build_model(config):
    torch.manual_seed(0)
    return build(config.model, 65)


def test_loss_and_gradients_are_the_same_for_the_same_weights(config):
    ours, theirs = build_model(config), reference.Transformer(65)
    for parameter in ours.parameters():  # weights so large that every part has its say
        nn.init.normal_(parameter, mean=0.1, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    assert (config.data.context_length, config.data.batch_size) == (reference.T, reference.BATCH)
    window = torch.randint(65, (reference.BATCH, reference.T + 1))
    losses = ours.loss(window), theirs(window[:, :-1], window[:, 1:])
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    expected = dict(theirs.named_parameters())
    assert sum(parameter.numel() for parameter in ours.parameters()) == 804_096
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-4)


def test_initial_weights_are_as_large(config):
    ours = build_model(config)
    expected = dict(reference.Transformer(65).named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.std().item() == pytest.approx(expected[name].std().item(), rel=0.05), name


def test_every_step_has_the_recipes_rate_and_decay(config):
    ours = build_model(config)
    optimizer, expected = build(config.optimizer)(ours), reference.build_optimizer(ours)
    for group, other in zip(optimizer.param_groups, expected.param_groups, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in other["params"]]
        for setting in ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize"):
            assert group[setting] == other[setting], setting
    schedule, steps = build(config.scheduler), config.trainer.max_steps
    assert steps == reference.STEPS
    for step in range(steps):  # ours is read in the middle of a step
        rate = schedule((step + 0.5) / steps) * config.optimizer.lr
        assert rate == pytest.approx(reference.rate(step, steps), abs=6e-6)
    assert config.trainer.gradient_clip_val == 1.0
    assert config.callbacks.evaluation.every_n_steps == reference.EVALUATE_EVERY
    assert config.callbacks.evaluation.num_batches == reference.EVALUATION_BATCHES


def test_the_reference_learns(monkeypatch):
    monkeypatch.setattr(reference, "EVALUATION_BATCHES", 1)
    monkeypatch.setattr(reference, "BATCH", 2)
    text = "to be, or not to be: that is the question\n" * 40
    found = reference.train(text, steps=12)
    assert len(found["step_s"]) == found["steps"] == 12
    assert 1.5 < found["blocks"] < 2.9  # log V is 2.9
    assert found["blocks"] == pytest.approx(found["estimate"]["validation"], abs=0.2)
