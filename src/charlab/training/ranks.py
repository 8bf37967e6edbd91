"""Communication between the processes of a run, other than of gradients."""

from __future__ import annotations

from typing import Any

import torch.distributed


def from_every_rank(value: Any) -> list[Any]:
    """Return the value of every process, in order of rank. A collective call.

    Args:
        value: anything that can be pickled; tensors must be on the CPU.
    """
    if not _are_several():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def own_part(values: list[Any]) -> Any:
    """Return this rank's entry of what `from_every_rank` returned; None if the run had fewer processes then."""
    rank = torch.distributed.get_rank() if _are_several() else 0
    return values[rank] if rank < len(values) else None


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
