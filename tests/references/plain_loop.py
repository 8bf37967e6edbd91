"""The plainest loop that trains a model of charlab's: no framework and no checkpoints."""

from collections.abc import Mapping
from typing import TextIO

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from charlab.models.contract import LanguageModel

LOG_EVERY = 10  # steps


def train(
    model: LanguageModel,
    optimizer: Optimizer,
    ids: Tensor,
    length: int,
    starts: Mapping[int, Tensor],
    rates: Mapping[int, float],
    clip: float | None,
    log: TextIO,
) -> float:
    """Take the given steps, each on a batch of windows given by their starts, and return the loss of the last one."""
    offsets = torch.arange(length + 1)
    for step, start in starts.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        window = ids[start[:, None] + offsets].long()
        loss = model.loss(window)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        if step % LOG_EVERY == 0:
            log.write(f"{step},{loss.item()},{rates[step]}\n")
            log.flush()
    return loss.item()
