"""Decaying linear attention in its quadratic form: every query with every key."""

import math

import torch
from torch.nn import functional as F


def attend(queries, keys, values, log_decays):
    """o_t = Σ_{s ≤ t} (α_{s+1} ⋯ α_t) (q_t·k_s) v_s, for (B, H, T, K) and (B, H, T)."""
    length, decays, outputs = queries.shape[2], log_decays.exp(), []
    for t in range(length):
        total = 0
        for s in range(t + 1):
            age = decays[:, :, s + 1 : t + 1].prod(dim=-1)  # (B, H)
            score = (queries[:, :, t] * keys[:, :, s]).sum(-1)
            total = total + (age * score)[..., None] * values[:, :, s]
        outputs.append(total)
    return torch.stack(outputs, dim=2)


def mix(mixer, x):
    queries, keys, values, gate = (x @ mixer.query_key_value_gate.weight.T).chunk(4, dim=-1)
    queries, keys, values = (
        part.unflatten(-1, (mixer.num_heads, -1)).transpose(1, 2) for part in (queries, keys, values)
    )
    if mixer.decay_gate is None:
        decays = torch.tensor([1 - 2.0 ** (-5 - head) for head in range(mixer.num_heads)], dtype=x.dtype)
        log_decays = decays.log()[None, :, None].expand(x.shape[0], -1, x.shape[1])
    else:
        gates = torch.sigmoid(x @ mixer.decay_gate.weight.T + mixer.decay_gate.bias)
        log_decays = (gates ** (1 / 16)).log().transpose(1, 2)
    heads = attend(queries, keys, values, log_decays) / math.sqrt(mixer.head_dim)
    heads = heads / torch.sqrt(heads.square().mean(-1, keepdim=True) + 1e-6)
    return (F.silu(gate) * heads.transpose(1, 2).flatten(2)) @ mixer.projection.weight.T
