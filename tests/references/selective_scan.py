"""Mamba's block step by step (arXiv 2312.00752, algorithm 2), with states (B, N, E)."""

import torch
from torch.nn import functional as F

from tests.references.causal_convolution import convolve


def scan(u, step, rate, write, read, initial):
    """Return all outputs (B, T, E) and the last state (B, N, E)."""
    state, outputs = initial, []
    for t in range(u.shape[1]):
        decay = torch.exp(step[:, t, None, :] * rate)  # (B, N, E)
        state = decay * state + write[:, t, :, None] * (step[:, t] * u[:, t])[:, None, :]
        outputs.append((read[:, t, :, None] * state).sum(1))
    return torch.stack(outputs, dim=1), state


def mix(mixer, x):
    u, gate = mixer.input_projection(x).chunk(2, dim=-1)
    u = F.silu(convolve(mixer.convolution.convolution, u))
    low_rank_step, write, read = mixer.selection(u).split([mixer.step_rank, mixer.state_dim, mixer.state_dim], dim=-1)
    step = F.softplus(low_rank_step @ mixer.step_projection.weight.T + mixer.step_projection.bias)
    initial = x.new_zeros(x.shape[0], mixer.state_dim, mixer.channels)
    y, _ = scan(u, step, -mixer.log_decay.exp().T, write, read, initial)
    return mixer.projection((y + mixer.skip * u) * F.silu(gate))
