"""Linear maps: of one vector on all cores, and several of the same input in one product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Linear):
    """torch's, except that all cores share the product with a single vector when nothing is trained.

    Drawing one text is such products and little else, and each is as fast as its weights can be read. torch leaves
    them to one core, which reads about half as fast as two.
    """

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        is_vector = x.numel() == self.in_features and x.device.type == "cpu" and not torch.is_grad_enabled()
        if not is_vector or self.out_features % (parts := torch.get_num_threads()):
            return super().forward(x)
        vector = x.view(1, 1, -1).expand(parts, -1, -1)
        rows = self.weight.view(parts, -1, self.in_features).mT
        y = torch.bmm(vector, rows) if self.bias is None else torch.baddbmm(self.bias.view(parts, 1, -1), vector, rows)
        return y.view(*x.shape[:-1], -1)


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
