"""Linear maps are torch's, whatever shape they are given and on however many cores."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from charlab.models.linear import FEW, Linear, StackedLinear


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Called(TorchDispatchMode):
    """Notes which operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("height", [6, 400, 401])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (4,), (2, 2), (5,), (0,)])
def test_gives_what_torch_gives(shape, height, bias):
    torch.manual_seed(0)
    linear, x = Linear(300, height, bias=bias), torch.randn(*shape, 300)
    expected = F.linear(x, linear.weight, linear.bias)
    with torch.no_grad():
        torch.testing.assert_close(linear(x), expected)
        torch.testing.assert_close(linear(x.expand(2, *x.shape)[1:]), expected[None])
    assert linear(x).requires_grad
    torch.testing.assert_close(linear(x), expected)


@pytest.mark.usefixtures("two_cores")
def test_precision_is_what_it_is_with_torch():
    x = torch.randn(2, 300)
    for linear in (Linear(300, 400), nn.Linear(300, 400)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert linear(x).dtype == torch.bfloat16


@pytest.mark.usefixtures("two_cores")
def test_all_cores_share_the_product_with_a_few_vectors_when_nothing_is_trained():
    large, small = Linear(300, 400), Linear(5, 6)
    called = {}
    for name, linear, rows in [
        ("vector", large, 1),
        ("few", large, FEW),
        ("many", large, FEW + 1),
        ("small", small, 1),
    ]:
        with torch.no_grad(), Called() as called[name]:
            linear(torch.randn(rows, linear.in_features))
    with Called() as called["in training"]:
        large(torch.randn(1, 300))
    shared = {name for name, operations in called.items() if "aten.bmm.default" in operations.names}
    assert shared == {"vector", "few"}


def test_stacked_maps_are_the_rows_of_one():
    linear, x = StackedLinear(3, [2, 4]), torch.randn(1, 3)
    first, second = linear.maps(x)
    torch.testing.assert_close(first, F.linear(x, linear.weight[:2], linear.bias[:2]))
    torch.testing.assert_close(second, F.linear(x, linear.weight[2:], linear.bias[2:]))
