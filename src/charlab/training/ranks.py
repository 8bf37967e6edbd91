"""The state of each process of a run, and how a checkpoint holds it."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import torch
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


def this_rank(values: list[Any]) -> Any:
    """Return this rank's entry of what `from_every_rank` returned; None if the run had fewer processes then."""
    rank = torch.distributed.get_rank() if _are_several() else 0
    return values[rank] if rank < len(values) else None


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every global generator that a training step may use."""
    name, keys, position, has_gauss, cached = cast("tuple[Any, ...]", np.random.get_state())  # noqa: NPY002  (a user's model may draw from it)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what `random_state` returned."""
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
