"""Linear maps are torch's, whatever shape they are given and on however many cores."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from charlab.models.linear import Linear, StackedLinear


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
@pytest.mark.parametrize("rows", [6, 7])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 5), (2, 3, 5), (0, 5)])
def test_gives_what_torch_gives(shape, rows, bias):
    torch.manual_seed(0)
    linear, x = Linear(5, rows, bias=bias), torch.randn(shape)
    expected = F.linear(x, linear.weight, linear.bias)
    with torch.no_grad():
        torch.testing.assert_close(linear(x), expected)
    assert linear(x).requires_grad
    torch.testing.assert_close(linear(x), expected)


@pytest.mark.usefixtures("two_cores")
def test_all_cores_share_the_product_with_a_vector_when_nothing_is_trained():
    linear, x = Linear(5, 6), torch.randn(1, 1, 5)
    with torch.no_grad(), Called() as alone:
        linear(x)
    with torch.no_grad(), Called() as two_rows:
        linear(x.expand(1, 2, 5))
    with Called() as in_training:
        linear(x)
    assert "aten.baddbmm.default" in alone.names
    assert "aten.baddbmm.default" not in two_rows.names + in_training.names


def test_stacked_maps_are_the_rows_of_one():
    linear, x = StackedLinear(3, [2, 4]), torch.randn(1, 3)
    first, second = linear.maps(x)
    torch.testing.assert_close(first, F.linear(x, linear.weight[:2], linear.bias[:2]))
    torch.testing.assert_close(second, F.linear(x, linear.weight[2:], linear.bias[2:]))
