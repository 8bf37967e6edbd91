"""Position encodings that are added to the embeddings, against their definitions."""

import cmath

import pytest
import torch

from charlab.errors import UserError
from charlab.models.positions import ALiBi, Learned, Rotary, Sinusoidal
from tests.references import positions as reference

B, D, CONTEXT_LENGTH = 2, 6, 16
PIECES = pytest.mark.parametrize(("start", "length"), [(0, CONTEXT_LENGTH), (0, 3), (5, 4), (CONTEXT_LENGTH - 1, 1)])


def make_input(length):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, length, D, dtype=torch.double, generator=generator, requires_grad=True)


def make_learned():
    torch.manual_seed(0)
    return Learned(D, CONTEXT_LENGTH).double()


@PIECES
@pytest.mark.parametrize("base", [10_000.0, 100.0])
def test_sinusoidal_equals_the_double_loop(base, start, length):
    x = make_input(length)
    table = reference.sinusoidal(CONTEXT_LENGTH, D, base)
    actual = Sinusoidal(D, CONTEXT_LENGTH, base=base).double()(x, start)
    expected = x + table[start : start + length]
    torch.testing.assert_close(actual, expected, rtol=0, atol=6e-8)  # the table is kept in float32


def test_sinusoidal_is_exact_at_distant_positions():
    table = reference.sinusoidal(4096, 8, 10_000.0)
    actual = Sinusoidal(8, 4096, base=10_000.0)(torch.zeros(1, 4096, 8), 0)
    torch.testing.assert_close(actual[0].double(), table, rtol=0, atol=6e-8)


def rotated(x, position, base=10_000.0):
    """Each pair of components as a complex number, times exp(i · angle), in Python's float64."""
    half = len(x) // 2
    pairs = [complex(x[i], x[i + half]) * cmath.exp(1j * position / base ** (i / half)) for i in range(half)]
    return [pair.real for pair in pairs] + [pair.imag for pair in pairs]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 3e-7), (torch.bfloat16, 2e-2)])
def test_rotary_is_exact_at_distant_positions(dtype, tolerance):
    encoding = Rotary(8, 4096, base=10_000.0)
    encoding.prepare(1, 8)
    x = torch.randn(1, 1, 3, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = torch.tensor([rotated(x[0, 0, i].tolist(), 4093 + i) for i in range(3)], dtype=torch.float64)
    actual = encoding.rotate(x, 4093)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual[0, 0].double(), expected, rtol=0, atol=tolerance)


def test_alibi_in_half_precision_tells_as_many_distances_apart_as_it_says():
    bias = ALiBi(8, 1024).bias(2, 1, 1024, torch.device("cpu"))[0, 0]
    assert len(bias.unique()) == 1024
    assert len(bias.bfloat16().unique()) == 513
    assert "distinguish 513 of 1,024 distances" in " ".join(ALiBi.__doc__.split())


@PIECES
def test_learned_adds_the_rows_of_its_positions(start, length):
    x, encoding = make_input(length), make_learned()
    expected = torch.stack([x[:, t] + encoding.table.weight[start + t] for t in range(length)], dim=1)
    torch.testing.assert_close(encoding(x, start), expected, rtol=0, atol=0)


@PIECES
def test_gradients_reach_the_rows_of_these_positions_and_no_others(start, length):
    x, encoding = make_input(length), make_learned()
    probe = torch.randn_like(x)
    (encoding(x, start) * probe).sum().backward()
    expected = torch.zeros(CONTEXT_LENGTH, D, dtype=torch.double)
    expected[start : start + length] = probe.sum(dim=0)
    torch.testing.assert_close(encoding.table.weight.grad, expected)
    torch.testing.assert_close(x.grad, probe, rtol=0, atol=0)


@PIECES
def test_sinusoidal_has_nothing_to_learn_or_save_and_passes_gradients_on(start, length):
    x, encoding = make_input(length), Sinusoidal(D, CONTEXT_LENGTH, base=100.0).double()
    assert not list(encoding.parameters())
    assert not encoding.state_dict()
    probe = torch.randn_like(x)
    (encoding(x, start) * probe).sum().backward()
    torch.testing.assert_close(x.grad, probe, rtol=0, atol=0)


@pytest.mark.parametrize("make", [make_learned, lambda: Sinusoidal(D, CONTEXT_LENGTH, base=100.0).double()])
def test_the_input_stays_as_it_is_and_every_row_gets_the_same(make):
    x, encoding = make_input(4).detach(), make()
    before = x.clone()
    added = encoding(x, 3) - x
    assert torch.equal(x, before)
    torch.testing.assert_close(added[0], added[1])
    assert added.std(dim=1).max() > 0.01  # not the same at all positions


def test_sinusoidal_needs_an_even_size():
    with pytest.raises(UserError, match="needs an even embed_dim, not 5: use 6"):
        Sinusoidal(5, CONTEXT_LENGTH, base=100.0)
