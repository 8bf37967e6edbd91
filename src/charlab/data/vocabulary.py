"""The characters that a model knows, and their ids."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from charlab.errors import UserError

_CHUNK = 1 << 20  # characters encoded at a time, since code points need four bytes each and corpora may have 10⁸


@dataclass(frozen=True)
class Vocabulary:
    """A one-to-one map between characters and the ids 0 … V−1, in the order of the code points.

    Attributes:
        characters: the distinct characters, sorted by code point; a character's id is its index here.
        start: the character after which a text without a prompt begins: a newline, or for a text without newlines its
            most frequent character; None if unknown.

    Raises:
        UserError: if `characters` is empty, not sorted, or repeats a character.
    """

    characters: str
    start: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.characters or list(self.characters) != sorted(set(self.characters)):
            raise UserError(
                f"A vocabulary needs distinct characters in the order of their code points, unlike "
                f"{self.characters!r}: use `Vocabulary.of(text)`."
            )
        if self.start is None and "\n" in self.characters:
            object.__setattr__(self, "start", "\n")

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the vocabulary of the characters in `text`."""
        characters = "".join(sorted(set(text)))
        return cls(characters, None if "\n" in characters or not text else _most_frequent(text))

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def dtype(self) -> type[np.integer]:
        """The smallest integer type that holds every id and that torch supports well."""
        if len(self) <= 256:
            return np.uint8
        return np.int16 if len(self) <= 2**15 else np.int32  # torch supports few operations on uint16

    def encode(self, text: str, *, source: str = "the text") -> np.ndarray:
        """Return the ids of `text`, (len(text),) of the smallest integer type that holds them.

        Args:
            text: the characters to look up.
            source: what the error message calls the text, such as "the prompt".

        Raises:
            UserError: if a character is not in the vocabulary; names the first one, its code point and its place.
        """
        ids = np.empty(len(text), dtype=self.dtype)
        for start in range(0, len(text), _CHUNK):
            codes = _code_points(text[start : start + _CHUNK])
            found = self._ids_by_code_point[np.minimum(codes, len(self._ids_by_code_point) - 1)]
            unknown = np.flatnonzero(found < 0)
            if unknown.size:
                raise self._unknown_character(text, start + int(unknown[0]), source)
            ids[start : start + _CHUNK] = found
        return ids

    def decode(self, ids: ArrayLike) -> str:
        """Return the text whose ids are `ids`, an array, CPU tensor or list of shape (N,).

        Raises:
            IndexError: if an id is not in 0 … V−1.
        """
        indices = np.asarray(ids, dtype=np.int64)
        if indices.size and indices.min() < 0:
            raise IndexError(f"an id is at least 0, not {indices.min()}")
        return self._code_points[indices].tobytes().decode("utf-32-le", errors="surrogatepass")

    @cached_property
    def _code_points(self) -> np.ndarray:  # (V,)
        return _code_points(self.characters)

    @cached_property
    def _ids_by_code_point(self) -> np.ndarray:
        """The id of every code point up to the largest known one, and one more entry for all beyond; −1 if unknown."""
        table = np.full(int(self._code_points[-1]) + 2, -1, dtype=np.int32)
        table[self._code_points] = np.arange(len(self))
        return table

    def _unknown_character(self, text: str, index: int, source: str) -> UserError:
        character = text[index]
        line = text.count("\n", 0, index) + 1
        column = index - text.rfind("\n", 0, index)
        return UserError(
            f"Character {index + 1} of {source} (line {line}, column {column}) is {character!r} "
            f"(U+{ord(character):04X}), which is not in the vocabulary of {len(self)} characters: remove or replace it."
        )


def _most_frequent(text: str) -> str:
    counts = np.zeros(0x110000, dtype=np.int64)  # of every possible code point
    for start in range(0, len(text), _CHUNK):
        found = np.bincount(_code_points(text[start : start + _CHUNK]))
        counts[: len(found)] += found
    return chr(int(counts.argmax()))


def _code_points(text: str) -> np.ndarray:
    """Return the code points of `text`, (len(text),) uint32, including lone surrogates (from a terminal)."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
