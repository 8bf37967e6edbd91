"""Feed-forward layers, which act on each position separately."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.models.linear import Linear, StackedLinear
from charlab.types import PositiveFloat, PositiveInt, checked

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "relu_squared": lambda x: F.relu(x).square(),
}


class FeedForward(nn.Module):
    """D → expansion · D, a non-linearity, → D (Vaswani et al. 2017, section 3.3).

    Args:
        embed_dim: size D.
        expansion: width of the hidden layer, as a multiple of D.
        activation: "relu", "gelu" (arXiv 1606.08415; exact, not the tanh approximation) or "relu_squared"
            (Primer, arXiv 2109.08668).
        bias: whether the two linear maps have biases.
    """

    @checked
    def __init__(
        self,
        embed_dim: PositiveInt,
        *,
        expansion: PositiveFloat,
        activation: Literal["relu", "gelu", "relu_squared"],
        bias: bool,
    ) -> None:
        super().__init__()
        hidden_dim = max(1, round(expansion * embed_dim))
        self.expand = Linear(embed_dim, hidden_dim, bias=bias)
        self.contract = Linear(hidden_dim, embed_dim, bias=bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.contract(self.activation(self.expand(x)))

    def output_projection(self) -> nn.Linear:
        """Return the linear map that writes to the residual stream."""
        return self.contract


class SwiGLU(nn.Module):
    """A gated feed-forward layer: (SiLU(x·W) ⊙ x·V)·U (Shazeer, arXiv 2002.05202, equation 6).

    Args:
        embed_dim: size D.
        expansion: width of the hidden layer, as a multiple of D; 8/3 has as many weights as an ungated layer with 4.
        bias: whether the three linear maps have biases.
    """

    @checked
    def __init__(self, embed_dim: PositiveInt, *, expansion: PositiveFloat, bias: bool) -> None:
        super().__init__()
        hidden_dim = max(1, round(expansion * embed_dim))
        self.gate_and_value = StackedLinear(embed_dim, [hidden_dim, hidden_dim], bias=bias)
        self.contract = Linear(hidden_dim, embed_dim, bias=bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        gate, value = self.gate_and_value.maps(x)
        return self.contract(F.silu(gate) * value)

    def output_projection(self) -> nn.Linear:
        """Return the linear map that writes to the residual stream."""
        return self.contract
