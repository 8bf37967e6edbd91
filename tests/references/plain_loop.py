"""The plainest loop that trains a model of charlab's: no framework, no logs, no checkpoints."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from charlab.models.contract import LanguageModel


def train(
    model: LanguageModel,
    optimizer: Optimizer,
    ids: Tensor,
    length: int,
    starts: Sequence[Tensor],
    rates: Sequence[float],
    clip: float | None,
) -> float:
    """Take a step for each batch of windows, given by their starts, and return the loss of the last one."""
    offsets = torch.arange(length + 1)
    for start, rate in zip(starts, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        window = ids[start[:, None] + offsets].long()
        loss = model.loss(window)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()
