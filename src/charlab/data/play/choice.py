"""A choice between strings, and what each character of the chosen string costs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

DRAW_BITS = 32  # a draw is an integer in [0, 2³²)


class Choice:
    """A choice of the next string: string i with probability weights[i] / total.

    No string is a prefix of another, so the text shows which one was chosen. Weights are integers, so that all
    machines make the same choice, without rounding.

    Attributes:
        texts: the strings, in the order of code points.
        weights: a positive integer for each string.
        total: the sum of the weights.
        draw_limit: draws from here on are discarded, because modulo `total` they would favor the first strings.
    """

    __slots__ = ("cumulative", "draw_limit", "texts", "total", "weights")

    def __init__(self, texts: Sequence[str], weights: Sequence[int]) -> None:
        """Raise ValueError if there are no strings, they are out of order, or one is a prefix of another."""
        if not texts or not texts[0] or min(weights) < 1:
            raise ValueError(f"a choice needs strings and positive weights, not {texts} and {weights}")
        for one, other in pairwise(texts):
            if one >= other or other.startswith(one):
                raise ValueError(f"{one!r} begins {other!r} or belongs after it")
        self.texts = texts
        self.weights = weights
        self.cumulative = list(accumulate(weights))
        self.total = self.cumulative[-1]
        self.draw_limit = (1 << DRAW_BITS) // self.total * self.total

    @classmethod
    def among(cls, texts: Sequence[str], weights: Sequence[int] | None = None) -> Choice:
        """Return a choice among strings in any order, equally probable without `weights`."""
        order = sorted(range(len(texts)), key=texts.__getitem__)
        return cls([texts[i] for i in order], [weights[i] if weights else 1 for i in order])

    def pick(self, draw: int) -> int:
        """Return the index of the string for a draw below `draw_limit`."""
        return bisect_right(self.cumulative, draw % self.total)


def character_costs(choices: Sequence[Choice]) -> tuple[np.ndarray, np.ndarray]:
    """Return the cost of each character of each string of each choice.

    A character's probability is the weight of the strings that continue with it over the weight of all strings
    possible before it. Strings with a common prefix are adjacent, so the weights of prefixes of length d are sums over
    runs of strings, for all choices at once.

    Args:
        choices: the choices, n strings in all.

    Returns:
        The costs, −log p in nats of each character given those before it, (n, longest string) float64, meaningless
        beyond a string's end; and the lengths of the strings, (n,) int64.
    """
    texts = np.array([text for choice in choices for text in choice.texts])  # (n,)
    weights = np.array([weight for choice in choices for weight in choice.weights], dtype=np.int64)
    sizes = [len(choice.texts) for choice in choices]
    totals = np.array([choice.total for choice in choices])
    characters = texts.view(np.uint32).reshape(len(texts), -1)  # (n, longest), padded with 0
    starts_run = np.zeros(len(texts), dtype=bool)
    starts_run[np.cumsum([0, *sizes[:-1]])] = True
    before = np.log(np.repeat(totals, sizes))
    costs = np.empty(characters.shape)
    for depth in range(characters.shape[1]):
        starts_run[1:] |= characters[1:, depth] != characters[:-1, depth]
        starts = np.flatnonzero(starts_run)
        run_weights = np.add.reduceat(weights, starts)
        after = np.log(np.repeat(run_weights, np.diff(starts, append=len(texts))))
        costs[:, depth] = before - after
        before = after
    return costs, np.char.str_len(texts).astype(np.int64)
