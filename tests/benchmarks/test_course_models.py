"""What the ladder's models are timed against is the same function with as many parameters."""

import pytest
import torch

from charlab.configuration.build import build
from charlab.configuration.compose import compose
from tests.references import course_models as reference

BLOCK = {
    "mixer.projection": "attention.projection",
    "mixer_norm": "attention_norm",
    "feed_forward_norm": "feed_forward_norm",
    "feed_forward.expand": "feed_forward.0",
    "feed_forward.contract": "feed_forward.2",
}


def copied(ours, prefix, mixer):
    """Return the weights of a mixer of ours, head by head."""
    weights = {f"{prefix}projection.{part}": mixer[f"projection.{part}"] for part in ("weight", "bias")}
    for part in ("query", "key", "value"):
        for head, weight in enumerate(mixer[f"{part}.weight"].chunk(reference.H)):
            weights[f"{prefix}heads.{head}.{part}.weight"] = weight
    return weights


def renamed(name, ours, num_layers):
    """Return tensors of ours, weights or their gradients, under the names that they have in the reference."""
    tensors = {"tokens.weight": ours["embedding.weight"], "positions.weight": ours["position.table.weight"]}
    tensors |= {f"readout.{part}": ours[f"readout.{part}"] for part in ("weight", "bias")}
    for layer in range(num_layers):
        mixer = {key.split("mixer.")[1]: value for key, value in ours.items() if f"blocks.{layer}.mixer." in key}
        if name == "multi_head":
            tensors |= copied(ours, "body.", mixer)
            continue
        tensors |= copied(ours, f"body.{layer}.attention.", mixer)
        for key, other in BLOCK.items():
            for part in ("weight", "bias"):
                tensors[f"body.{layer}.{other}.{part}"] = ours[f"blocks.{layer}.{key}.{part}"]
    if name == "transformer":
        tensors |= {f"body.2.{part}": ours[f"norm.{part}"] for part in ("weight", "bias")}
    return tensors


@pytest.mark.parametrize(("name", "parameters"), [("multi_head", 2_213_057), ("transformer", 19_636_289)])
def test_same_function_same_parameters(name, parameters, monkeypatch):
    theirs = getattr(reference, name)(65)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == parameters
    monkeypatch.setattr(reference, "D", 24)
    monkeypatch.setattr(reference, "LAYERS", 2)
    monkeypatch.setattr(reference, "T", 80)
    overrides = ["model.embed_dim=24", "data.context_length=80"]
    overrides += ["model.num_layers=2"] if name == "transformer" else []
    ours, theirs = build(compose([f"model={name}", *overrides]).model, 11), getattr(reference, name)(11)
    kept = {key: value for key, value in theirs.state_dict().items() if key.endswith("past")}
    theirs.load_state_dict({**kept, **renamed(name, ours.state_dict(), len(ours.blocks))})
    tokens = torch.randint(11, (2, 80))
    logits = ours(tokens), theirs(tokens)
    torch.testing.assert_close(*logits)
    probe = torch.randn_like(logits[0])
    for side in logits:
        (side * probe).sum().backward()
    gradients = {key: parameter.grad for key, parameter in ours.named_parameters()}
    expected = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    torch.testing.assert_close(renamed(name, gradients, len(ours.blocks)), expected, rtol=1e-4, atol=1e-4)


def test_it_trains(monkeypatch):
    for name, size in (("D", 24), ("T", 16), ("BATCH", 2)):
        monkeypatch.setattr(reference, name, size)
    text = "to be, or not to be: that is the question\n" * 20
    assert reference.train("multi_head", 2, text)["step_ms"] > 0
