"""Linear maps: of a few vectors as fast as the weights can be read, and several of the same input in one product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

FEW = 4  # at most so many vectors: with eight, torch's own product is as fast again
LARGE = 2**16  # more weights than so many: up to there a core's cache holds them, and torch's own product is faster
HAS_MKL = torch.backends.mkl.is_available()  # measured with no other library


class Linear(nn.Linear):
    """torch's, except that all cores share the product with a few vectors when nothing is trained.

    Drawing a text is such products and little else, and each is as fast as its weights can be read. MKL leaves that
    with one vector to one core, and copies the weights into another order for those with a few more. As a batch of
    products with columns, one for each core, they are read in the order in which they lie (docs/performance.md).
    """

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        if (
            torch.is_grad_enabled()
            or x.numel() > FEW * self.in_features
            or self.in_features * self.out_features <= LARGE
            or not HAS_MKL
            or x.device.type != "cpu"
            or torch.is_autocast_enabled("cpu")  # which would convert these views of the weights at each call
            or self.out_features % (parts := torch.get_num_threads())
        ):
            return super().forward(x)
        columns = x.reshape(-1, self.in_features).t().expand(parts, -1, -1)  # (parts, D, n)
        y = torch.bmm(self.weight.view(parts, -1, self.in_features), columns)  # (parts, E/parts, n)
        y = y.permute(2, 0, 1).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class StackedLinear(Linear):
    """Several linear maps of the same input, stacked in one matrix so that one product computes them all.

    What looks at matrices one by one (an optimizer that orthogonalizes them) finds their heights here.

    Args:
        in_features: size of the input.
        heights: size of each map's output.
        bias: whether there are biases.

    Attributes:
        heights: rows of each map in `weight`, from the top.
    """

    def __init__(self, in_features: int, heights: Sequence[int], *, bias: bool = True) -> None:
        super().__init__(in_features, sum(heights), bias=bias)
        self.heights = tuple(heights)

    def maps(self, x: Float[Tensor, "... D"]) -> tuple[Tensor, ...]:
        """Returns the output of each map."""
        return self(x).split(self.heights, dim=-1)
