"""Which windows a training step sees, and how they are cut out of the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from charlab.errors import UserError
from charlab.seeding import derive_seed

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


def window_starts(seed: int, counter: int, rank: int, *, batch_size: int, num_starts: int) -> np.ndarray:
    """Returns where the windows of one micro-batch start: (batch_size,) int64, uniform in [0, num_starts).

    A pure function of its arguments: nothing is remembered from one call to the next, so a resumed run goes on with
    the windows that it would have seen. The numbers come from a counter-based generator (Philox4x64-10, Salmon et
    al., "Parallel random numbers: as easy as 1, 2, 3", 2011), whose key is derived from the seed and whose counter
    holds `counter` and `rank` in its upper half; no two micro-batches share any of the stream.

    Args:
        seed: the run's seed.
        counter: number of the micro-batch, from 0, counted on each rank.
        rank: number of the process, from 0.
        batch_size: windows in a micro-batch.
        num_starts: how many places a window can start at: the text's length − T for windows of T+1 characters.

    Raises:
        UserError: if the text is too short to hold a window.
    """
    if num_starts < 1:
        raise UserError(f"A text needs at least one place where a window can start, and has {num_starts}: lengthen it.")
    philox = np.random.Philox(key=derive_seed(seed, "windows"), counter=[0, 0, rank, counter])
    # Not Generator.integers: its stream may change between versions of numpy, the raw one may not. The remainder of
    # a 64-bit number favors some starts over others by a factor of 1 + num_starts / 2⁶⁴, which nobody can measure.
    return (philox.random_raw(batch_size) % np.uint64(num_starts)).astype(np.int64)


def consecutive_starts(
    seed: int, counter: int, rank: int, *, world_size: int, batch_size: int, num_starts: int, length: int
) -> np.ndarray:
    """Returns where the windows of one micro-batch start if each continues the one in its row of the batch before.

    The text is read by as many readers as there are rows on all ranks, evenly spaced, from a place that the seed
    chooses. At the text's end a reader goes on at its beginning. A pure function, as `window_starts`.

    Args:
        seed: the run's seed.
        counter: number of the micro-batch, from 0, counted on each rank.
        rank: number of the process, from 0.
        world_size: number of processes.
        batch_size: windows in a micro-batch of each process.
        num_starts: how many places a window can start at: the text's length − T for windows of T+1 characters.
        length: T, by which a reader moves on.
    """
    first = derive_seed(seed, "windows") % num_starts
    rows = np.arange(rank * batch_size, (rank + 1) * batch_size)
    return (first + rows * num_starts // (world_size * batch_size) + counter * length) % num_starts


def gather_windows(ids: Int[Tensor, " N"], starts: Int[Tensor, " B"], length: int) -> Int[Tensor, "B length+1"]:
    """Returns the windows ids[start : start + length + 1] as int64, on the device of `ids`.

    Args:
        ids: (N,) the whole text's character ids, of any integer type.
        starts: (B,) int64 on the same device, each in [0, N − length).
        length: T, the number of predictions in a window of T+1 characters.
    """
    windows = ids.unfold(0, length + 1, 1)  # (N − length, length+1), a view: no copy of them all
    return windows[starts].long()
