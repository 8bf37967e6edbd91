"""The causal average: attention whose scores are all zero."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from charlab.models.mixers.contract import Mixer
from charlab.types import PositiveInt


class RunningSum(NamedTuple):
    """The sum of the positions read so far, and their number."""

    total: Float[Tensor, "B 1 D"]
    length: int


class RunningAverage(Mixer):
    """The mean of all positions so far, as a masked softmax of zero scores computes it. No parameters.

    Args:
        embed_dim: size D of the embeddings (unused).
        context_length: maximum length of a sequence (unused).
    """

    is_recurrent = True

    def __init__(self, embed_dim: PositiveInt, context_length: PositiveInt) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.zero: Tensor
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # carries device and precision

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.extend(x, self.init_state(x.shape[0]))[0]

    def init_state(self, batch_size: int) -> RunningSum:
        return RunningSum(self.zero.new_zeros(batch_size, 1, self.embed_dim), length=0)

    def extend(self, x: Float[Tensor, "B n D"], state: RunningSum) -> tuple[Float[Tensor, "B n D"], RunningSum]:
        sums = state.total + x.cumsum(dim=1)  # (B, n, D)
        counts = torch.arange(state.length + 1, state.length + 1 + x.shape[1], device=x.device)
        return sums / counts[:, None], RunningSum(sums[:, -1:], state.length + x.shape[1])
