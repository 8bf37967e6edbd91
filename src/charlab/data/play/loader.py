"""The loader of the embedded corpus."""

from __future__ import annotations

from charlab.data.corpus import Corpus
from charlab.data.play.generator import generate_with_nll
from charlab.types import PositiveInt, checked


class Play:
    """Generated verse plays in tiny Shakespeare's alphabet, with their entropy floor; needs no file and no network.

    Args:
        seed: which plays: any integer.
        length: number of characters, at least 1.
    """

    @checked
    def __init__(self, *, seed: int = 305, length: PositiveInt = 1_000_000) -> None:
        self.seed = seed
        self.length = length

    def load(self) -> Corpus:
        """Returns the plays; their floor of a part of the text is the mean of `floor_per_character` there."""
        text, nll = generate_with_nll(self.seed, self.length)
        return Corpus.of("play", text, floor_per_character=nll)
