"""What must hold for every mixer with a state, whatever it computes."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from charlab.models.initialization import normal

LENGTHS = ([37], [1] * 5, [1, 36], [20, 17], [3, 1, 1, 32], [17, 16, 4])


class LargestTensor(TorchDispatchMode):
    """Of all tensors that are made in its context, backward passes included, the number of elements of the largest."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.untyped_storage().nbytes() // part.element_size())
        return result


def relative_difference(actual, expected):
    return ((actual - expected).abs().max() / (expected.abs().max() + 1e-30)).item()


def gradients(outputs, mixer, x):
    """Return the gradients of a fixed random function of the outputs, by name; those of x are called "input"."""
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).to(outputs)
    names, parameters = zip(*mixer.named_parameters(), strict=True)
    values = torch.autograd.grad((outputs * weights).sum(), [x, *parameters])
    return dict(zip(["input", *names], values, strict=True))


def assert_equals(reference, mixer, *, embed_dim, length, dtype, tolerance):
    """Outputs and all gradients equal those of `reference(mixer, x)`."""
    torch.manual_seed(0)
    mixer = mixer.to(dtype)
    x = torch.randn(2, length, embed_dim, dtype=dtype, requires_grad=True)
    actual, expected = mixer(x), reference(mixer, x)
    assert actual.shape == x.shape
    assert relative_difference(actual, expected) < tolerance
    expected_gradients = gradients(expected, mixer, x)
    for name, gradient in gradients(actual, mixer, x).items():
        assert relative_difference(gradient, expected_gradients[name]) < tolerance, name


def assert_extends(mixer, *, embed_dim, tolerance=1e-9):
    """Reading in pieces of any length gives what reading at once gives, gradients through the state included."""
    mixer = mixer.double()
    for lengths in LENGTHS:
        x = torch.randn(3, sum(lengths), embed_dim, dtype=torch.float64, requires_grad=True)
        state, pieces = mixer.init_state(3), []
        for piece in x.split(lengths, dim=1):
            output, state = mixer.extend(piece, state)
            pieces.append(output)
        actual, expected = torch.cat(pieces, dim=1), mixer(x)
        assert relative_difference(actual, expected) < tolerance, lengths
        expected_gradients = gradients(expected, mixer, x)
        for name, gradient in gradients(actual, mixer, x).items():
            assert relative_difference(gradient, expected_gradients[name]) < tolerance, (lengths, name)


def assert_keeps_old_states(mixer, *, embed_dim):
    """A state can be continued twice: reading on from it does not change it."""
    x = torch.randn(2, 9, embed_dim)
    _, state = mixer.extend(x[:, :4], mixer.init_state(2))
    first, _ = mixer.extend(x[:, 4:], state)
    second, _ = mixer.extend(x[:, 4:], state)
    assert torch.equal(first, second)


def assert_causal(mixer, *, embed_dim):
    """Changing later positions or another row changes nothing; changing an earlier position does."""
    mixer = mixer.double()
    x = torch.randn(2, 24, embed_dim, dtype=torch.float64)
    expected = mixer(x)
    for cut in (1, 7, 16, 23):
        changed = x.clone()
        changed[0, cut:] += torch.randn_like(changed[0, cut:])
        actual = mixer(changed)
        assert relative_difference(actual[0, :cut], expected[0, :cut]) < 1e-12
        assert relative_difference(actual[1], expected[1]) < 1e-12
        assert torch.all((actual[0, cut:] - expected[0, cut:]).abs().amax(dim=-1) > 1e-12)


def assert_initialization_leaves(mixer, kept):
    """An initialization of the whole model leaves the layer `kept`, and no other linear layer."""
    mixer.output_projections = list
    before = copy.deepcopy(mixer.state_dict())
    normal(mixer, std=0.02, scale_residual=False, zero_residual=False)
    for name, layer in mixer.named_modules():
        if isinstance(layer, nn.Linear):
            assert torch.equal(layer.weight, before[f"{name}.weight"]) == (name == kept), name


def assert_survives_autocast(mixer, *, embed_dim):
    """Half precision around the mixer leaves its recurrence in float32."""
    x = torch.randn(2, 50, embed_dim)
    expected = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        actual = mixer(x)
    assert relative_difference(actual.float(), expected) < 0.05
    actual.float().square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


def assert_all(make, *, embed_dim):
    torch.manual_seed(0)
    assert_extends(make(), embed_dim=embed_dim)
    assert_keeps_old_states(make(), embed_dim=embed_dim)
    assert_causal(make(), embed_dim=embed_dim)
    assert_survives_autocast(make(), embed_dim=embed_dim)
    assert_runs_without_numbers(make().to("meta"), embed_dim=embed_dim)


PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])


def assert_runs_without_numbers(mixer, *, embed_dim):
    """On "meta" tensors, which have a shape and no content: how operations are counted."""
    mixer(torch.empty(2, 40, embed_dim, device="meta")).sum().backward()


def assert_compiles(mixer, *, embed_dim):
    """What torch.compile makes of the mixer computes the same; in-place writes to views once went wrong there."""
    x = torch.randn(2, 6, embed_dim, requires_grad=True)
    expected, actual = mixer(x), torch.compile(mixer, backend="aot_eager")(x)
    assert relative_difference(actual, expected) < 1e-6
    expected_gradients = gradients(expected, mixer, x)
    for name, gradient in gradients(actual, mixer, x).items():
        assert relative_difference(gradient, expected_gradients[name]) < 1e-5, name
