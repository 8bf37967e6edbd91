"""Position encodings written as loops, straight from the definition."""

import math

import torch
from torch import Tensor


def sinusoidal(positions: int, embed_dim: int, base: float) -> Tensor:
    """PE(pos, 2i) = sin(pos / base^(2i/D)), PE(pos, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5)."""
    table = torch.empty(positions, embed_dim, dtype=torch.double)
    for position in range(positions):
        for i in range(embed_dim // 2):
            angle = position / base ** (2 * i / embed_dim)
            table[position, 2 * i] = math.sin(angle)
            table[position, 2 * i + 1] = math.cos(angle)
    return table
