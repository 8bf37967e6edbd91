"""Linear layers: one that is fast for a few vectors, and one that stacks several maps of the same input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

FEW = 4  # largest number of vectors; for eight, torch's own product is as fast
LARGE = 2**16  # weights above which to split; smaller matrices fit a core's cache, where torch's own product is faster
HAS_MKL = torch.backends.mkl.is_available()  # the only BLAS library that was measured


class Linear(nn.Linear):
    """`nn.Linear` that splits the product with a few vectors among all cores, outside training.

    Generation spends nearly all its time in such products, and reading the weights limits their speed. MKL uses one
    core for a single vector, and copies the weights for a few more. A batch of one product per core reads the weights
    once and in order (docs/archive/performance-2026-11-30.md).
    """

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        if (
            torch.is_grad_enabled()
            or x.numel() > FEW * self.in_features
            or self.in_features * self.out_features <= LARGE
            or not HAS_MKL
            or x.device.type != "cpu"
            or torch.is_autocast_enabled("cpu")  # which would convert the weights at each call
            or self.out_features % (parts := torch.get_num_threads())
        ):
            return super().forward(x)
        columns = x.reshape(-1, self.in_features).t().expand(parts, -1, -1)  # (parts, D, n)
        y = torch.bmm(self.weight.view(parts, -1, self.in_features), columns)  # (parts, E/parts, n)
        y = y.permute(2, 0, 1).reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class StackedLinear(Linear):
    """Several linear maps of the same input, stacked in one matrix so that one product computes them all.

    Muon uses `heights` to orthogonalize each map separately.

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
        """Return the output of each map."""
        return self(x).split(self.heights, dim=-1)
