"""The metric behind every figure: nats and characters, added up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric


class NegativeLogLikelihood(Metric):
    """Mean nats per character over everything it was given.

    It adds up nats (float64) and characters (int64) and divides once, at the end, so neither the sizes nor the order
    of the batches, nor the number of processes that share them, can change the figure; the mean of batch means does.
    A device without float64 (mps) leaves the two sums on the CPU.
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
        """Adds scored characters.

        Args:
            nll: the negative log-likelihood of each, in nats; any shape, any device. Positions that were not scored
                must be left out, since every entry counts as a character.
        """
        self.nats += nll.detach().to(self.nats.device).double().sum()
        self.characters += nll.numel()

    def compute(self) -> Float[Tensor, ""]:
        """Returns nats per character, float64."""
        return self.nats / self.characters

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        # Follows the model to another device, but not to another precision, and not to one without float64.
        device = fn(torch.zeros(1, device=self.nats.device)).device
        if device.type == "mps":
            device = torch.device("cpu")
        return super()._apply(lambda tensor: tensor.to(device), exclude_state)
