"""The short causal convolution in front of a recurrence."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from charlab.types import PositiveInt


class CausalConvolution(nn.Module):
    """A depthwise convolution over the last `width` positions, with a bias (Mamba, arXiv 2312.00752, section 3.4).

    Args:
        channels: number of channels.
        width: number of positions it looks at, including the current one.
    """

    def __init__(self, channels: PositiveInt, width: PositiveInt) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.convolution = nn.Conv1d(channels, channels, width, groups=channels)

    def init_state(self, batch_size: int) -> Float[Tensor, "B width-1 channels"]:
        """Return the positions before the first one: zeros."""
        return self.convolution.weight.new_zeros(batch_size, self.width - 1, self.channels)

    def extend(
        self, x: Float[Tensor, "B n channels"], state: Float[Tensor, "B width-1 channels"]
    ) -> tuple[Float[Tensor, "B n channels"], Float[Tensor, "B width-1 channels"]]:
        """Read n more positions; `state` holds the width − 1 before them."""
        x = torch.cat([state.to(x.dtype), x], dim=1)  # (B, width − 1 + n, channels)
        convolved: Tensor = self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return convolved.contiguous(), x[:, x.shape[1] - self.width + 1 :]
