"""The base class of mixers, the parts of a block through which positions exchange information."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from charlab.errors import UserError


class Mixer(nn.Module, ABC):
    """Maps (B, T, D) to (B, T, D). In an autoregressive model, the output at a position depends on no later position.

    The backbone builds a mixer as `mixer(embed_dim, context_length[, position])`; a configuration sets everything else
    (`_partial_: true`).

    Attributes:
        has_scores: whether the mixer compares positions pairwise, so that a position encoding can act on its scores.
        is_recurrent: whether its state has a fixed size, so that it can read a text of any length in one pass.
    """

    has_scores: bool = False
    is_recurrent: bool = False

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the mixed window."""

    @abstractmethod
    def init_state(self, batch_size: int) -> Any:
        """Return the state before the first position."""

    @abstractmethod
    def extend(self, x: Float[Tensor, "B n D"], state: Any) -> tuple[Float[Tensor, "B n D"], Any]:
        """Read n more positions; return their outputs, equal to those of `forward`, and the new state.

        The given state must not change.
        """


def check_divides(part: str, size: int, whole: str, total: int) -> None:
    """Raise `UserError` unless `size`, the parameter named `part`, divides `total`, the one named `whole`."""
    if total % size:
        divisors = [d for d in range(1, total + 1) if total % d == 0]
        near = [*[d for d in divisors if d < size][-1:], *[d for d in divisors if d > size][:1]]
        which = f"does is {near[0]}" if len(near) == 1 else f"do are {near[0]} and {near[1]}"
        raise UserError(f"{part}={size} does not divide {whole}={total}; the nearest that {which}.")
