import math

import pytest
import torch

from charlab.errors import UserError
from charlab.models.mixers import linear_attention
from charlab.models.mixers.linear_attention import LinearAttention, decaying_attention
from tests.models.mixers.properties import (
    PRECISIONS,
    LargestTensor,
    assert_all,
    assert_compiles,
    assert_equals,
    assert_initialization_leaves,
    relative_difference,
)
from tests.references.linear_attention import attend, mix

EMBED_DIM = 6


def make(decay="gated", num_heads=2):
    return LinearAttention(EMBED_DIM, 64, num_heads=num_heads, decay=decay)


@pytest.fixture(params=[1, 8, 64])
def chunk_length(request, monkeypatch):
    monkeypatch.setattr(linear_attention, "_CHUNK_LENGTH", request.param)


@PRECISIONS
@pytest.mark.parametrize("decay", ["gated", "fixed"])
@pytest.mark.usefixtures("chunk_length")
def test_equals_the_quadratic_form(decay, dtype, tolerance):
    assert_equals(mix, make(decay), embed_dim=EMBED_DIM, length=21, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("decay", ["gated", "fixed"])
def test_is_a_causal_mixer_with_a_state(decay):
    assert_all(lambda: make(decay), embed_dim=EMBED_DIM)


@pytest.mark.slow
@pytest.mark.thorough
def test_compiles():
    assert_compiles(make(), embed_dim=EMBED_DIM)


@pytest.mark.usefixtures("chunk_length")
def test_forgets_at_once_what_decays_at_once():
    """Decays of e^−1000 among ones near 1: nothing overflows, and only what follows them is remembered."""
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 1, 24, 4, dtype=torch.float64)
    log_decays = torch.full((1, 1, 24), -1e-3, dtype=torch.float64)
    log_decays[..., [5, 6, 17]] = -1000.0
    log_decays.requires_grad_()
    empty = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    actual, _ = decaying_attention(queries, keys, values, log_decays, empty)
    expected = attend(queries, keys, values, log_decays)
    assert relative_difference(actual, expected) < 1e-9
    rest = (part[:, :, 17:] for part in (queries, keys, values, log_decays))
    restarted, _ = decaying_attention(*rest, empty)
    assert relative_difference(actual[:, :, 17:], restarted) < 1e-9
    (gradient,) = torch.autograd.grad(actual.square().sum(), log_decays)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("length", [512, 2048])
def test_no_tensor_holds_the_weights_of_all_pairs_of_positions(length):
    mixer = make()
    with LargestTensor() as largest:
        mixer(torch.randn(1, length, EMBED_DIM)).sum().backward()
    # The largest are the queries, keys, values and gates of all positions, which the backward pass may hold twice.
    assert largest.elements <= 2 * (4 * length * EMBED_DIM)


def test_gated_decays_start_at_the_fixed_ones():
    gated, fixed = make("gated", num_heads=3), make("fixed", num_heads=3)
    decays = torch.tensor([31 / 32, 63 / 64, 127 / 128])
    assert torch.equal(1 - fixed.forgotten, decays)
    torch.testing.assert_close(gated.decay_gate(torch.zeros(1, 1, EMBED_DIM))[0, 0].exp(), decays)


@pytest.mark.parametrize("num_heads", [21, 32, 64, 1024])
def test_any_number_of_heads_starts_with_decays_that_are_numbers_below_1(num_heads):
    gated, fixed = (LinearAttention(num_heads, 64, num_heads=num_heads, decay=decay) for decay in ("gated", "fixed"))
    expected = torch.tensor([math.log1p(-(2.0 ** -(5 + head))) for head in range(min(num_heads, 100))])
    torch.testing.assert_close(torch.log1p(-fixed.forgotten)[:100], expected, rtol=1e-6, atol=0)
    assert (fixed.forgotten > 0).all()
    assert gated.decay_gate.bias.isfinite().all()
    started = gated.decay_gate(torch.zeros(1, 1, num_heads))[0, 0]
    torch.testing.assert_close(started[:100], expected, rtol=1e-4, atol=0)
    assert gated(torch.randn(1, 9, num_heads)).isfinite().all()


def test_a_model_wide_initialization_leaves_the_decays():
    assert_initialization_leaves(make(), "decay_gate")


def test_heads_that_do_not_divide_the_embedding():
    with pytest.raises(UserError, match="num_heads=4 does not divide embed_dim=6"):
        make(num_heads=4)
