"""Position encodings, which tell attention the order of its inputs.

An encoding acts either on the embeddings, before the first block (`Learned`, `Sinusoidal`), or on the attention
scores of every layer (`Rotary`, `ALiBi`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from charlab.errors import UserError
from charlab.types import PositiveFloat, PositiveInt, checked


class EmbeddingPosition(nn.Module, ABC):
    """An encoding that is added to the embeddings."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T D"], start: int) -> Float[Tensor, "B T D"]:
        """Return the embeddings of positions start … start + T − 1 with their positions added."""


class ScorePosition(nn.Module):
    """An encoding that acts on attention scores; the base class leaves them unchanged."""

    def prepare(self, num_heads: int, head_dim: int) -> None:
        """Prepare for attention of this shape; raise `UserError` if it cannot use the encoding."""

    def rotate(self, x: Float[Tensor, "B H T K"], start: int) -> Float[Tensor, "B H T K"]:
        """Return queries or keys of positions start … start + T − 1, rotated by their positions."""
        return x

    def bias(self, num_heads: int, queries: int, keys: int, device: torch.device) -> Float[Tensor, "H Q S"] | None:
        """Return what to add to the scores of the last `queries` of `keys` positions, or None."""
        return None


class Learned(EmbeddingPosition):
    """A learned vector for each of `context_length` positions.

    Args:
        embed_dim: size D of the embeddings.
        context_length: number of positions.
    """

    def __init__(self, embed_dim: PositiveInt, context_length: PositiveInt) -> None:
        super().__init__()
        self.table = nn.Embedding(context_length, embed_dim)

    def forward(self, x: Float[Tensor, "B T D"], start: int) -> Float[Tensor, "B T D"]:
        return x + self.table.weight[start : start + x.shape[1]]


class Sinusoidal(EmbeddingPosition):
    """Sines and cosines of geometrically growing wavelengths (Vaswani et al. 2017, section 3.5).

    Args:
        embed_dim: size D of the embeddings, even.
        context_length: number of positions.
        base: wavelengths range from 2π to almost 2π · base.
    """

    @checked
    def __init__(self, embed_dim: PositiveInt, context_length: PositiveInt, *, base: PositiveFloat) -> None:
        super().__init__()
        if embed_dim % 2:
            raise UserError(f"position=Sinusoidal needs an even embed_dim, not {embed_dim}: use {embed_dim + 1}.")
        self.table: Tensor
        cos, sin = _cos_and_sin(embed_dim, context_length, base)
        self.register_buffer("table", torch.stack([sin, cos], dim=-1).flatten(-2), persistent=False)  # (C, D)

    def forward(self, x: Float[Tensor, "B T D"], start: int) -> Float[Tensor, "B T D"]:
        return x + self.table[start : start + x.shape[1]].to(x.dtype)


class Rotary(ScorePosition):
    """Rotate each pair of query and key components by an angle proportional to the position.

    A score then depends only on the distance between the two positions (RoFormer, arXiv 2104.09864, equation 34). A
    pair is the components i and i + K/2, not 2i and 2i + 1 as there. The rotation is computed in float32 even under
    autocast, and rounded once, at the end. Only a model that is itself in half precision (trainer.precision=bf16-true)
    rounds the tables of cosines and sines as well.

    Args:
        embed_dim: size of the embeddings (unused: the rotation acts within a head).
        context_length: number of positions.
        base: wavelengths range from 2π to almost 2π · base.
    """

    @checked
    def __init__(self, embed_dim: PositiveInt, context_length: PositiveInt, *, base: PositiveFloat) -> None:
        super().__init__()
        self.context_length, self.base = context_length, base

    def prepare(self, num_heads: int, head_dim: int) -> None:
        if head_dim % 2:
            raise UserError(f"position=Rotary needs an even head_dim, not {head_dim}: change num_heads or embed_dim.")
        if not hasattr(self, f"cos_{head_dim}"):  # the table depends on the size of the heads
            cos, sin = _cos_and_sin(head_dim, self.context_length, self.base)
            self.register_buffer(f"cos_{head_dim}", cos, persistent=False)
            self.register_buffer(f"sin_{head_dim}", sin, persistent=False)

    def rotate(self, x: Float[Tensor, "B H T K"], start: int) -> Float[Tensor, "B H T K"]:
        head_dim, end = x.shape[3], start + x.shape[2]
        cos: Tensor = getattr(self, f"cos_{head_dim}")[start:end]  # (T, K/2)
        sin: Tensor = getattr(self, f"sin_{head_dim}")[start:end]
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class ALiBi(ScorePosition):
    """Lower each score in proportion to the distance, with a slope per head (arXiv 2108.12409, section 3).

    In bfloat16 the attention kernel needs biases in bfloat16, whose 8 significant bits distinguish 513 of 1,024
    distances. Distances up to 256 are exact if the number of heads is a power of 2.

    Args:
        embed_dim: size of the embeddings (unused).
        context_length: number of positions (unused).
    """

    def __init__(self, embed_dim: PositiveInt, context_length: PositiveInt) -> None:
        super().__init__()

    def bias(self, num_heads: int, queries: int, keys: int, device: torch.device) -> Float[Tensor, "H Q S"]:
        slopes = torch.exp2(-8.0 * torch.arange(1, num_heads + 1, device=device) / num_heads)  # (H,)
        positions = torch.arange(keys, device=device)
        distance = positions[keys - queries :, None] - positions[None, :]  # (Q, S)
        return -slopes[:, None, None] * distance.abs()


def _cos_and_sin(width: int, positions: int, base: float) -> tuple[Float[Tensor, "T W/2"], Float[Tensor, "T W/2"]]:
    """Return cos and sin of position / base^(2i/width), for each position and pair i of components.

    Computed in float64 and rounded at the end: an angle of thousands of radians has few digits left in float32.
    """
    frequencies = torch.exp(torch.arange(0, width, 2).double() * (-math.log(base) / width))
    angles = torch.arange(positions).double()[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()
