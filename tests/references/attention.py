"""Attention written as loops over batch, head, query and key, straight from the definition."""

import math

import torch
from torch import Tensor


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    window: int | None = None,
    soft_cap: float | None = None,
    slopes: Tensor | None = None,
    softmax_axis: str = "keys",
) -> Tensor:
    """queries (B, H, T, K), keys (B, G, T, K), values (B, G, T, E) -> (B, H, T, E), causal.

    Each of the G heads of keys and values serves the next H / G heads of queries. The weights of each query sum to 1
    over its keys; with `softmax_axis="queries"`, those of each key over the queries that look at it.
    """
    batch, heads, length, width = queries.shape
    group_size = heads // keys.shape[1]
    rows = []
    for b in range(batch):
        for h in range(heads):
            exponentials = {}
            for t in range(length):
                for s in range(0 if window is None else max(0, t - window + 1), t + 1):
                    score = (queries[b, h, t] * keys[b, h // group_size, s]).sum() / math.sqrt(width)
                    if slopes is not None:
                        score = score - slopes[h] * (t - s)
                    if soft_cap is not None:
                        score = soft_cap * torch.tanh(score / soft_cap)
                    exponentials[t, s] = torch.exp(score)
            normalized = {"keys": 0, "queries": 1}[softmax_axis]  # which of t and s has weights that sum to 1
            totals = [0.0] * length
            for pair, exponential in exponentials.items():
                totals[pair[normalized]] = totals[pair[normalized]] + exponential
            outputs = [torch.zeros_like(values[0, 0, 0])] * length
            for pair, exponential in exponentials.items():
                t, s = pair
                outputs[t] = outputs[t] + exponential / totals[pair[normalized]] * values[b, h // group_size, s]
            rows += outputs
    return torch.stack(rows).view(batch, heads, length, -1)


def full_value_attention(
    x: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    projection: Tensor,
    bias: Tensor,
    num_heads: int,
    slopes: Tensor | None = None,
) -> Tensor:
    """One matrix per head: head h reads rows h·K … of query and key, rows h·D … of value; (B, T, D) -> (B, T, D)."""
    embed_dim = x.shape[-1]
    head_dim = query.shape[0] // num_heads
    outputs = []
    for h in range(num_heads):
        q = x @ query[h * head_dim : (h + 1) * head_dim].T  # (B, T, K)
        k = x @ key[h * head_dim : (h + 1) * head_dim].T
        v = x @ value[h * embed_dim : (h + 1) * embed_dim].T  # (B, T, D)
        slope = None if slopes is None else slopes[h : h + 1]
        outputs.append(attend(q[:, None], k[:, None], v[:, None], slopes=slope)[:, 0])
    return torch.cat(outputs, dim=-1) @ projection.T + bias


def rotate(x: Tensor, base: float) -> Tensor:
    """Rotary encoding pair by pair: components i and i + K/2 of position t turn by t / base^(2i/K)."""
    *_, length, width = x.shape
    rotated = x.clone()
    for t in range(length):
        for i in range(width // 2):
            angle = t / base ** (2 * i / width)
            first, second = x[..., t, i], x[..., t, i + width // 2]
            rotated[..., t, i] = first * math.cos(angle) - second * math.sin(angle)
            rotated[..., t, i + width // 2] = second * math.cos(angle) + first * math.sin(angle)
    return rotated
