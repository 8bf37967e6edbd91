"""Which windows a training step sees, and how they are cut out of the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from charlab.errors import UserError
from charlab.seeding import derive_seed

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


def window_starts(seed: int, step: int, *, batch_size: int, num_starts: int) -> np.ndarray:
    """Return where the windows of one batch start: (batch_size,) int64, uniform in [0, num_starts).

    A pure function of its arguments: a resumed run sees the windows that it would have seen, and so does every process
    that computes a part of the batch. The numbers come from a counter-based generator (Philox4x64-10, Salmon et al.,
    "Parallel random numbers: as easy as 1, 2, 3", 2011), whose key is derived from the seed and whose counter holds
    `step` in its upper half; no two batches share any of the stream.

    Args:
        seed: the run's seed.
        step: number of the batch, from 0: of the optimizer step in training.
        batch_size: windows in the whole batch.
        num_starts: how many places a window can start at: the text's length − T for windows of T+1 characters.

    Raises:
        UserError: if the text is too short to hold a window.
    """
    if num_starts < 1:
        raise UserError(f"A text needs at least one place where a window can start, and has {num_starts}: lengthen it.")
    philox = np.random.Philox(key=derive_seed(seed, "windows"), counter=[0, 0, 0, step])
    # Not Generator.integers: its stream may change between versions of numpy, the raw one may not. The remainder of
    # a 64-bit number favors some starts over others by a factor of 1 + num_starts / 2⁶⁴, which nobody can measure.
    return (philox.random_raw(batch_size) % np.uint64(num_starts)).astype(np.int64)


def estimate_starts(seed: int, num_batches: int, *, batch_size: int, num_starts: int) -> np.ndarray:
    """Return where the windows of an estimate start: (num_batches · batch_size,) int64, not those of the training."""
    own = derive_seed(seed, "estimate")
    batches = (window_starts(own, batch, batch_size=batch_size, num_starts=num_starts) for batch in range(num_batches))
    return np.concatenate(list(batches))


def consecutive_starts(seed: int, step: int, *, batch_size: int, num_starts: int, length: int) -> np.ndarray:
    """Return where the windows of one batch start if each continues the one in its row of the batch before.

    Every row of the batch reads the text from a place of its own, evenly spaced from one that the seed chooses, and
    wraps around at the end. A pure function, as `window_starts`.

    Args:
        seed: the run's seed.
        step: number of the optimizer step, from 0.
        batch_size: windows in the whole batch.
        num_starts: how many places a window can start at: the text's length − T for windows of T+1 characters.
        length: T, by which a row moves on.
    """
    first = derive_seed(seed, "windows") % num_starts
    return (first + np.arange(batch_size) * num_starts // batch_size + step * length) % num_starts


def gather_windows(ids: Int[Tensor, " N"], starts: Int[Tensor, " B"], length: int) -> Int[Tensor, "B length+1"]:
    """Return the windows ids[start : start + length + 1] as int64, on the device of `ids`.

    Args:
        ids: (N,) the whole text's character ids, of any integer type.
        starts: (B,) int64 on the same device, each in [0, N − length).
        length: T, the number of predictions in a window of T+1 characters.
    """
    windows = ids.unfold(0, length + 1, 1)  # (N − length, length+1), a view: no copy of them all
    return windows[starts].long()
