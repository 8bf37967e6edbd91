"""Linear attention with decay: one matrix per head in place of all keys and values."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.models.initialization import undecayed
from charlab.models.linear import Linear, StackedLinear
from charlab.models.mixers.contract import Mixer, check_divides
from charlab.models.precision import full_precision
from charlab.types import PositiveInt, checked

_CHUNK_LENGTH = 64
_LARGEST_EXPONENT = 125  # 2^−125 is still a normal number in float32
_GATE_SMOOTHING = 16  # a decay is a sigmoid's 16th root, which starts close to 1 (GLA, section 4.4)


class LinearAttention(Mixer):
    """Per head, S_t = α_t · S_{t−1} + k_tᵀ·v_t and o_t = q_t·S_t / √K, with a decay 0 < α_t < 1.

    Without the state, o_t = Σ_{s ≤ t} (α_{s+1} ⋯ α_t) (q_t·k_s / √K) v_s: attention without softmax, weighted by age.
    Training uses this form within chunks and the state between them (the chunkwise form of RetNet, arXiv 2307.08621,
    equation 7, and of GLA, arXiv 2312.06635, section 4); products of decays are exponentials of differences of
    cumulative logarithms, none of them positive. Each head's output is normalized by its root mean square and gated
    by SiLU(W·x) (RetNet, equation 8).

    Args:
        embed_dim: size D of the embeddings.
        context_length: maximum length of a sequence (unused: the recurrent state has no limit).
        num_heads: number H of heads, each of size K = D / H.
        decay: "fixed" is RetNet's α = 1 − 2^(−5−h) of head h; "gated" is α_t = σ(w·x_t + b)^(1/16) per head (GLA's
            gate, one for all of a head's components), initialized near the fixed values.
    """

    is_recurrent = True

    forgotten: Float[Tensor, " H"]

    @checked
    def __init__(
        self,
        embed_dim: PositiveInt,
        context_length: PositiveInt,
        *,
        num_heads: PositiveInt,
        decay: Literal["gated", "fixed"],
    ) -> None:
        super().__init__()
        check_divides("num_heads", num_heads, "embed_dim", embed_dim)
        self.num_heads, self.head_dim = num_heads, embed_dim // num_heads
        self.query_key_value_gate = StackedLinear(embed_dim, [embed_dim] * 4, bias=False)
        self.projection = Linear(embed_dim, embed_dim, bias=False)
        # Store 1 minus the decay: from head 20 on, 1 − 2^(−5−h) rounds to 1 in float32.
        exponents = torch.arange(5, 5 + num_heads).clamp(max=_LARGEST_EXPONENT)
        forgotten = torch.exp2(-exponents.double())  # (H,)
        self.decay_gate = DecayGate(embed_dim, torch.log1p(-forgotten)) if decay == "gated" else None
        self.register_buffer("forgotten", forgotten.float(), persistent=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.extend(x, self.init_state(x.shape[0]))[0]

    def init_state(self, batch_size: int) -> Float[Tensor, "B H K K"]:
        return self.projection.weight.new_zeros(batch_size, self.num_heads, self.head_dim, self.head_dim)

    def extend(
        self, x: Float[Tensor, "B n D"], state: Float[Tensor, "B H K K"]
    ) -> tuple[Float[Tensor, "B n D"], Float[Tensor, "B H K K"]]:
        queries, keys, values, gate = self.query_key_value_gate.maps(x)  # each (B, n, D)
        queries, keys, values = (
            part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for part in (queries, keys, values)
        )
        if self.decay_gate is None:
            log_decays = torch.log1p(-self.forgotten)[:, None].expand(x.shape[0], -1, x.shape[1])  # (B, H, n)
        else:
            log_decays = self.decay_gate(x).transpose(1, 2)
        heads, state = decaying_attention(queries / math.sqrt(self.head_dim), keys, values, log_decays, state)
        heads = F.rms_norm(heads, (self.head_dim,), eps=1e-6).transpose(1, 2).flatten(2)  # (B, n, D)
        return self.projection(F.silu(gate) * heads.to(x.dtype)), state

    def output_projection(self) -> nn.Linear:
        """Return the linear map that writes to the residual stream."""
        return self.projection


class DecayGate(Linear):
    """log α_t = log σ(w·x_t + b) / 16 per head, with b such that σ(b)^(1/16) is the given decay."""

    keeps_initialization = True

    def __init__(self, embed_dim: PositiveInt, log_decay: Float[Tensor, " H"]) -> None:
        super().__init__(embed_dim, len(log_decay))
        log_gate = _GATE_SMOOTHING * log_decay
        self.bias = undecayed((log_gate - torch.log(-torch.expm1(log_gate))).float())  # the logit of the gate

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T H"]:
        return F.logsigmoid(super().forward(x)) / _GATE_SMOOTHING


@full_precision
def decaying_attention(
    queries: Float[Tensor, "B H T K"],
    keys: Float[Tensor, "B H T K"],
    values: Float[Tensor, "B H T M"],
    log_decays: Float[Tensor, "B H T"],
    state: Float[Tensor, "B H K M"],
) -> tuple[Float[Tensor, "B H T M"], Float[Tensor, "B H K M"]]:
    """Return o_t = q_t·S_t at all positions, and the last state, of S_t = α_t · S_{t−1} + k_tᵀ·v_t.

    Args:
        queries: q_t.
        keys: k_t.
        values: v_t.
        log_decays: log α_t ≤ 0.
        state: S_0.
    """
    outputs = []
    for query, key, value, log_decay in zip(
        *(part.split(_CHUNK_LENGTH, dim=2) for part in (queries, keys, values, log_decays)), strict=True
    ):
        since_start = log_decay.cumsum(dim=-1)  # (B, H, C): the log of α_1 ⋯ α_t within the chunk
        between = since_start[..., :, None] - since_start[..., None, :]  # of α_{s+1} ⋯ α_t
        future = torch.ones(between.shape[-2:], dtype=torch.bool, device=between.device).triu(1)
        weights = (query @ key.transpose(-2, -1)) * between.masked_fill(future, -math.inf).exp()  # (B, H, C, C)
        outputs.append(weights @ value + since_start.exp()[..., None] * (query @ state))
        until_end = (since_start[..., -1:] - since_start).exp()[..., None]  # (B, H, C, 1)
        state = since_start[..., -1, None, None].exp() * state + (until_end * key).transpose(-2, -1) @ value
    return torch.cat(outputs, dim=2), state
