"""Runs a function in several processes that form a group, as a training on several devices does."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing


def run_in_processes(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Return `function(rank, world_size, *args)` of each rank."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking with several threads
        # Forked, since importing torch anew in each process takes seconds.
        torch.multiprocessing.start_processes(
            _enter, (world_size, folder, function, args), nprocs=world_size, start_method="fork"
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _enter(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    try:
        torch.save(function(rank, world_size, *args), Path(folder) / f"{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
