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
) -> Tensor:
    """queries (B, H, T, K), keys (B, H, T, K), values (B, H, T, E) -> (B, H, T, E), causal."""
    batch, heads, length, width = queries.shape
    rows = []
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                first = 0 if window is None else max(0, t - window + 1)
                scores = []
                for s in range(first, t + 1):
                    score = (queries[b, h, t] * keys[b, h, s]).sum() / math.sqrt(width)
                    if slopes is not None:
                        score = score - slopes[h] * (t - s)
                    if soft_cap is not None:
                        score = soft_cap * torch.tanh(score / soft_cap)
                    scores.append(score)
                exponentials = [torch.exp(score) for score in scores]
                total = sum(exponentials)
                rows.append(
                    sum(e / total * values[b, h, s] for e, s in zip(exponentials, range(first, t + 1), strict=True))
                )
    return torch.stack(rows).view(batch, heads, length, -1)


def full_value_attention(
    x: Tensor, query: Tensor, key: Tensor, value: Tensor, projection: Tensor, bias: Tensor, num_heads: int
) -> Tensor:
    """One matrix per head: head h reads rows h·K … of query and key, rows h·D … of value; (B, T, D) -> (B, T, D)."""
    embed_dim = x.shape[-1]
    head_dim = query.shape[0] // num_heads
    outputs = []
    for h in range(num_heads):
        q = x @ query[h * head_dim : (h + 1) * head_dim].T  # (B, T, K)
        k = x @ key[h * head_dim : (h + 1) * head_dim].T
        v = x @ value[h * embed_dim : (h + 1) * embed_dim].T  # (B, T, D)
        outputs.append(attend(q[:, None], k[:, None], v[:, None])[:, 0])
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
