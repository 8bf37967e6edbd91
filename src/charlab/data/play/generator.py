"""Verse plays whose random choices, and so whose exact probability, can be recovered from the text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from charlab.data.play.choice import Choice, character_costs
from charlab.data.play.stage import tell
from charlab.errors import UserError

DRAWS_PER_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Decision:
    """One chosen string of a text.

    Attributes:
        text: the string; at the end of a text it may be only a string's beginning.
        index: the string's index among the options; None for a string's beginning.
        probability: the string's probability, or that of all strings with this beginning.
    """

    text: str
    index: int | None
    probability: Fraction


def generate(seed: int, length: int) -> str:
    """Return the first `length` characters of the plays of `seed`, the same on every machine."""
    return generate_with_nll(seed, length)[0]


def generate_with_nll(seed: int, length: int) -> tuple[str, np.ndarray]:
    """Return the text of `generate` and its `nll_per_character`, without reading the text back."""
    draws = _draws(seed)
    telling = tell()
    choice = next(telling)
    chosen = _Chosen()
    written = 0
    while written < length:
        draw = next(draws)
        while draw >= choice.draw_limit:
            draw = next(draws)
        index = choice.pick(draw)
        written += chosen.add(choice, index)
        choice = telling.send(index)
    return chosen.text()[:length], chosen.nll()[:length]


def decode(text: str) -> list[Decision]:
    """Return the choices in `text`; its probability is the product of theirs.

    Raises:
        UserError: if the generator cannot have written the text.
    """
    decisions = []
    for choice, index, part in _read(text):
        weight = choice.weight_of_prefix(part) if index is None else choice.weights[index]
        decisions.append(Decision(part, index, Fraction(weight, choice.total)))
    return decisions


def nll_per_character(text: str) -> np.ndarray:
    """Return the nll of a text under its generator: no model can do better in expectation.

    Args:
        text: a text returned by `generate`, from its first character on.

    Returns:
        (len(text),) float64: −log p(character t | characters before t), in nats, the first character included.

    Raises:
        UserError: if the generator cannot have written the text.
    """
    chosen = _Chosen()
    rest = np.empty(0)
    for choice, index, part in _read(text):
        if index is None:
            weights = [choice.total, *(choice.weight_of_prefix(part[:end]) for end in range(1, len(part) + 1))]
            rest = -np.diff(np.log(weights))
        else:
            chosen.add(choice, index)
    return np.concatenate([chosen.nll(), rest])


def _read(text: str) -> Iterator[tuple[Choice, int | None, str]]:
    """Yield each choice in a text, the index of the chosen string, and the string.

    If the text ends within a string, the last index is None, and the string is the part that is there.
    """
    telling = tell()
    choice = next(telling)
    position = 0
    while position < len(text):
        index = choice.find(text, position)
        if index is None:
            rest = text[position:]
            if choice.weight_of_prefix(rest):
                yield choice, None, rest
                return
            while not choice.weight_of_prefix(rest):
                rest = rest[:-1]
            place = position + len(rest)
            line = text.count("\n", 0, place) + 1
            before = text[max(0, place - 40) : place]
            raise UserError(
                f"The generator never writes {text[place]!r} after {before!r}, as the text does at character {place}, "
                f"line {line}: give a text that it wrote, from its first character on."
            )
        yield choice, index, choice.texts[index]
        position += len(choice.texts[index])
        choice = telling.send(index)


def _draws(seed: int) -> Iterator[int]:
    """Yield uniform integers in [0, 2³²): the output of SHAKE-128 (FIPS 202) on the seed and a block's number."""
    block = 0
    while True:
        digest = hashlib.shake_128(f"charlab play {seed}/{block}".encode()).digest(4 * DRAWS_PER_BLOCK)
        yield from np.frombuffer(digest, dtype="<u4").tolist()
        block += 1


class _Chosen:
    """The strings chosen so far, prepared for computing the nll of all of them at once."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._rows: list[int] = []  # for each string, in the table of all strings of all choices so far
        self._first_rows: dict[Choice, int] = {}
        self._num_rows = 0

    def add(self, choice: Choice, index: int) -> int:
        """Add a string, and return its length."""
        first_row = self._first_rows.get(choice)
        if first_row is None:
            first_row = self._first_rows[choice] = self._num_rows
            self._num_rows += len(choice.texts)
        text = choice.texts[index]
        self._rows.append(first_row + index)
        self._texts.append(text)
        return len(text)

    def text(self) -> str:
        return "".join(self._texts)

    def nll(self) -> np.ndarray:
        if not self._rows:
            return np.empty(0)
        costs, lengths = character_costs(list(self._first_rows))
        rows = np.array(self._rows)
        lengths = lengths[rows]
        starts = np.cumsum(lengths) - lengths
        columns = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        nll: np.ndarray = costs[np.repeat(rows, lengths), columns]
        return nll
