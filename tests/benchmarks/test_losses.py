"""Benchmarks of losses: what their sides train."""

import pytest
import torch
from torch import nn

from benchmarks.decay_all import DecayAll
from benchmarks.losses import BENCHMARKS, DECAYED, TRANSFORMER
from benchmarks.pairs import OURS
from charlab.models.initialization import undecayed
from charlab.training.optimizers import parameter_groups


def test_what_is_exempt_from_weight_decay_can_be_decayed():
    module = nn.Linear(2, 2)
    module.frequency = undecayed(torch.ones(3, 2))
    assert [len(group["params"]) for group in parameter_groups(module, 0.1, "matrices")] == [1, 2]
    DecayAll().setup(None, module, "fit")
    decaying, spared = parameter_groups(module, 0.1, "matrices")
    assert len(decaying["params"]) == 2
    assert spared["params"] == [module.bias]


@pytest.mark.parametrize("family", ["s4d", "mamba"])
def test_sides_with_and_without_decay_differ_in_nothing_else(family, monkeypatch):
    trained = []
    monkeypatch.setattr("benchmarks.losses.run_training", lambda *overrides: trained.append(overrides) or {})
    sides = BENCHMARKS[f"state_decay_{family}"]().sides
    for number in range(2):
        sides[OURS](number), sides[DECAYED](number)
    assert [set(more) - set(less) for less, more in zip(trained[::2], trained[1::2], strict=True)] == [
        {"+callbacks.decay_all={_target_: benchmarks.decay_all.DecayAll}"}
    ] * 2
    assert trained[0] != trained[2]  # another seed


def test_block_diffusion_is_compared_at_equal_steps(monkeypatch):
    monkeypatch.setattr("benchmarks.losses.run_training", lambda *overrides: {"overrides": overrides})
    sides = BENCHMARKS["block_diffusion"]().sides
    asked = [side(0)["overrides"] for side in sides.values()]
    steps = {given for overrides in asked for given in overrides if given.startswith("trainer.max_steps=")}
    assert len(steps) == 1
    assert "experiment=part2/modern_gpt" in sides[TRANSFORMER](0)["overrides"]
