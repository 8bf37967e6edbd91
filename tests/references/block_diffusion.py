"""Block diffusion the slow way: block by block, by enumeration of all orders within a block."""

from itertools import permutations

import torch
from torch import Tensor

from charlab.models.block_diffusion import BlockDiffusion


def positions_of_blocks(length: int, block_size: int) -> list[list[int]]:
    """Return the positions of each block of a window of `length` characters, without the first."""
    return [list(range(start, min(start + block_size, length))) for start in range(1, length, block_size)]


def block_logits(model: BlockDiffusion, window: Tensor, noisy: list[int], positions: list[int]) -> Tensor:
    """Return the logits (L, V) of a block, given earlier blocks of one window (T+1,) and the block's noisy tokens.

    The denoiser reads the earlier blocks and the noisy one as a text of its own; there are no noisy copies.
    """
    room = min(model.block_size, model.context_length + 1 - positions[0])
    padded = torch.tensor([*noisy, *[model.mask_id] * (room - len(noisy))])
    logits = model.denoiser(torch.cat([window[: positions[0]], padded])[None])[0]  # (S, V+1)
    return logits[positions[0] : positions[-1] + 1, : model.vocab_size]


def log_probabilities_by_order(model: BlockDiffusion, window: Tensor, positions: list[int], first: int) -> list[float]:
    """Return, for each order of a block's positions from `first` on, the sum of log p of each given those before."""
    totals = []
    for order in permutations([position for position in positions if position >= first]):
        noisy = [int(window[p]) if p < first else model.mask_id for p in positions]
        total = 0.0
        for position in order:
            logits = block_logits(model, window, noisy, positions)
            index = positions.index(position)
            total += logits[index].log_softmax(0)[window[position]].item()
            noisy[index] = int(window[position])
        totals.append(total)
    return totals
