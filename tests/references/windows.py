"""Cutting windows out of a text, one character after the other."""

import torch
from torch import Tensor


def gather_windows(ids: Tensor, starts: Tensor, length: int) -> Tensor:
    text = ids.tolist()
    return torch.tensor([[text[start + offset] for offset in range(length + 1)] for start in starts.tolist()])
