"""Where two models differ: the difference of each character's nll, split into parts that add up to the whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

CONTEXT = 3  # characters of a context whose occurrences in the train text are counted
PLACES = ("first letter", "second letter", "third letter", "later letters", "not in a word")
CLASSES = ("letter", "capital", "space", "newline", "digit", "punctuation")
SEEN = ("never", "1 to 9 times", "10 to 99 times", "100 to 999 times", "1,000 times or more")
GRID = 2.0**-28  # nats; float64 sums of multiples of it are exact up to 2²⁵ nats, in any order
APOSTROPHES = "'’"


@dataclass(frozen=True)
class Grouping:
    """A way of splitting the characters of a text.

    Attributes:
        name: what they are split by.
        labels: a name for each part.
        part: (N,), the part of each character, an index of `labels`.
    """

    name: str
    labels: tuple[str, ...]
    part: Int[np.ndarray, " N"]

    def count(self) -> Int[np.ndarray, " G"]:
        """Return the number of characters in each part."""
        return np.bincount(self.part, minlength=len(self.labels))

    def add_up(self, nats: Float[np.ndarray, " N"], block: int | None = None) -> Float[np.ndarray, "G K"]:
        """Return the sum of each part in each block of `block` characters, by default a single block."""
        blocks = np.arange(len(nats)) // (block or max(1, len(nats)))
        number = int(blocks[-1]) + 1 if len(nats) else 1
        size = len(self.labels) * number
        return np.bincount(self.part * number + blocks, weights=nats, minlength=size).reshape(-1, number)


class Passage(NamedTuple):
    """A stretch of a text, and the sum of a difference over it in nats."""

    start: int
    stop: int
    nats: float


def differences(first: Float[np.ndarray, " N"], second: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Return first − second in float64, rounded to multiples of `GRID` so that parts add up to the whole exactly."""
    return np.round((first.astype(np.float64) - second) / GRID) * GRID


def groupings(
    text: str, before: str, train: Iterable[str], positions: Int[np.ndarray, " N"]
) -> tuple[Grouping, Grouping, Grouping, Grouping]:
    """Return four ways of splitting the characters of a text, without its first one, which no model predicts.

    Args:
        text: the text of N+1 characters.
        before: the `CONTEXT` characters that precede it, or fewer if there are fewer.
        train: the text that the models were trained on, part by part.
        positions: (N,), the position in its window of each character but the first, from 1.
    """
    codes = _code_points(before[-CONTEXT:].rjust(CONTEXT, "\0") + text)
    characters, index = np.unique(codes, return_inverse=True)
    known = [chr(code) for code in characters.tolist()]
    skipped = CONTEXT + 1
    classes = np.array([_class(character) for character in known])[index]
    places = _places(
        np.array([character.isalpha() for character in known])[index],
        np.array([character in APOSTROPHES for character in known])[index],
    )
    return (
        _by_position(positions),
        Grouping("place in the word", PLACES, places[skipped:]),
        Grouping("kind of character", CLASSES, classes[skipped:]),
        Grouping(f"times the {CONTEXT} characters before were trained on", SEEN, _seen(codes[1:-1], train)),
    )


def _by_position(positions: Int[np.ndarray, " N"]) -> Grouping:
    """Group positions by powers of two: 1, 2–3, 4–7, …."""
    power = np.frexp(positions)[1] - 1
    last = int(positions.max(initial=1))
    firsts = [2**k for k in range(last.bit_length())]
    labels = [
        f"{first}–{min(2 * first - 1, last)}" if min(2 * first - 1, last) > first else f"{first}" for first in firsts
    ]
    return Grouping("position in the window", tuple(labels), power)


def _places(letter: np.ndarray, apostrophe: np.ndarray) -> np.ndarray:
    """Return the place of each character in its word, an index of `PLACES`.

    A word is a run of letters, and of apostrophes that have a letter on either side.
    """
    inside = letter.copy()
    inside[1:-1] |= apostrophe[1:-1] & letter[:-2] & letter[2:]
    index = np.arange(len(inside))
    since = index - np.maximum.accumulate(np.where(inside, -1, index))  # 0 outside words, else 1, 2, 3, …
    return np.where(inside, np.minimum(since, 4) - 1, 4)


def _class(character: str) -> int:
    if character == "\n":
        return 3
    if character.isspace():
        return 2
    if character.isalpha():
        return 1 if character.isupper() else 0
    return 4 if character.isdigit() else 5


def _seen(codes: Int[np.ndarray, " M"], train: Iterable[str]) -> Int[np.ndarray, " M-2"]:
    """Return how often each context occurs in the train text, an index of `SEEN`."""
    wanted, index = np.unique(_contexts(codes), return_inverse=True)
    counts = np.zeros(len(wanted) + 1, dtype=np.int64)  # the last is for all others
    rest = codes[:0]
    for part in train:
        read = np.concatenate([rest, _code_points(part)])
        found = _contexts(read)
        place = np.searchsorted(wanted, found)
        place[wanted[np.minimum(place, len(wanted) - 1)] != found] = len(wanted)
        counts += np.bincount(place, minlength=len(counts))
        rest = read[max(0, len(read) - CONTEXT + 1) :]
    return np.searchsorted([1, 10, 100, 1000], counts[index], side="right")


def _contexts(codes: Int[np.ndarray, " M"]) -> Int[np.ndarray, " M-2"]:
    """Encode every `CONTEXT` consecutive characters as one number."""
    wide = codes.astype(np.int64)
    return (wide[:-2] << 42) | (wide[1:-1] << 21) | wide[2:]


def passages(nats: Float[np.ndarray, " N"], *, most: int = 20, length: int = 80) -> list[Passage]:
    """Return the stretches of `length` characters that differ most in either direction, without overlap, most first."""
    length = min(length, len(nats))
    reached = np.concatenate([[0.0], np.cumsum(nats)])
    sums = reached[length:] - reached[:-length]  # exact on the grid
    left = np.abs(sums)
    found: list[Passage] = []
    while len(found) < most and left.size and left.max() > 0:
        start = int(left.argmax())
        found.append(Passage(start, start + length, float(sums[start])))
        left[max(0, start - length + 1) : start + length] = 0.0
    return found


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
