"""Which parameters weight decay reaches, by every optimizer and for every model with state-space layers."""

import functools
import importlib.util
from pathlib import Path

import hydra
import pytest
import torch
from torch import nn

from charlab.models.initialization import UNDECAYED, undecayed
from charlab.training.optimizers import decay_groups, parameter_groups
from tests.training import options

CONF = Path(__file__).parents[2] / "conf"
STATE_SPACE = {
    "s4d": {"log_step", "log_decay", "frequency", "readout", "skip"},
    "mamba": {"log_decay", "skip", "step_projection.bias"},
    "linear_attention": {"decay_gate.bias"},
}
OPTIMIZERS = ["adam", "adamw", "lion", "muon", "sam", "schedule_free_adamw", "sgd"]


@functools.cache
def build(name):
    """Build a small model, which is not to be changed."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(overrides=[f"+model={name}", "+data.context_length=8", "+seed=0"]).model
    config.embed_dim = 24
    return hydra.utils.instantiate(config, 5)


def names(model, groups, *, decaying):
    found = {parameter: name for name, parameter in model.named_parameters()}
    return {
        found[parameter] for group in groups if (group["weight_decay"] > 0) == decaying for parameter in group["params"]
    }


@pytest.mark.parametrize("decayed", ["all", "matrices"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model_name", ["s4d", "mamba", "linear_attention"])
def test_no_optimizer_decays_what_a_state_space_is_made_of(model_name, optimizer, decayed):
    model = build(model_name)
    changes = {"decayed": decayed, "weight_decay": 0.1}
    groups = options.chosen(f"optimizer/{optimizer}", **changes)(model).param_groups
    marked = {f"mixer.{name}" for name in STATE_SPACE[model_name]}
    spared = {name for name in names(model, groups, decaying=False) if name.partition("mixer.")[1]}
    decaying = names(model, groups, decaying=True)
    assert {f"mixer.{name.partition('mixer.')[2]}" for name in spared} >= marked
    assert not any(name.endswith(tuple(marked)) for name in decaying)
    assert "embedding.weight" in decaying
    everything = names(model, groups, decaying=False) | decaying
    assert everything == {name for name, _ in model.named_parameters()}
    if decayed == "all":
        assert all(name.endswith(tuple(marked)) for name in names(model, groups, decaying=False))


def test_a_hybrid_spares_its_state_space_layers_only():
    model = build("hybrid")
    spared = names(model, parameter_groups(model, 0.1, "all"), decaying=False)
    marked = {name for name, parameter in model.named_parameters() if getattr(parameter, UNDECAYED, False)}
    assert spared == marked
    assert marked
    assert not any("query_key_value" in name for name in marked)


@pytest.mark.skipif(importlib.util.find_spec("mambapy") is None, reason="mambapy is not installed")
def test_mamba_spares_what_mambapy_spares():
    from mambapy.mamba import MambaBlock, MambaConfig

    theirs = MambaBlock(MambaConfig(d_model=16, n_layers=1))
    (decaying, spared) = parameter_groups(theirs, 0.1, "all")  # a layer of theirs is understood as it is
    assert names(theirs, [spared], decaying=False) == {"A_log", "D"}
    assert len(decaying["params"]) == len(list(theirs.parameters())) - 2
    same = {
        "A_log": "log_decay",
        "D": "skip",
        "dt_proj.bias": "step_projection.bias",
    }  # the last is 1-D: Mamba 2 marks it
    assert set(same.values()) == STATE_SPACE["mamba"]


def test_a_marked_matrix_that_muon_orthogonalizes_is_not_decayed():
    linear = nn.Linear(4, 4)
    linear.weight = undecayed(torch.ones(4, 4))
    assert [group["weight_decay"] for group in decay_groups([linear.weight], 0.1, "all")] == [0.0]
