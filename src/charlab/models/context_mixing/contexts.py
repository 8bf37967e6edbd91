"""Contexts for counting: the text before a character, reduced to one number per position.

A context is a hash of one or more stretches of the text: the last n characters, the letters of a word so far, the word
before. Two positions have the same context if these agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from charlab.models.context_mixing.bit_counts import Keys, previous_occurrence

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so it has an inverse modulo 2⁶⁴
INVERSE = np.uint64(pow(int(FACTOR), -1, 2**64))


@dataclass(frozen=True)
class Alphabet:
    """The properties of characters that contexts depend on.

    Attributes:
        folded: (V,), the character to read in place of each where case and line breaks do not matter.
        in_word: (V,), whether it is a letter or an apostrophe.
        ends_line: (V,), whether it is a newline.
    """

    folded: Int[np.ndarray, " V"]
    in_word: Bool[np.ndarray, " V"]
    ends_line: Bool[np.ndarray, " V"]

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> Alphabet:
        """Return the alphabet of V tokens, given the bytes of each."""
        texts = [piece.decode("utf-8", "surrogateescape") for piece in pieces]  # differ even for parts of a character
        index = {text: number for number, text in enumerate(texts)}
        folded = [index.get(" " if text == "\n" else text.lower(), number) for text, number in index.items()]
        return cls(
            np.array(folded),
            np.array([text.isalpha() or text == "'" for text in texts]),
            np.array([text == "\n" for text in texts]),
        )


class FeaturedText:
    """A text, and features of each position t in 0 … N that depend only on the characters before t.

    Args:
        ids: (N,) character ids.
        alphabet: the properties of the characters.
        earlier: the earlier text in which to look up `followers`; None to look them up in this text itself.
    """

    def __init__(self, ids: Int[np.ndarray, " N"], alphabet: Alphabet, earlier: FeaturedText | None = None) -> None:
        self.ids, self.alphabet, self.earlier = ids.astype(np.int64), alphabet, earlier
        self.positions = np.arange(len(ids) + 1)
        self._places: dict[Any, tuple[Keys, Int[np.ndarray, " N"]]] = {}

    def last(self, number: int) -> Keys:
        """Return a hash of the last `number` characters."""
        return self._characters(self.positions - number, self.positions)

    def last_folded(self, number: int) -> Keys:
        """Return a hash of the last `number` characters, without case or line breaks."""
        return self._folded(self.positions - number, self.positions)

    def character(self, age: int) -> Keys:
        """Return a hash of the character `age` positions before t; 1 for the last one."""
        return self._characters(self.positions - age, np.maximum(self.positions - age + 1, 0))

    def word(self, age: int) -> Keys:
        """Return a hash of the word so far (age 0), of the word before it (age 1), and so on."""
        return self._folded(*self._word(age))

    def ending(self, number: int) -> Keys:
        """Return a hash of the last `number` letters of the word before."""
        start, stop = self._word(1)
        return self._folded(np.maximum(start, stop - number), stop)

    @cached_property
    def gap(self) -> Keys:
        """A hash of what separates the current word from the one before."""
        return self._characters(self._word(1)[1], self._word(0)[0])

    @cached_property
    def column(self) -> Int[np.ndarray, " N+1"]:
        """The number of characters since the beginning of the line."""
        return self.positions - self._after(self.alphabet.ends_line[self.ids])

    @cached_property
    def speech(self) -> Int[np.ndarray, " N+1"]:
        """Where the paragraph begins, after the last empty line."""
        ends = self.alphabet.ends_line[self.ids]
        return self._after(ends & np.append(False, ends[:-1])[: len(ends)])

    @cached_property
    def line(self) -> Int[np.ndarray, " N+1"]:
        """The number of lines since the beginning of the paragraph."""
        breaks = np.append(0, np.cumsum(self.alphabet.ends_line[self.ids]))
        return breaks - breaks[self.speech]

    @cached_property
    def speaker(self) -> Keys:
        """A hash of the paragraph's first line, which in a play names the speaker."""
        ends = np.append(self.alphabet.ends_line[self.ids], True)
        next_end = np.minimum.accumulate(np.where(ends, self.positions, len(self.ids))[::-1])[::-1]
        return self._characters(self.speech, np.minimum(next_end[self.speech], self.positions))

    def followers(self, name: str, number: int) -> tuple[Int[np.ndarray, " N+1"], ...]:
        """Return which characters followed the last `number` occurrences of a context, the latest first; −1 for none.

        Args:
            name: name of the context, a key of `CONTEXTS`.
            number: number of occurrences.
        """
        keys = CONTEXTS[name](self)
        if self.earlier is None:
            before = np.append(previous_occurrence(keys), -1)  # the last entry is the one that −1 indexes
            place, ids, places = before[:-1], np.append(self.ids, -1), []
            for _ in range(number):
                places.append(place)
                place = before[place]
            return tuple(np.where(place >= 0, ids[place], -1) for place in places)
        known, order = self.earlier.places(name)
        if not len(known):
            return (np.full(len(keys), -1),) * number
        end = np.searchsorted(known, keys, side="right")
        found = []
        for age in range(1, number + 1):
            place = np.maximum(end - age, 0)
            is_there = (end >= age) & (known[place] == keys)
            found.append(np.where(is_there, self.earlier.ids[order[place]], -1))
        return tuple(found)

    def places(self, name: str) -> tuple[Keys, Int[np.ndarray, " N"]]:
        """Return a context's values in sorted order, and their positions."""
        if name not in self._places:
            keys = CONTEXTS[name](self)[:-1]  # no character follows the last position
            order = np.argsort(keys, kind="stable")
            self._places[name] = keys[order], order
        return self._places[name]

    def _word(self, age: int) -> tuple[Int[np.ndarray, " N+1"], Int[np.ndarray, " N+1"]]:
        """Return where the word of this age begins and ends; see `word`."""
        in_word = self.alphabet.in_word[self.ids]
        after_gap, after_word = self._after(~in_word), self._after(in_word)
        start, stop = after_gap, self.positions
        for _ in range(age):
            stop = after_word[start]
            start = after_gap[stop]
        return start, stop

    def _after(self, mask: Bool[np.ndarray, " N"]) -> Int[np.ndarray, " N+1"]:
        """Return for each t the position after the last one before t where `mask` is true; 0 if there is none."""
        return np.append(0, np.maximum.accumulate(np.where(mask, self.positions[1:], 0)))

    @cached_property
    def _characters(self) -> Stretches:
        return Stretches(self.ids)

    @cached_property
    def _folded(self) -> Stretches:
        return Stretches(self.alphabet.folded[self.ids])


