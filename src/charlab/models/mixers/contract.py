"""What a mixer is: the part of a block through which positions exchange information."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class Mixer(nn.Module, ABC):
    """Maps (B, T, D) to (B, T, D); the output at a position depends on no later position.

    A mixer is built as `mixer(embed_dim, context_length=…, position=…)` by the backbone, which knows these; a
    configuration gives everything else and leaves these three open (`_partial_: true`).

    Attributes:
        has_scores: whether the mixer compares positions pairwise, so that a position encoding can act on it.
        is_recurrent: whether its state has the same size however much it has read, so that a text of any length can
            be read in one pass.
    """

    has_scores: bool = False
    is_recurrent: bool = False

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Mixes a whole window."""

    @abstractmethod
    def init_state(self, batch_size: int) -> Any:
        """Returns the state before the first position."""

    @abstractmethod
    def extend(self, x: Float[Tensor, "B n D"], state: Any) -> tuple[Float[Tensor, "B n D"], Any]:
        """Reads n more positions; returns their outputs, equal to those of `forward`, and the new state."""
