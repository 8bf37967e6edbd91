"""The metric behind every figure: nats per character."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric


class NegativeLogLikelihood(Metric):
    """Mean nats per character over all updates.

    Nats (float64) and characters (int64) are summed and divided once, at the end, so that the figure does not depend
    on the sizes and order of batches or the number of processes, as a mean of batch means would. On a device without
    float64 (mps) the two sums stay on the CPU.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    nats: Tensor
    characters: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("characters", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nll: Float[Tensor, " ..."]) -> None:
        """Add scored characters.

        Args:
            nll: of each character, in nats; any shape, any device. Every entry counts as a character, so leave out
                positions that were not scored.
        """
        # Not in place: after a reset under inference mode, which Trainer.validate uses, that would be an error.
        self.nats = self.nats + nll.detach().to(self.nats.device).double().sum()
        self.characters = self.characters + nll.numel()

    def compute(self) -> Float[Tensor, ""]:
        """Return nats per character, float64."""
        return self.nats / self.characters

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        # Follow the model to another device, but not to another precision or a device without float64.
        device = fn(torch.zeros(1, device=self.nats.device)).device
        if device.type == "mps":
            device = torch.device("cpu")
        return super()._apply(lambda tensor: tensor.to(device), exclude_state)
