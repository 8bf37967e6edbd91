import math

import pytest
import torch

from charlab.models import scan
from charlab.models.mixers.minimal_rnn import log_positive
from charlab.models.scan import linear_recurrence, log_linear_recurrence, solve_
from tests.references.scan import recurrence


def relative_difference(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(params=[1, 2**40], ids=["sequential", "in segments"])
def worthwhile(request, monkeypatch):
    monkeypatch.setattr(scan, "_WORTHWHILE_ON_CPU", request.param)


def random_problem(length, dtype=torch.float64, state=(3, 2)):
    generator = torch.Generator().manual_seed(length)
    coefficients = torch.rand(2, length, *state, generator=generator, dtype=dtype)
    inputs = torch.rand(2, length, *state, generator=generator, dtype=dtype)
    initial = torch.rand(2, *state, generator=generator, dtype=dtype)
    return [part.requires_grad_() for part in (coefficients, inputs, initial)]


@pytest.mark.parametrize("length", [1, 2, 7, 12, 64, 90])
@pytest.mark.usefixtures("worthwhile")
class TestEqualsTheLoop:
    def test_linear(self, length):
        problem = random_problem(length)
        problem[0] = (3 * problem[0] - 1.5).detach().requires_grad_()  # negative and expanding ones among them
        self.compare(linear_recurrence, recurrence, problem)

    def test_logarithmic(self, length):
        def loop(*parts):
            return recurrence(*(part.exp() for part in parts)).log()

        logs = [part.detach().log().requires_grad_() for part in random_problem(length)]
        self.compare(log_linear_recurrence, loop, logs)

    def test_from_the_end(self, length):
        coefficients, inputs, initial = (part.detach() for part in random_problem(length))
        expected = recurrence(coefficients.flip(1), inputs.flip(1), initial).flip(1)
        actual = solve_(coefficients, inputs, initial, reverse=True)
        assert actual.data_ptr() == inputs.data_ptr()
        assert relative_difference(actual, expected) < 1e-12

    def compare(self, fast, slow, problem):
        actual, expected = fast(*problem), slow(*problem)
        assert relative_difference(actual, expected) < 1e-12
        weights = torch.randn_like(expected)
        fast_gradients = torch.autograd.grad((actual * weights).sum(), problem)
        slow_gradients = torch.autograd.grad((expected * weights).sum(), problem)
        for fast_gradient, slow_gradient in zip(fast_gradients, slow_gradients, strict=True):
            assert relative_difference(fast_gradient, slow_gradient) < 1e-12


def test_segments_divide_the_length_and_are_used(monkeypatch):
    assert scan._count_segments(torch.empty(16, 256, 128)) == 8
    assert scan._count_segments(torch.empty(16, 256, 4096)) == 1
    monkeypatch.setattr(scan, "_WORTHWHILE_ON_CPU", 2**40)
    assert scan._count_segments(torch.empty(1, 90, 1)) == 9
    assert scan._count_segments(torch.empty(1, 97, 1)) == 1


def test_inputs_stay_as_they_are():
    problem = random_problem(16)
    before = [part.detach().clone() for part in problem]
    linear_recurrence(*problem).sum().backward()
    assert all(torch.equal(part, copy) for part, copy in zip(problem, before, strict=True))


def test_logarithms_stay_exact_over_thousands_of_steps():
    torch.manual_seed(0)
    gate, candidate = 4 * torch.randn(2, 4096, 8), torch.randn(2, 4096, 8)
    log_kept = torch.nn.functional.logsigmoid(-gate)
    log_inputs = torch.nn.functional.logsigmoid(gate) + log_positive(candidate)
    initial = torch.full((2, 8), -math.inf)
    exact = log_linear_recurrence(log_kept.double(), log_inputs.double(), initial.double())
    assert relative_difference(log_linear_recurrence(log_kept, log_inputs, initial).exp(), exact.exp()) < 2e-6
    assert (log_linear_recurrence(log_kept, log_inputs, initial) - exact).abs().max() < 2e-6


def test_logarithms_survive_what_underflows():
    log_kept = torch.tensor([-1e-9, -500.0, -1e-9, -80.0, -1e4, -1e-9]).view(1, 6, 1).requires_grad_()
    log_inputs = torch.tensor([-500.0, -1e-9, -1e4, -400.0, -300.0, -700.0]).view(1, 6, 1).requires_grad_()
    log_states = log_linear_recurrence(log_kept, log_inputs, torch.full((1, 1), -math.inf))
    assert torch.isfinite(log_states).all()
    log_states.sum().backward()
    assert torch.isfinite(log_kept.grad).all()
    assert torch.isfinite(log_inputs.grad).all()
    assert log_states[0, -1].item() == pytest.approx(-300.0)
