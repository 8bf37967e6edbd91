"""Linear maps that are computed together."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class StackedLinear(nn.Linear):
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
