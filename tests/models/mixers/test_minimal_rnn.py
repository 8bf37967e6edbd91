import pytest
import torch

from charlab.models.mixers.minimal_rnn import MinGRU, MinLSTM, log_positive
from tests.models.mixers.properties import (
    PRECISIONS,
    assert_all,
    assert_compiles,
    assert_equals,
    assert_initialization_leaves,
)
from tests.references.minimal_rnn import mix, positive

EMBED_DIM = 6


def make(constructor=MinGRU, expansion=1.5, conv_width=3):
    return constructor(EMBED_DIM, 64, expansion=expansion, conv_width=conv_width)


@PRECISIONS
@pytest.mark.parametrize("conv_width", [None, 1, 4])
@pytest.mark.parametrize("constructor", [MinGRU, MinLSTM])
def test_equals_the_sequential_loop(constructor, conv_width, dtype, tolerance):
    mixer = make(constructor, conv_width=conv_width)
    assert_equals(mix, mixer, embed_dim=EMBED_DIM, length=36, dtype=dtype, tolerance=tolerance)


@pytest.mark.parametrize("conv_width", [None, 3])
@pytest.mark.parametrize("constructor", [MinGRU, MinLSTM])
def test_is_a_causal_mixer_with_a_state(constructor, conv_width):
    assert_all(lambda: make(constructor, conv_width=conv_width), embed_dim=EMBED_DIM)


def test_a_model_wide_initialization_leaves_the_gates():
    assert_initialization_leaves(make(), "gates_and_candidate")


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # by torch.compile itself
def test_compiles():
    assert_compiles(make(), embed_dim=EMBED_DIM)


@pytest.mark.parametrize("constructor", [MinGRU, MinLSTM])
def test_shares_sum_to_one(constructor):
    gates = 30 * torch.randn(constructor.num_gates, 1000, dtype=torch.float64)
    log_kept, log_written = make(constructor).log_shares(*gates)
    torch.testing.assert_close(log_kept.exp() + log_written.exp(), torch.ones(1000, dtype=torch.float64))


def test_candidates_are_positive_and_continuous():
    x = torch.linspace(-20, 20, 401, dtype=torch.float64)
    torch.testing.assert_close(log_positive(x), positive(x).log())
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(log_positive(1e3 * x).sum(), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("constructor", [MinGRU, MinLSTM])
def test_survives_saturated_gates(constructor):
    mixer = make(constructor)
    x = 1e4 * torch.randn(2, 300, EMBED_DIM)
    x.requires_grad_()
    output = mixer(x)
    output.square().mean().backward()
    assert torch.isfinite(output).all()
    assert torch.isfinite(x.grad).all()


def test_hidden_state_has_the_asked_for_size():
    assert make(expansion=2).init_state(3).log_hidden.shape == (3, 12)
    assert make(conv_width=None).init_state(3).recent is None
