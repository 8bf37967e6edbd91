"""Blockwise attention: bidirectional within a block, and to all earlier blocks."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from charlab.models.mixers.attention import Attention
from charlab.models.positions import ScorePosition
from charlab.types import PositiveInt, Probability, checked


class BlockwiseAttention(Attention):
    """Attention in which a position attends to its own block and to all earlier ones.

    The first position is a block of its own. The others have `block_size` positions each; the last may be shorter.
    `forward` reads a window, or a whole window of C positions followed by noisy copies of its last C − 1. A noisy
    position attends to the noisy ones of its own block and to the window's earlier blocks (Block Diffusion, arXiv
    2503.09573, section 3.2 and appendix B.6), so that one pass denoises every block given all earlier ones.

    `extend` reads a whole block at a time.

    Args:
        embed_dim: size D of the embeddings.
        context_length: the length C of a window.
        position: an encoding that acts on the scores, or None.
        num_heads: number H of heads.
        block_size: positions in a block.
        bias: whether the projections have biases.
        query_key_norm: whether queries and keys are normalized to root mean square 1.
        dropout: probability of zeroing an attention weight in training.
    """

    @checked
    def __init__(
        self,
        embed_dim: PositiveInt,
        context_length: PositiveInt,
        position: ScorePosition | None = None,
        *,
        num_heads: PositiveInt,
        block_size: PositiveInt,
        bias: bool = False,
        query_key_norm: bool = False,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            context_length,
            position,
            num_heads=num_heads,
            bias=bias,
            query_key_norm=query_key_norm,
            dropout=dropout,
            causal=False,
        )
        self.block_size = block_size

    def _project(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        window = self.context_length
        if x.shape[1] <= window:
            return super()._project(x, start)
        parts = super()._project(x[:, :window], 0), super()._project(x[:, window:], 1)
        queries, keys, values = (torch.cat(halves, dim=2) for halves in zip(*parts, strict=True))
        return queries, keys, values

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Float[Tensor, "B H Q K"]:
        count, total = queries.shape[2], keys.shape[2]
        mask = self._mask(count, total, queries.device)
        bias = self._bias(count, total, queries.device)
        if bias is not None:
            mask = bias.to(queries.dtype).masked_fill(~mask, -math.inf)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)

    def _bias(self, queries: int, keys: int, device: torch.device) -> Float[Tensor, "H Q S"] | None:
        if queries <= self.context_length:
            return self.position.bias(self.num_heads, queries, keys, device)
        window = self.position.bias(self.num_heads, self.context_length, self.context_length, device)
        place = torch.cat([torch.arange(self.context_length), torch.arange(1, self.context_length)]).to(device)
        return None if window is None else window[:, place][:, :, place]

    def _mask(self, queries: int, keys: int, device: torch.device) -> Bool[Tensor, "Q S"]:
        if queries < keys:  # a block that follows the others
            return torch.ones(queries, keys, dtype=torch.bool, device=device)
        block = blocks(min(keys, self.context_length), self.block_size, device)
        seen = block[:, None] >= block  # (C, C): row = position, column = what it sees
        if keys <= self.context_length:
            return seen
        noisy = block[1:]
        upper = torch.cat([seen, torch.zeros(len(block), len(noisy), dtype=torch.bool, device=device)], dim=1)
        lower = torch.cat([noisy[:, None] > block, noisy[:, None] == noisy], dim=1)
        return torch.cat([upper, lower])


def blocks(length: int, block_size: int, device: torch.device | str = "cpu") -> Int[Tensor, " S"]:
    """Return the number of each position's block: 0 for the first position alone, then 1, …, 1, 2, …."""
    return (torch.arange(length, device=device) + block_size - 1) // block_size
