"""Reads the embedded corpus back: the choices behind a text, and so its exact probability, from the text alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from charlab.data.play.choice import Choice
from charlab.data.play.stage import tell


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


def decode(text: str) -> list[Decision]:
    """Return the choices in `text`; its probability is the product of theirs.

    Raises:
        ValueError: if the generator cannot have written the text.
    """
    decisions = []
    for choice, index, part in _read(text):
        weight = _weight_of_prefix(choice, part) if index is None else choice.weights[index]
        decisions.append(Decision(part, index, Fraction(weight, choice.total)))
    return decisions


def nll_per_character(text: str) -> np.ndarray:
    """Return −log p(character t | characters before t) of a text from the generator, from its first character on."""
    nll: list[float] = []
    for choice, _, part in _read(text):
        weights = [_weight_of_prefix(choice, part[:end]) for end in range(len(part) + 1)]
        nll.extend(-np.diff(np.log(weights)))
    return np.array(nll)


def _read(text: str) -> Iterator[tuple[Choice, int | None, str]]:
    """Yield each choice in a text, the index of the chosen string, and the string.

    If the text ends within a string, the last index is None, and the string is the part that is there.
    """
    telling = tell()
    choice = next(telling)
    position = 0
    while position < len(text):
        index = _find(choice, text, position)
        if index is None:
            rest = text[position:]
            if _weight_of_prefix(choice, rest):
                yield choice, None, rest
                return
            while not _weight_of_prefix(choice, rest):
                rest = rest[:-1]
            place = position + len(rest)
            line = text.count("\n", 0, place) + 1
            before = text[max(0, place - 40) : place]
            raise ValueError(
                f"The generator never writes {text[place]!r} after {before!r}, as the text does at character {place}, "
                f"line {line}: give a text that it wrote, from its first character on."
            )
        yield choice, index, choice.texts[index]
        position += len(choice.texts[index])
        choice = telling.send(index)


def _find(choice: Choice, text: str, position: int) -> int | None:
    """Return the index of the string in `text` at `position`, or None if there is none."""
    index, lengths = _indexed(choice)
    for length in lengths:
        if (found := index.get(text[position : position + length])) is not None:
            return found
    return None


@cache
def _indexed(choice: Choice) -> tuple[dict[str, int], list[int]]:
    return {text: index for index, text in enumerate(choice.texts)}, sorted({len(text) for text in choice.texts})


@cache
def _weight_of_prefix(choice: Choice, prefix: str) -> int:
    """Return the sum of the weights of all strings that begin with `prefix`."""
    return sum(weight for text, weight in zip(choice.texts, choice.weights, strict=True) if text.startswith(prefix))