class Stretches:
    """Hashes of all stretches of a text, from sums of xₜ Bᵗ modulo 2⁶⁴ (Karp and Rabin 1987).

    Args:
        ids: (N,) character ids.
    """

    def __init__(self, ids: Int[np.ndarray, " N"]) -> None:
        powers, self.inverses = (
            np.cumprod(np.append(np.uint64(1), np.full(len(ids), base, np.uint64)), dtype=np.uint64)
            for base in (FACTOR, INVERSE)
        )
        terms = (ids.astype(np.uint64) + np.uint64(1)) * powers[:-1]
        self.sums = np.append(np.uint64(0), np.cumsum(terms, dtype=np.uint64))

    def __call__(self, start: Int[np.ndarray, " N"], stop: Int[np.ndarray, " N"]) -> Keys:
        start = np.maximum(start, 0)
        return (self.sums[stop] - self.sums[start]) * self.inverses[start]


def combined_hash(*parts: np.ndarray) -> Keys:
    """Combine several numbers per position into one hash per position."""
    mixed = np.zeros(1, np.uint64)
    for part in parts:
        mixed = mix_bits(mixed * np.uint64(3) + part.astype(np.uint64))
    return mixed


def mix_bits(keys: Keys) -> Keys:
    """Return keys in which every bit depends on all bits (a variant of SplitMix64's finalizer, Steele et al. 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) + FACTOR
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def _last(number: int) -> Callable[[FeaturedText], Keys]:
    return lambda text: text.last(number)


def _folded(number: int) -> Callable[[FeaturedText], Keys]:
    return lambda text: text.last_folded(number)


def _followers(name: str, of: str) -> Callable[[FeaturedText], Keys]:
    return lambda text: combined_hash(*text.followers(of, 2), CONTEXTS[name](text))


CONTEXTS: dict[str, Callable[[FeaturedText], Keys]] = {
    # The last characters, or the last of a text without case and line breaks.
    **{f"last_{number}": _last(number) for number in range(33)},
    **{f"folded_{number}": _folded(number) for number in range(1, 17)},
    # The current word so far, with what precedes it.
    "word": lambda text: text.word(0),
    "word_gap": lambda text: combined_hash(text.word(0), text.gap),
    "word_1": lambda text: combined_hash(text.word(0), text.word(1)),
    "word_2": lambda text: combined_hash(text.word(0), text.word(2)),
    "word_1_2": lambda text: combined_hash(text.word(0), text.word(1), text.word(2)),
    "word_1_2_3": lambda text: combined_hash(text.word(0), text.word(1), text.word(2), text.word(3)),
    "word_ending": lambda text: combined_hash(text.word(0), text.gap, text.ending(2)),
    # The place in the line and in the speech.
    "word_column": lambda text: combined_hash(text.word(0), np.minimum(text.column // 4, 15)),
    "word_line": lambda text: combined_hash(text.word(0), np.minimum(text.line, 3), np.minimum(text.column, 3)),
    "word_speaker": lambda text: combined_hash(text.word(0), text.speaker),
    "last_3_speaker": lambda text: combined_hash(text.last(3), text.speaker),
    # Characters that are not adjacent.
    "skip_2_3": lambda text: combined_hash(text.character(2), text.character(3)),
    "skip_2_4": lambda text: combined_hash(text.character(2), text.character(3), text.character(4)),
    "skip_1_3_4": lambda text: combined_hash(text.character(1), text.character(3), text.character(4)),
    # What followed the last occurrences of the last characters: "indirect" contexts, as in paq8.
    **{f"followers_{number}": _followers("last_1", f"last_{number}") for number in (1, 2, 3)},
    **{f"followers_{number}_word": _followers("word", f"last_{number}") for number in (1, 2, 3)},
}
