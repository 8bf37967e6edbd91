"""minGRU and minLSTM: recurrent networks whose gates depend on the input alone, so that a scan can train them."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.models.linear import Linear, StackedLinear
from charlab.models.mixers.causal_convolution import CausalConvolution
from charlab.models.mixers.contract import Mixer
from charlab.models.precision import full_precision
from charlab.models.scan import log_linear_recurrence
from charlab.types import PositiveFloat, PositiveInt, checked


class MinimalState(NamedTuple):
    """The convolution's last inputs (None without one), and the logarithm of the hidden state."""

    recent: Float[Tensor, "B width-1 D"] | None
    log_hidden: Float[Tensor, "B H"]


class MinimalRNN(Mixer):
    """h_t = (kept share)_t ⊙ h_{t−1} + (written share)_t ⊙ g(W·x_t), projected back to D.

    Both shares are between 0 and 1 and g is positive, so the recurrence can be solved in logarithms, in parallel over
    the sequence (Feng et al., "Were RNNs all we needed?", arXiv 2410.01201, appendix B). A subclass defines the
    shares.

    Args:
        embed_dim: size D of the embeddings.
        context_length: maximum length of a sequence (unused: the recurrent state has no limit).
        expansion: size H of the hidden state, as a multiple of D.
        conv_width: width of a causal convolution before the recurrence; None for no convolution.
    """

    is_recurrent = True

    num_gates: int

    @checked
    def __init__(
        self,
        embed_dim: PositiveInt,
        context_length: PositiveInt,
        *,
        expansion: PositiveFloat,
        conv_width: PositiveInt | None,
    ) -> None:
        super().__init__()
        self.hidden_dim = max(1, round(expansion * embed_dim))
        self.convolution = CausalConvolution(embed_dim, conv_width) if conv_width is not None else None
        self.gates_and_candidate = GatesAndCandidate(embed_dim, [self.hidden_dim] * (self.num_gates + 1))
        self.projection = Linear(self.hidden_dim, embed_dim)

    @abstractmethod
    def log_shares(self, *gates: Float[Tensor, "B T H"]) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B T H"]]:
        """Return the logarithms of the kept and written shares, from the gates before their sigmoid."""

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.extend(x, self.init_state(x.shape[0]))[0]

    def init_state(self, batch_size: int) -> MinimalState:
        return MinimalState(
            self.convolution.init_state(batch_size) if self.convolution is not None else None,
            self.projection.weight.new_full((batch_size, self.hidden_dim), -math.inf),
        )

    def extend(self, x: Float[Tensor, "B n D"], state: MinimalState) -> tuple[Float[Tensor, "B n D"], MinimalState]:
        recent, log_hidden = state
        if self.convolution is not None and recent is not None:
            x, recent = self.convolution.extend(x, recent)
        log_hidden = self._recur(self.gates_and_candidate(x), log_hidden)  # (B, n, H)
        return self.projection(log_hidden.exp().to(x.dtype)), MinimalState(recent, log_hidden[:, -1])

    def output_projection(self) -> nn.Linear:
        """Return the linear map that writes to the residual stream."""
        return self.projection

    @full_precision
    def _recur(self, gates_and_candidate: Tensor, log_hidden: Tensor) -> Float[Tensor, "B n H"]:
        *gates, candidate = gates_and_candidate.chunk(self.num_gates + 1, dim=-1)
        log_kept, log_written = self.log_shares(*gates)
        return log_linear_recurrence(log_kept, log_written + log_positive(candidate), log_hidden)


class MinGRU(MinimalRNN):
    """One gate z = σ(V·x_t): the share z is written, 1 − z is kept (equations of section 3.1, logarithms of B.2)."""

    num_gates = 1

    def log_shares(self, *gates: Float[Tensor, "B T H"]) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B T H"]]:
        (gate,) = gates
        return F.logsigmoid(-gate), F.logsigmoid(gate)


class MinLSTM(MinimalRNN):
    """Gates f and i, both sigmoids of the input: f / (f + i) is kept, i / (f + i) written (section 3.2)."""

    num_gates = 2

    def log_shares(self, *gates: Float[Tensor, "B T H"]) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B T H"]]:
        forget_gate, input_gate = gates
        log_ratio = F.logsigmoid(forget_gate) - F.logsigmoid(input_gate)  # log(f / i)
        return F.logsigmoid(log_ratio), F.logsigmoid(-log_ratio)


class GatesAndCandidate(StackedLinear):
    """The gates before their sigmoid and the candidate before g; smaller initial weights would start all gates at ½."""

    keeps_initialization = True


def log_positive(x: Tensor) -> Tensor:
    """Return log g(x), where g(x) = x + 1/2 for x ≥ 0 and σ(x) below: positive, continuous, increasing."""
    return torch.where(x >= 0, (F.relu(x) + 0.5).log(), F.logsigmoid(x))
