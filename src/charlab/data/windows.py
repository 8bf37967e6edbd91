"""Choose the windows of a training step or an evaluation, and cut them out of the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from charlab.errors import UserError
from charlab.seeding import derive_seed

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


def window_starts(seed: int, step: int, *, batch_size: int, num_starts: int) -> np.ndarray:
    """Return the starts of the windows of one batch: (batch_size,) int64, uniform in [0, num_starts).

    This is a pure function of its arguments, so a resumed run sees the same windows as an uninterrupted one, and every
    process can compute its part of the batch. The numbers come from a counter-based generator (Philox4x64-10, Salmon
    et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), whose key is derived from the seed and whose counter
    holds `step` in its upper half, so the streams of different batches never overlap.

    Args:
        seed: the run's seed.
        step: number of the batch, from 0; in training, the optimizer step.
        batch_size: windows in the whole batch.
        num_starts: number of possible starts: the length of the text − T for windows of T+1 characters.

    Raises:
        UserError: if the text is too short to hold a window.
    """
    if num_starts < 1:
        raise UserError(
            f"A text needs at least one place where a window can start, and has {num_starts}: use a longer text."
        )
    philox = np.random.Philox(key=derive_seed(seed, "windows"), counter=[0, 0, 0, step])
    # The raw stream, unlike Generator.integers, is stable across versions of numpy. The modulo favors some starts by a
    # factor of 1 + num_starts / 2⁶⁴, which is negligible.
    return (philox.random_raw(batch_size) % np.uint64(num_starts)).astype(np.int64)


def consecutive_starts(seed: int, step: int, *, batch_size: int, num_starts: int, length: int) -> np.ndarray:
    """Return the starts of the windows of one batch in which each window continues the previous one in its row.

    The rows start at evenly spaced positions, offset by the seed, and wrap around at the end of the text. Like
    `window_starts`, this is a pure function.

    Args:
        seed: the run's seed.
        step: number of the optimizer step, from 0.
        batch_size: windows in the whole batch.
        num_starts: number of possible starts: the length of the text − T for windows of T+1 characters.
        length: T, the number of characters by which a row advances per step.
    """
    first = derive_seed(seed, "windows") % num_starts
    return (first + np.arange(batch_size) * num_starts // batch_size + step * length) % num_starts


def gather_windows(ids: Int[Tensor, " N"], starts: Int[Tensor, " B"], length: int) -> Int[Tensor, "B length+1"]:
    """Return the windows `ids[start : start + length + 1]` as int64, on the device of `ids`.

    Args:
        ids: (N,) character ids of the whole text, of any integer type.
        starts: (B,) int64 on the same device, each in [0, N − length).
        length: T, the number of predictions in a window of T+1 characters.
    """
    windows = ids.unfold(0, length + 1, 1)  # (N − length, length+1), a view without a copy
    return windows[starts].long()


class Windows(NamedTuple):
    """Windows of equal shape that are scored.

    Attributes:
        starts: (n,) int64, the position of each window's first character in the text.
        length: T for windows of T+1 characters.
        scored_from: the first position to score in each window, in 1 … T; earlier ones are context.
    """

    starts: np.ndarray
    length: int
    scored_from: int = 1


def sampled_windows(seed: int, num_batches: int, *, batch_size: int, num_characters: int, length: int) -> list[Windows]:
    """Return `num_batches` · `batch_size` random windows, drawn from a different stream than those of training.

    Args:
        seed: the run's seed.
        num_batches: number of batches.
        batch_size: windows in a batch.
        num_characters: N, the length of the text.
        length: T of the windows.

    Raises:
        UserError: if the text is too short to hold a window.
    """
    if num_characters <= length:
        raise UserError(
            f"A text of {num_characters} characters is shorter than a window of {length + 1}: "
            f"use a longer text, or a smaller data.context_length."
        )
    own, num_starts = derive_seed(seed, "estimate"), num_characters - length
    batches = [window_starts(own, batch, batch_size=batch_size, num_starts=num_starts) for batch in range(num_batches)]
    return [Windows(np.concatenate(batches), length)]


def adjacent_windows(num_characters: int, length: int) -> list[Windows]:
    """Return windows that score each of a text's N characters but the first once; the last window may be shorter."""
    number, rest = divmod(num_characters - 1, length)
    last = [Windows(np.array([length * number]), rest)] if rest else []
    return [Windows(length * np.arange(number), length), *last]


def in_batches(windows: list[Windows], batch_size: int) -> list[Windows]:
    """Return the windows in batches of at most `batch_size`."""
    return [
        group._replace(starts=group.starts[first : first + batch_size])
        for group in windows
        for first in range(0, len(group.starts), batch_size)
    ]
