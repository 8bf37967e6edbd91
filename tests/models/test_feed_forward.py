"""Feed-forward layers against their formulas."""

from functools import partial

import pytest
import torch

from charlab.errors import UserError
from charlab.models.feed_forward import FeedForward, SwiGLU
from tests.models.mixers.properties import PRECISIONS, assert_equals
from tests.references import feed_forward as reference

D = 6
WITH_AND_WITHOUT_BIAS = pytest.mark.parametrize("bias", [True, False])


def assert_has_weights(layer, shapes):
    """The layer's parameters have these shapes, as many biases among them as it was asked for."""
    assert [tuple(parameter.shape) for parameter in layer.parameters()] == shapes


@PRECISIONS
@WITH_AND_WITHOUT_BIAS
@pytest.mark.parametrize("activation", ["relu", "gelu", "relu_squared"])
def test_feed_forward_equals_its_formula(activation, bias, dtype, tolerance):
    torch.manual_seed(0)
    layer = FeedForward(D, expansion=2.5, activation=activation, bias=bias)
    assert_has_weights(layer, [(15, D), (15,), (D, 15), (D,)] if bias else [(15, D), (D, 15)])
    slow = partial(reference.feed_forward, activation=getattr(reference, activation))
    assert_equals(slow, layer, embed_dim=D, length=9, dtype=dtype, tolerance=tolerance)


@PRECISIONS
@WITH_AND_WITHOUT_BIAS
def test_swiglu_equals_its_formula(bias, dtype, tolerance):
    torch.manual_seed(0)
    layer = SwiGLU(D, expansion=2.6667, bias=bias)
    assert_has_weights(layer, [(32, D), (32,), (D, 16), (D,)] if bias else [(32, D), (D, 16)])
    assert_equals(reference.swiglu, layer, embed_dim=D, length=9, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize(
    "layer",
    [FeedForward(D, expansion=4, activation="gelu", bias=False), SwiGLU(D, expansion=4, bias=False)],
    ids=lambda layer: type(layer).__name__,
)
def test_each_position_is_worked_on_by_itself(layer):
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[0, 2] += 1.0
    moved = (layer(changed) - layer(x)).abs().amax(dim=-1) > 1e-6
    assert moved.nonzero().tolist() == [[0, 2]]


def test_an_unknown_activation_is_refused():
    with pytest.raises(UserError, match="activation of FeedForward must be one of 'relu', 'gelu', 'relu_squared'"):
        FeedForward(D, expansion=4, activation="tanh", bias=False)
