import math

import pytest
import torch
from mambapy.mamba import MambaBlock, MambaConfig

from charlab.errors import UserError
from charlab.models.mixers import selective_scan as module
from charlab.models.mixers.selective_scan import SelectiveScan, selective_scan
from tests.models.mixers.properties import (
    PRECISIONS,
    LargestTensor,
    assert_all,
    assert_compiles,
    assert_equals,
    assert_initialization_leaves,
    relative_difference,
)
from tests.references.selective_scan import mix, scan

EMBED_DIM = 6


def make(embed_dim=EMBED_DIM, state_dim=4, expansion=2, conv_width=3, step_rank=None, min_step=0.01, max_step=0.5):
    return SelectiveScan(
        embed_dim,
        64,
        state_dim=state_dim,
        expansion=expansion,
        conv_width=conv_width,
        step_rank=step_rank,
        min_step=min_step,
        max_step=max_step,
    )


@PRECISIONS
@pytest.mark.parametrize("length", [1, 16, 37])
def test_equals_the_recurrence(length, dtype, tolerance):
    assert_equals(mix, make(), embed_dim=EMBED_DIM, length=length, dtype=dtype, tolerance=tolerance)


def test_is_a_causal_mixer_with_a_state():
    assert_all(make, embed_dim=EMBED_DIM)


def test_a_model_wide_initialization_leaves_the_steps():
    assert_initialization_leaves(make(), "step_projection")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # by torch.compile itself
def test_compiles():
    assert_compiles(make(), embed_dim=EMBED_DIM)


@pytest.mark.parametrize("chunk_length", [1, 2, 5, 100])
def test_chunks_of_any_length_give_the_same(chunk_length, monkeypatch):
    monkeypatch.setattr(module, "_chunk_length", lambda u, rate: chunk_length)
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 11, 3, dtype=torch.float64),
        torch.rand(2, 11, 3, dtype=torch.float64),
        -torch.rand(4, 3, dtype=torch.float64),
        torch.randn(2, 11, 4, dtype=torch.float64),
        torch.randn(2, 11, 4, dtype=torch.float64),
        torch.randn(2, 4, 3, dtype=torch.float64),
    ]
    inputs = [part.requires_grad_() for part in inputs]
    results = []
    for function in (selective_scan, scan):
        outputs, last = function(*inputs)
        value = (outputs * torch.arange(outputs.numel()).view_as(outputs)).sum() + last.square().sum()
        results.append([outputs, last, *torch.autograd.grad(value, inputs)])
    for actual, expected in zip(*results, strict=True):
        assert relative_difference(actual, expected) < 1e-12


class TestMambapy:
    """Equality with a well-known implementation, given its weights."""

    @pytest.fixture
    def pair(self):
        torch.manual_seed(0)
        block = MambaBlock(MambaConfig(d_model=32, n_layers=1, d_state=8))
        mixer = make(embed_dim=32, state_dim=8, conv_width=4)
        weights = {
            "input_projection.weight": block.in_proj.weight,
            "convolution.convolution.weight": block.conv1d.weight,
            "convolution.convolution.bias": block.conv1d.bias,
            "selection.weight": block.x_proj.weight,
            "step_projection.weight": block.dt_proj.weight,
            "step_projection.bias": block.dt_proj.bias,
            "log_decay": block.A_log,
            "skip": block.D,
            "projection.weight": block.out_proj.weight,
        }
        mixer.load_state_dict(weights)
        return mixer, block, weights

    def test_forward_and_gradients(self, pair):
        mixer, block, weights = pair
        x = torch.randn(3, 64, 32)
        actual, expected = mixer(x), block(x)
        assert relative_difference(actual, expected) < 1e-5
        target = torch.randn_like(expected)
        (actual * target).sum().backward()
        (expected * target).sum().backward()
        assert len(weights) == len(list(mixer.parameters()))
        for name, parameter in mixer.named_parameters():
            assert relative_difference(parameter.grad, weights[name].grad) < 1e-4, name

    def test_step(self, pair):
        mixer, block, _ = pair
        x = torch.randn(3, 12, 32)
        state, cache = mixer.init_state(3), (None, torch.zeros(3, 64, 3))
        for t in range(12):
            actual, state = mixer.extend(x[:, t : t + 1], state)
            expected, cache = block.step(x[:, t], cache)
            assert relative_difference(actual[:, 0], expected) < 1e-5

    def test_initial_decays(self, pair):
        mixer, block, _ = pair
        torch.testing.assert_close(make(embed_dim=32, state_dim=8).log_decay, block.A_log)
        assert mixer.step_rank == block.config.dt_rank


class TestMemory:
    def test_saved_for_the_backward_pass(self):
        batch_size, length, embed_dim, state_dim = 2, 512, 8, 16
        mixer = make(embed_dim=embed_dim, state_dim=state_dim)
        saved = {}

        def pack(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        x = torch.randn(batch_size, length, embed_dim)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            mixer(x).sum().backward()
        numbers = sum(saved.values()) / 4
        channel_values = batch_size * length * mixer.channels
        assert numbers < 16 * channel_values + 10_000  # as many as a few layers without states would keep
        assert numbers < state_dim * channel_values  # fewer than the states are

    def test_no_tensor_holds_all_states(self):
        batch_size, embed_dim, state_dim = 2, 8, 16
        mixer = make(embed_dim=embed_dim, state_dim=state_dim)
        for length in (256, 1024):
            with LargestTensor() as largest:
                mixer(torch.randn(batch_size, length, embed_dim)).sum().backward()
            # Its input projection is the largest: two numbers per channel and position; or a chunk's three buffers.
            chunk = 3 * batch_size * 16 * mixer.channels * state_dim
            assert largest.elements <= max(2.1 * batch_size * length * mixer.channels, chunk)


def test_initial_steps_are_log_uniform():
    torch.manual_seed(0)
    mixer = make(embed_dim=2000, step_rank=1, min_step=0.001, max_step=0.1)
    steps = mixer.step_projection(torch.zeros(1, 1, 1)).log()
    assert math.log(0.00099) < steps.min() < math.log(0.00102)
    assert math.log(0.098) < steps.max() < math.log(0.1001)
    assert steps.mean().item() == pytest.approx(math.log(0.01), abs=0.08)


def test_steps_in_the_wrong_order():
    with pytest.raises(UserError, match="min_step=1"):
        make(min_step=1, max_step=0.5)
