"""Linear maps are torch's, whatever shape they are given and on however many cores."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from charlab.models.linear import FEW, HAS_MKL, Linear, StackedLinear


@pytest.fixture
def two_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Products(TorchDispatchMode):
    """Note the shapes that batches of products have."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.bmm.default:
            self.shapes += [(*args[0].shape, args[1].shape[-1])]
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
    assert linear(x).requires_grad
    torch.testing.assert_close(linear(x), expected)


@pytest.mark.usefixtures("two_cores")
def test_neither_input_nor_weights_need_be_contiguous():
    torch.manual_seed(0)
    linear, x = Linear(300, 400), torch.randn(300, 3).t()
    linear.weight = nn.Parameter(linear.weight.t().contiguous().t())
    with torch.no_grad():
        torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias))


@pytest.mark.usefixtures("two_cores")
def test_in_mixed_precision_it_is_torchs():
    torch.manual_seed(0)
    linear, x = Linear(300, 400), torch.randn(2, 300)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(linear(x), F.linear(x, linear.weight, linear.bias), rtol=0, atol=0)


@pytest.mark.skipif(not HAS_MKL, reason="without MKL all products are torch's")
@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("linear", "rows", "expected"),
    [
        (Linear(300, 400), 1, [(2, 200, 300, 1)]),
        (Linear(300, 400), FEW, [(2, 200, 300, FEW)]),
        (Linear(300, 400), FEW + 1, []),
        (Linear(256, 256), 1, []),
        (Linear(256, 258), 1, [(2, 129, 256, 1)]),
    ],
)
def test_both_cores_share_the_product_of_a_few_vectors_with_large_weights(linear, rows, expected):
    x = torch.randn(rows, linear.in_features)
    with torch.no_grad(), Products() as products:
        linear(x)
    assert products.shapes == expected
    with Products() as products:
        linear(x)
    assert products.shapes == []  # when it is trained


def test_stacked_maps_are_the_rows_of_one():
    linear, x = StackedLinear(3, [2, 4]), torch.randn(1, 3)
    first, second = linear.maps(x)
    torch.testing.assert_close(first, F.linear(x, linear.weight[:2], linear.bias[:2]))
    torch.testing.assert_close(second, F.linear(x, linear.weight[2:], linear.bias[2:]))
