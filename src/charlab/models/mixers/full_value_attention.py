"""Attention in which each head's value is as wide as the embedding."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.linear import Linear, StackedLinear
from charlab.models.mixers.cache import Cache
from charlab.models.mixers.contract import Mixer, check_divides
from charlab.models.positions import ScorePosition
from charlab.types import PositiveInt, checked

QUERY_BLOCK = 64  # queries per product: few enough to skip most of the upper triangle, enough to be fast


class FullValueAttention(Mixer):
    """softmax(q·k/√K)·v per head with q, k: D → K and v: D → D; the heads are concatenated (H·D) and projected to D.

    Head h contributes Wₒʰ Wᵥʰ (Aʰ x): its value map and its slice of the projection act on the inputs averaged by its
    weights Aʰ. So their D × D product is formed once per call, and one product of (B·T, H·D) with (H·D, D) replaces
    two. The cache holds the inputs, which all heads share, instead of H wide values.

    Args:
        embed_dim: size D of the embeddings.
        context_length: maximum length of a sequence.
        position: an encoding that acts on the scores, or None.
        num_heads: number H of heads.
        head_dim: size K of queries and keys; None for D / H.
        projection: whether to project the concatenated heads, with bias; if not, H must be 1.
    """

    has_scores = True

    @checked
    def __init__(
        self,
        embed_dim: PositiveInt,
        context_length: PositiveInt,
        position: ScorePosition | None = None,
        *,
        num_heads: PositiveInt,
        head_dim: PositiveInt | None = None,
        projection: bool = True,
    ) -> None:
        super().__init__()
        if head_dim is None:
            check_divides("num_heads", num_heads, "embed_dim", embed_dim)
        if num_heads > 1 and not projection:
            raise UserError(
                f"projection=false leaves num_heads={num_heads} heads side by side, wider than the embedding: "
                f"set one to true or the other to 1."
            )
        self.context_length, self.num_heads = context_length, num_heads
        self.head_dim = head_dim or embed_dim // num_heads
        self.position = position if position is not None else ScorePosition()
        self.position.prepare(num_heads, self.head_dim)
        self.query = Linear(embed_dim, num_heads * self.head_dim, bias=False)
        self.key = Linear(embed_dim, num_heads * self.head_dim, bias=False)
        self.value = StackedLinear(embed_dim, [embed_dim] * num_heads, bias=False)
        self.projection = Linear(num_heads * embed_dim, embed_dim) if projection else None

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        # Contiguous, so that a block's heads form one batch without a copy.
        queries, keys = (self._split_heads(part(x), 0).contiguous() for part in (self.query, self.key))
        merged, outputs = self._merged_values(), []
        for start in range(0, x.shape[1], QUERY_BLOCK):  # no key after a block's last query is needed
            end = min(start + QUERY_BLOCK, x.shape[1])
            weights = self._weights(queries[:, :, start:end], keys[:, :, :end])
            outputs.append(self._combine(weights, x[:, :end], merged))
        return torch.cat(outputs, dim=1)

    def init_state(self, batch_size: int) -> Cache:
        weight = self.value.weight
        keys = weight.new_empty(batch_size, self.num_heads, self.context_length, self.head_dim)
        return Cache.of(keys, weight.new_empty(batch_size, self.context_length, weight.shape[1]))  # keys and inputs

    def extend(self, x: Float[Tensor, "B n D"], state: Cache) -> tuple[Float[Tensor, "B n D"], Cache]:
        state.check_room(x.shape[1])
        start = state.length
        state = state.append(self._split_heads(self.key(x), start), x)
        keys, inputs = state.read()
        weights = self._weights(self._split_heads(self.query(x), start), keys)
        if self.projection is None or x.shape[0] * x.shape[1] > x.shape[2]:
            mixed = self._combine(weights, inputs, self._merged_values())
        else:  # forming the D × D product costs as much as D rows
            mixed = self._combine_separately(weights, inputs)
        return mixed, state

    def attention_weights(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T T"]:
        """Return the weight that each query (third axis) gives to each key (fourth axis)."""
        return self._weights(self._split_heads(self.query(x), 0), self._split_heads(self.key(x), 0))

    def output_projection(self) -> nn.Linear:
        """Return the linear map that writes to the residual stream."""
        return self.value if self.projection is None else self.projection

    def _split_heads(self, x: Float[Tensor, "B T H*K"], start: int) -> Float[Tensor, "B H T K"]:
        return self.position.rotate(x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2), start)

    def _weights(self, queries: Float[Tensor, "B H Q K"], keys: Float[Tensor, "B H S K"]) -> Float[Tensor, "B H Q S"]:
        count, total = queries.shape[2], keys.shape[2]
        added = queries.new_full((count, total), -math.inf).triu(total - count + 1)  # (Q, S): masks later keys
        bias = self.position.bias(self.num_heads, count, total, queries.device)
        if bias is not None:
            added = (added + bias.to(added.dtype)).expand(*queries.shape[:2], -1, -1).flatten(0, 1)
        # Product, scale and mask in one call: each separate call would read and write all the scores.
        scores = torch.baddbmm(added, queries.flatten(0, 1), keys.flatten(0, 1).mT, alpha=self.head_dim**-0.5)
        return scores.softmax(dim=-1).unflatten(0, queries.shape[:2])

    def _merged_values(self) -> Float[Tensor, "D H*D"]:
        """Return Wₒʰ Wᵥʰ of all heads side by side."""
        if self.projection is None:
            return self.value.weight
        embed_dim = self.value.weight.shape[1]
        values = self.value.weight.view(self.num_heads, embed_dim, embed_dim)
        outputs = self.projection.weight.view(embed_dim, self.num_heads, embed_dim).transpose(0, 1)
        return (outputs @ values).transpose(0, 1).flatten(1)

    def _combine(
        self, weights: Float[Tensor, "B H Q S"], x: Float[Tensor, "B S D"], merged: Float[Tensor, "D H*D"]
    ) -> Float[Tensor, "B Q D"]:
        bias = self.projection.bias if self.projection is not None else None
        return F.linear(_average(weights, x).transpose(1, 2).flatten(2), merged, bias)

    def _combine_separately(
        self, weights: Float[Tensor, "B H Q S"], x: Float[Tensor, "B S D"]
    ) -> Float[Tensor, "B Q D"]:
        """Compute the same as `_combine`, applying first the values and then the projection."""
        assert self.projection is not None
        averaged = _average(weights, x).transpose(0, 1)  # (H, B, Q, D)
        values = self.value.weight.view(self.num_heads, x.shape[2], x.shape[2])
        heads = (averaged.flatten(1, 2) @ values.mT).view_as(averaged)
        return self.projection(heads.permute(1, 2, 0, 3).flatten(2))


def _average(weights: Float[Tensor, "B H Q S"], x: Float[Tensor, "B S D"]) -> Float[Tensor, "B H Q D"]:
    """Return the weighted average of the inputs for each head and query, in one product for all heads."""
    return (weights.flatten(1, 2) @ x).unflatten(1, weights.shape[1:3])
