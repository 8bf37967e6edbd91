"""Mamba's mixer: a state-space layer whose step, input and output maps depend on the input."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.initialization import undecayed
from charlab.models.linear import Linear, StackedLinear
from charlab.models.mixers.causal_convolution import CausalConvolution
from charlab.models.mixers.contract import Mixer
from charlab.models.precision import full_precision
from charlab.models.scan import solve_
from charlab.types import PositiveFloat, PositiveInt, checked

# Positions whose states are in memory at once: on a CPU as many as fit its cache, on an accelerator more.
_CHUNK_LENGTH_ON_CPU = 16
_CHUNK_LENGTH_ON_ACCELERATOR = 64


class SelectiveState(NamedTuple):
    """The convolution's last inputs, and the hidden state."""

    recent: Float[Tensor, "B width-1 E"]
    hidden: Float[Tensor, "B N E"]


class SelectiveScan(Mixer):
    """Mamba's block (Gu & Dao, arXiv 2312.00752, figure 3), for use between a norm and a residual connection.

    One linear map makes E channels u and E gates z. The channels pass through a short causal convolution and SiLU, and
    each drives N states (algorithm 2; A is discretized by equation 4, B by its first-order approximation):

        h_t = exp(Δ_t·A) ⊙ h_{t−1} + Δ_t · B_t · u_t,    y_t = C_t · h_t + D ⊙ u_t,

    where Δ_t (per channel, positive), B_t and C_t (N numbers each) are linear maps of u_t, so that the layer selects
    what to remember. The output is a linear map of y ⊙ SiLU(z).

    Args:
        embed_dim: size D of the embeddings.
        context_length: maximum length of a sequence (unused: the recurrent state has no limit).
        expansion: number E of channels, as a multiple of D.
        state_dim: number N of states of a channel.
        conv_width: width of the convolution.
        step_rank: rank of the map from u_t to Δ_t; None for D / 16, rounded up.
        min_step: the smallest initial Δ; the channels' initial Δ are log-uniform in [`min_step`, `max_step`].
        max_step: the largest initial Δ.
    """

    is_recurrent = True

    @checked
    def __init__(
        self,
        embed_dim: PositiveInt,
        context_length: PositiveInt,
        *,
        expansion: PositiveFloat,
        state_dim: PositiveInt,
        conv_width: PositiveInt,
        step_rank: PositiveInt | None,
        min_step: PositiveFloat,
        max_step: PositiveFloat,
    ) -> None:
        super().__init__()
        if min_step > max_step:
            raise UserError(f"min_step={min_step} is above max_step={max_step}: swap them.")
        self.channels, self.state_dim = max(1, round(expansion * embed_dim)), state_dim
        self.step_rank = step_rank if step_rank is not None else math.ceil(embed_dim / 16)
        self.input_projection = StackedLinear(embed_dim, [self.channels, self.channels], bias=False)
        self.convolution = CausalConvolution(self.channels, conv_width)
        self.selection = StackedLinear(self.channels, [self.step_rank, state_dim, state_dim], bias=False)
        self.step_projection = StepProjection(self.step_rank, self.channels, min_step, max_step)
        self.log_decay = undecayed(torch.arange(1.0, state_dim + 1).log().repeat(self.channels, 1))  # log(−A)
        self.skip = undecayed(torch.ones(self.channels))  # D
        self.projection = Linear(self.channels, embed_dim, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.extend(x, self.init_state(x.shape[0]))[0]

    def init_state(self, batch_size: int) -> SelectiveState:
        hidden = self.projection.weight.new_zeros(batch_size, self.state_dim, self.channels)
        return SelectiveState(self.convolution.init_state(batch_size), hidden)

    def extend(self, x: Float[Tensor, "B n D"], state: SelectiveState) -> tuple[Float[Tensor, "B n D"], SelectiveState]:
        u, gate = self.input_projection.maps(x)  # both (B, n, E)
        u, recent = self.convolution.extend(u, state.recent)
        u = F.silu(u)
        low_rank_step, write, read = self.selection.maps(u)
        step = self.step_projection(low_rank_step)  # (B, n, E)
        y, hidden = selective_scan(u, step, -self.log_decay.t().exp(), write, read, state.hidden)
        y = (y + self.skip * u).to(x.dtype) * F.silu(gate)
        return self.projection(y), SelectiveState(recent, hidden)

    def output_projection(self) -> nn.Linear:
        """Return the linear map that writes to the residual stream."""
        return self.projection


class StepProjection(Linear):
    """Δ = softplus(W·x + b), with b such that the initial Δ are log-uniform (section 3.6)."""

    keeps_initialization = True

    def __init__(self, rank: PositiveInt, channels: PositiveInt, min_step: float, max_step: float) -> None:
        super().__init__(rank, channels)
        steps = torch.exp(torch.rand(channels) * math.log(max_step / min_step) + math.log(min_step))
        nn.init.uniform_(self.weight, -(rank**-0.5), rank**-0.5)
        self.bias = undecayed(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus

    def forward(self, x: Float[Tensor, "B T R"]) -> Float[Tensor, "B T E"]:
        return F.softplus(super().forward(x))


@full_precision
def selective_scan(
    u: Float[Tensor, "B T E"],
    step: Float[Tensor, "B T E"],
    rate: Float[Tensor, "N E"],
    write: Float[Tensor, "B T N"],
    read: Float[Tensor, "B T N"],
    initial: Float[Tensor, "B N E"],
) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B N E"]]:
    """Return y_t = C_t·h_t at all positions, and the last state, of h_t = exp(Δ_t·A) ⊙ h_{t−1} + Δ_t·B_t·u_t.

    The states, T·N·E numbers per row, never exist all at once: only the first state of each chunk is kept, and the
    backward pass recomputes the others. With chunks of at least N positions, the kept states are no larger than `u`.

    Args:
        u: inputs u_t of the E channels.
        step: Δ_t > 0.
        rate: A < 0, for N states per channel.
        write: B_t.
        read: C_t.
        initial: h_0.
    """
    return _SelectiveScan.apply(u, step, rate, write, read, initial)


class _SelectiveScan(torch.autograd.Function):
    """The scan, with a backward pass that recomputes each chunk's states.

    With a_t = exp(Δ_t·A), ȳ_t the gradient of y_t and h̄_t that of h_t,

        h̄_t = C_t·ȳ_t + a_{t+1} ⊙ h̄_{t+1},
        C̄_t = Σ_E h_t·ȳ_t,    B̄_t = Σ_E h̄_t·(Δ_t·u_t),    ū_t = Δ_t·Σ_N B_t·h̄_t,
        Ā = Σ_t Δ_t·l_t,    Δ̄_t = u_t·Σ_N B_t·h̄_t + Σ_N A·l_t    with l_t = h̄_t ⊙ a_t ⊙ h_{t−1},

    where l_t is the gradient of Δ_t·A, the decay's logarithm.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        chunk_length = _chunk_length(u, rate)
        buffers = _buffers(u, rate, chunk_length, count=2)
        state, first_states, outputs = initial, [], []
        for chunk in zip(*(part.split(chunk_length, dim=1) for part in (u, step, write, read)), strict=True):
            first_states.append(state)
            u_part, step_part, write_part, read_part = chunk
            _, states = _chunk_states(buffers, u_part * step_part, step_part, rate, write_part, state)
            outputs.append((read_part[:, :, None] @ states)[:, :, 0])  # (B, L, E)
            state = states[:, -1].clone()
        ctx.save_for_backward(u, step, rate, write, read, *first_states)
        return torch.cat(outputs, dim=1), state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, grad_last: Tensor) -> tuple[Tensor, ...]:
        u, step, rate, write, read, *first_states = ctx.saved_tensors
        chunk_length = _chunk_length(u, rate)
        buffers = _buffers(u, rate, chunk_length, count=3)
        grad_state, grad_rate, gradients = grad_last, torch.zeros_like(rate), []
        chunks = zip(*(part.split(chunk_length, dim=1) for part in (u, step, write, read, grad_output)), strict=True)
        for chunk, first_state in reversed(list(zip(chunks, first_states, strict=True))):
            u_part, step_part, write_part, read_part, grad_part = chunk
            driven = u_part * step_part  # (B, L, E)
            decays, states = _chunk_states(buffers, driven, step_part, rate, write_part, first_state)
            # h̄: through its own output, and through all later states.
            grad_states = buffers[2][:, : u_part.shape[1]]  # (B, L, N, E)
            torch.mul(read_part[..., None], grad_part[:, :, None], out=grad_states)
            grad_states[:, -1] += grad_state
            if grad_states.shape[1] > 1:
                solve_(decays[:, 1:], grad_states[:, :-1], grad_states[:, -1], reverse=True)
            grad_state = decays[:, 0] * grad_states[:, 0]
            grad_read = (states @ grad_part[..., None])[..., 0]  # (B, L, N)
            grad_write = (grad_states @ driven[..., None])[..., 0]  # (B, L, N)
            grad_driven = (write_part[:, :, None] @ grad_states)[:, :, 0]  # (B, L, E)
            grad_logs = decays.mul_(grad_states)  # l, in the memory of the decays: (B, L, N, E)
            grad_logs[:, 0] *= first_state
            grad_logs[:, 1:] *= states[:, :-1]
            scaled_logs = torch.mul(grad_logs, step_part[:, :, None], out=grad_states)  # which is no longer needed
            grad_rate += scaled_logs.sum(dim=(0, 1))
            grad_step = grad_driven * u_part + grad_logs.mul_(rate).sum(dim=2)
            gradients.append((grad_driven * step_part, grad_step, grad_write, grad_read))
        grad_u, grad_step, grad_write, grad_read = (
            torch.cat(parts[::-1], dim=1) for parts in zip(*gradients, strict=True)
        )
        return grad_u, grad_step, grad_rate, grad_write, grad_read, grad_state


def _chunk_length(u: Tensor, rate: Tensor) -> int:
    enough = _CHUNK_LENGTH_ON_CPU if u.device.type == "cpu" else _CHUNK_LENGTH_ON_ACCELERATOR
    return max(enough, rate.shape[0])


def _buffers(u: Tensor, rate: Tensor, chunk_length: int, count: int) -> tuple[Tensor, ...]:
    """Return memory for `count` tensors of a chunk's states, reused for every chunk."""
    batch_size, length = u.shape[:2]
    return u.new_empty(count, batch_size, min(chunk_length, length), *rate.shape).unbind(0)


def _chunk_states(
    buffers: tuple[Tensor, ...], driven: Tensor, step: Tensor, rate: Tensor, write: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """Fill the first two buffers with exp(Δ_t·A) and h_t, both (B, L, N, E), and return them."""
    length = driven.shape[1]
    decays, states = buffers[0][:, :length], buffers[1][:, :length]
    torch.mul(step[:, :, None], rate, out=decays).exp_()
    torch.mul(write[..., None], driven[:, :, None], out=states)
    return decays, solve_(decays, states, initial)
