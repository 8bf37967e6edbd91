"""Causal self-attention (Vaswani et al. 2017) and its common variants."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.models.linear import Linear, StackedLinear
from charlab.models.mixers.cache import Cache
from charlab.models.mixers.contract import Mixer, check_divides
from charlab.models.positions import ScorePosition
from charlab.types import PositiveFloat, PositiveInt, Probability, checked


class Attention(Mixer):
    """softmax(q·k/√K)·v per head; the heads are concatenated and projected to D.

    Args:
        embed_dim: size D of the embeddings.
        context_length: maximum length of a sequence.
        position: an encoding that acts on the scores, or None.
        num_heads: number H of heads.
        num_key_value_heads: number H' of heads of keys and values, each shared by H / H' query heads (grouped-query
            attention, arXiv 2305.13245; 1 is multi-query attention); None for H.
        head_dim: size K of a head; None for D / H.
        bias: whether the projections have biases.
        query_key_norm: whether queries and keys are normalized to root mean square 1 (arXiv 2302.05442).
        attention_window: how many positions, including its own, a query looks at; None for all.
        soft_cap: tanh limits scores to ±soft_cap (Gemma 2, arXiv 2408.00118); None for no cap.
        softmax_axis: "keys" is attention. "queries" normalizes over the wrong axis: each weight then depends on later
            queries, so the model sees the future in spite of its causal mask.
        dropout: probability of zeroing an attention weight in training.
        causal: whether later positions are masked.
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
        num_key_value_heads: PositiveInt | None = None,
        head_dim: PositiveInt | None = None,
        bias: bool = False,
        query_key_norm: bool = False,
        attention_window: PositiveInt | None = None,
        soft_cap: PositiveFloat | None = None,
        softmax_axis: Literal["keys", "queries"] = "keys",
        dropout: Probability = 0.0,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if head_dim is None:
            check_divides("num_heads", num_heads, "embed_dim", embed_dim)
        num_key_value_heads = num_key_value_heads or num_heads
        check_divides("num_key_value_heads", num_key_value_heads, "num_heads", num_heads)
        self.context_length, self.causal = context_length, causal
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads
        self.head_dim = head_dim or embed_dim // num_heads
        self.attention_window, self.soft_cap, self.softmax_axis = attention_window, soft_cap, softmax_axis
        self.dropout, self.query_key_norm = dropout, query_key_norm
        self.position = position if position is not None else ScorePosition()
        self.position.prepare(num_heads, self.head_dim)
        width, shared_width = num_heads * self.head_dim, num_key_value_heads * self.head_dim
        self.query_key_value = StackedLinear(embed_dim, [width, shared_width, shared_width], bias=bias)
        self.projection = Linear(width, embed_dim, bias=bias)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        queries, keys, values = self._project(x, start=0)
        return self._merge_heads(self._attend(queries, keys, values))

    def init_state(self, batch_size: int) -> Cache:
        weight = self.projection.weight
        shape = (batch_size, self.num_key_value_heads, self.context_length, self.head_dim)
        return Cache.of(weight.new_empty(shape), weight.new_empty(shape))  # keys and values

    def extend(self, x: Float[Tensor, "B n D"], state: Cache) -> tuple[Float[Tensor, "B n D"], Cache]:
        state.check_room(x.shape[1])
        queries, keys, values = self._project(x, state.length)
        state = state.append(keys, values)
        keys, values = state.read()
        return self._merge_heads(self._attend(queries, keys, values)), state

    def attention_weights(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T T"]:
        """Return the weight that each query (third axis) gives to each key (fourth axis)."""
        queries, keys, _ = self._project(x, start=0)
        return self._weights(queries, self._repeat(keys))

    def output_projection(self) -> nn.Linear:
        """Return the linear map that writes to the residual stream."""
        return self.projection

    def _project(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, K), keys and values (B, H', T, K) of positions start … start + T − 1."""
        heads = self.query_key_value(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H+2H', T, K)
        counts = (self.num_heads, self.num_key_value_heads, self.num_key_value_heads)
        queries, keys, values = heads.split(counts, dim=1)
        if self.query_key_norm:
            queries, keys = F.rms_norm(queries, (self.head_dim,)), F.rms_norm(keys, (self.head_dim,))
        return self.position.rotate(queries, start), self.position.rotate(keys, start), values

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Float[Tensor, "B H Q K"]:
        dropout = self.dropout if self.training else 0.0
        if self.soft_cap is not None or self.softmax_axis == "queries":  # no fused kernel supports these
            weights = F.dropout(self._weights(queries, self._repeat(keys)), dropout)
            return weights @ self._repeat(values)
        count, total = queries.shape[2], keys.shape[2]
        bias = self.position.bias(self.num_heads, count, total, queries.device)
        is_plain = self.attention_window is None and bias is None
        is_causal = is_plain and self.causal and 1 < count == total
        # Where there is no mask and attention is not causal, each query sees all keys.
        is_masked = not is_causal and not (is_plain and (count == 1 or not self.causal))
        mask = self._mask(count, total, queries.device) if is_masked else None
        if mask is not None and bias is not None:
            mask = bias.to(queries.dtype).masked_fill(~mask, -math.inf)
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=is_causal,
            dropout_p=dropout,
            enable_gqa=self.num_key_value_heads != self.num_heads,
        )

    def _weights(self, queries: Tensor, keys: Tensor) -> Float[Tensor, "B H Q S"]:
        """Return the attention weights, computed explicitly, with every option."""
        count, total = queries.shape[2], keys.shape[2]
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(self.head_dim)  # (B, H, Q, S)
        bias = self.position.bias(self.num_heads, count, total, queries.device)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        if self.soft_cap is not None:
            scores = self.soft_cap * torch.tanh(scores / self.soft_cap)
        scores = scores.masked_fill(~self._mask(count, total, scores.device), -math.inf)
        return scores.softmax(dim=-1 if self.softmax_axis == "keys" else -2)

    def _mask(self, queries: int, keys: int, device: torch.device) -> Bool[Tensor, "Q S"]:
        """Return which of `keys` positions each of the last `queries` positions looks at."""
        key = torch.arange(keys, device=device)
        distance = key[keys - queries :, None] - key  # (Q, S), negative for later keys
        mask = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
        if self.attention_window is not None:
            mask = mask & (distance.abs() < self.attention_window)
        return mask

    def _repeat(self, shared: Float[Tensor, "B G S K"]) -> Float[Tensor, "B H S K"]:
        return shared.repeat_interleave(self.num_heads // self.num_key_value_heads, dim=1)

    def _merge_heads(self, heads: Float[Tensor, "B H T K"]) -> Float[Tensor, "B T D"]:
        return self.projection(heads.transpose(1, 2).flatten(2))
