"""A cache of all positions read so far, for mixers that look back at them."""

from __future__ import annotations

from typing import NamedTuple, Self

from torch import Tensor

from charlab.errors import UserError


class Cache(NamedTuple):
    """A state with buffers for a whole context, whose first `length` positions are in use.

    A state and its extension share buffers, so that extending copies nothing. A second extension of the same state
    would overwrite the first; `written` reveals this, and the second one copies the buffers.

    Attributes:
        buffers: each (…, C, K), with the positions along the second-to-last axis.
        length: positions read so far.
        written: a list with the number of positions written, shared by all states with the same buffers.
    """

    buffers: tuple[Tensor, ...]
    length: int
    written: list[int]

    @classmethod
    def of(cls, *buffers: Tensor) -> Self:
        """Return the state before the first position."""
        return cls(buffers, 0, [0])

    def check_room(self, count: int) -> None:
        """Raise `UserError` if the buffers have no room for `count` more positions."""
        end, room = self.length + count, self.buffers[0].shape[-2]
        if end > room:
            raise UserError(f"{end} characters do not fit in context_length={room}.")

    def append(self, *positions: Tensor) -> Self:
        """Return the state that also holds `positions`, a tensor (…, n, K) for each buffer."""
        start, end = self.length, self.length + positions[0].shape[-2]
        buffers, written = self.buffers, self.written
        if written[0] > start:
            buffers, written = tuple(buffer.clone() for buffer in buffers), [start]
        for buffer, new in zip(buffers, positions, strict=True):
            buffer[..., start:end, :] = new
        written[0] = end
        return type(self)(buffers, end, written)

    def read(self) -> tuple[Tensor, ...]:
        """Return the positions in use of each buffer, (…, length, K)."""
        return tuple(buffer[..., : self.length, :] for buffer in self.buffers)
