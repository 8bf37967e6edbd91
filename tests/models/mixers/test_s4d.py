import math

import pytest
import torch

from charlab.errors import UserError
from charlab.models.mixers import s4d
from charlab.models.mixers.s4d import S4D
from tests.models.mixers.properties import (
    PRECISIONS,
    LargestTensor,
    assert_all,
    assert_compiles,
    assert_equals,
    assert_extends,
)
from tests.references.s4d import mix

EMBED_DIM = 5


def make(state_dim=8, frequencies="lin", min_step=0.01, max_step=0.5, embed_dim=EMBED_DIM):
    return S4D(embed_dim, 64, state_dim=state_dim, frequencies=frequencies, min_step=min_step, max_step=max_step)


@PRECISIONS
@pytest.mark.parametrize("length", [1, 2, 36, 37])
@pytest.mark.parametrize("frequencies", ["lin", "inv"])
def test_equals_the_recurrence(frequencies, length, dtype, tolerance):
    mixer = make(frequencies=frequencies)
    assert_equals(mix, mixer, embed_dim=EMBED_DIM, length=length, dtype=dtype, tolerance=tolerance)


def test_is_a_causal_mixer_with_a_state():
    assert_all(make, embed_dim=EMBED_DIM)


@pytest.mark.slow
@pytest.mark.thorough
def test_compiles():
    assert_compiles(make(), embed_dim=EMBED_DIM)


def test_extends_over_several_pieces(monkeypatch):
    monkeypatch.setattr(s4d, "_PIECE_LENGTH", 5)
    assert_extends(make(), embed_dim=EMBED_DIM)


def test_weights_in_half_precision_are_rounded_but_not_the_recurrence():
    torch.manual_seed(0)
    mixer, x = make().to(torch.bfloat16), torch.randn(2, 37, EMBED_DIM).to(torch.bfloat16)
    rounded = make()
    rounded.load_state_dict(mixer.state_dict())
    expected = rounded(x.float())
    output = mixer(x)
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.1)
    output.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in mixer.parameters())
    state, outputs = mixer.init_state(2), []
    for piece in x.split([1, 20, 16], dim=1):
        output, state = mixer.extend(piece, state)
        outputs.append(output)
    assert state.dtype == torch.complex64
    torch.testing.assert_close(torch.cat(outputs, dim=1).float(), expected, rtol=0.05, atol=0.1)


class TestMemory:
    """A tensor of all states has at least T·D·N/2 complex numbers."""

    embed_dim, state_dim, length = 4, 128, 4096

    def test_training_holds_no_states_at_all(self):
        mixer = make(embed_dim=self.embed_dim, state_dim=self.state_dim)
        with LargestTensor() as largest:
            mixer(torch.randn(1, self.length, self.embed_dim)).sum().backward()
        # The largest is a spectrum: of each channel, padded to twice the length, real and imaginary parts.
        assert largest.elements <= 2 * (4 * self.length * self.embed_dim)

    def test_reading_holds_the_states_of_a_piece(self):
        mixer = make(embed_dim=self.embed_dim, state_dim=self.state_dim)
        with LargestTensor() as largest:
            mixer.extend(torch.randn(1, self.length, self.embed_dim), mixer.init_state(1))[0].sum().backward()
        assert largest.elements <= 2 * (s4d._PIECE_LENGTH + 1) * self.embed_dim * self.state_dim


def test_kernel_is_the_sum_of_damped_oscillations():
    mixer = make().double()
    rates = torch.complex(-mixer.log_decay.exp(), mixer.frequency)  # (D, N/2)
    steps = mixer.log_step.exp()[:, None]
    factor = torch.view_as_complex(mixer.readout.detach()) * ((steps * rates).exp() - 1) / rates
    for length in (1, 2, 3, 24, 25, 26):
        powers = torch.exp((steps * rates)[..., None] * torch.arange(length))
        expected = 2 * (factor[..., None] * powers).sum(1).real
        torch.testing.assert_close(mixer._kernel(length), expected, rtol=1e-10, atol=1e-12)


def test_initial_rates_are_those_of_the_paper():
    lin, inv = make(state_dim=6), make(state_dim=6, frequencies="inv")
    assert lin.frequency[0].tolist() == pytest.approx([0, math.pi, 2 * math.pi])
    # (6/π)(6/(2n+1) − 1) for n = 0, 1, 2
    assert inv.frequency[0].tolist() == pytest.approx([30 / math.pi, 6 / math.pi, 1.2 / math.pi])
    assert torch.allclose(lin.log_decay.exp(), torch.tensor(0.5))


def test_initial_steps_are_log_uniform():
    torch.manual_seed(0)
    log_steps = make(embed_dim=4000, min_step=0.001, max_step=0.1).log_step
    assert math.log(0.001) <= log_steps.min() < math.log(0.00101)
    assert math.log(0.099) < log_steps.max() <= math.log(0.1001)
    assert log_steps.mean().item() == pytest.approx(math.log(0.01), abs=0.08)


def test_sizes_that_do_not_fit():
    with pytest.raises(UserError, match="state_dim=7"):
        make(state_dim=7)
    with pytest.raises(UserError, match="min_step=1"):
        make(min_step=1, max_step=0.5)
