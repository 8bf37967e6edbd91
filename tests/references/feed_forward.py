"""Feed-forward layers written from their formulas, the activations without torch's own."""

import math

import torch


def relu(x):
    return torch.where(x > 0, x, 0.0)


def gelu(x):
    """x · Φ(x), with Φ the distribution function of N(0, 1) (arXiv 1606.08415, section 2)."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def relu_squared(x):
    return torch.where(x > 0, x * x, 0.0)


def silu(x):
    return x / (1 + torch.exp(-x))


def feed_forward(layer, x, activation):
    hidden = x @ layer.expand.weight.T + (0.0 if layer.expand.bias is None else layer.expand.bias)
    return activation(hidden) @ layer.contract.weight.T + (0.0 if layer.contract.bias is None else layer.contract.bias)


def swiglu(layer, x):
    """(SiLU(x·W) ⊙ x·V)·U (arXiv 2002.05202, equation 6); the rows of W come before those of V."""
    gate_and_value = layer.gate_and_value
    (w, v), (b, c) = gate_and_value.weight.chunk(2), (0.0, 0.0)
    if gate_and_value.bias is not None:
        b, c = gate_and_value.bias.chunk(2)
    hidden = silu(x @ w.T + b) * (x @ v.T + c)
    return hidden @ layer.contract.weight.T + (0.0 if layer.contract.bias is None else layer.contract.bias)
