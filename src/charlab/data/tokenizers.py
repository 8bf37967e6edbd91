"""Tokenizers: how a text becomes a sequence of tokens, and tokens become a text again.

A tokenizer is a function from a text to the `Vocabulary` that a model of this text knows. Figures are per character of
the text, whatever its tokens are, so a vocabulary also says how many characters begin in each token.
"""

from __future__ import annotations

import codecs
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from charlab.errors import UserError

_CHUNK = 1 << 20  # characters encoded at a time, since code points need four bytes each and corpora may have 10⁸


class Vocabulary(ABC):
    """The tokens that a model knows, with ids 0 … V−1. Decoding the ids of a text gives back the text.

    Attributes:
        unit: what the tokens are, in the plural.
        likelihood: "exact" if every text has a single sequence of tokens; "bound" if it has several, so that −log p of
            the one that `encode` returns is an upper bound on −log p of the text.
        most_tokens: maximum number of tokens in a character.
        start: the text after which a text without a prompt begins: a newline, or for a text without newlines its most
            frequent character; None if unknown.
    """

    unit: ClassVar[str]
    likelihood: ClassVar[Literal["exact", "bound"]] = "exact"
    most_tokens: ClassVar[int] = 4
    start: str | None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of tokens V."""

    @abstractmethod
    def encode(self, text: str, *, source: str = "the text") -> np.ndarray:
        """Return the ids of `text`, (N,) of the smallest integer type that holds them.

        Args:
            text: the text.
            source: what the error message calls the text, such as "the prompt".

        Raises:
            UserError: if a character is not in the vocabulary; names the first one, its code point and its place.
        """

    @abstractmethod
    def decode(self, ids: ArrayLike) -> str:
        """Return the text of `ids`, an array, CPU tensor or list of shape (N,).

        A byte that is not part of a UTF-8 character becomes a lone surrogate, as in Python's "surrogateescape".

        Raises:
            IndexError: if an id is not in 0 … V−1.
        """

    @abstractmethod
    def decoder(self) -> Callable[[int], str]:
        """Return a function that decodes one id at a time; a character appears once its last byte has been decoded."""

    @abstractmethod
    def knows(self, character: str) -> bool:
        """Return whether a character can be encoded."""

    @property
    @abstractmethod
    def pieces(self) -> list[bytes]:
        """The UTF-8 bytes of each token."""

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray | None:
        """How many characters begin in each token, (V,) int64; None if each token is a character.

        The lengths of a text's tokens add up to that of the text, unless it has bytes that are not UTF-8.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the constructor's arguments as text, numbers and lists, for a checkpoint."""

    @property
    def dtype(self) -> type[np.integer]:
        """The smallest integer type that holds every id and that torch supports well."""
        if len(self) <= 256:
            return np.uint8
        return np.int16 if len(self) <= 2**15 else np.int32  # torch supports few operations on uint16


class TextSource(Protocol):
    """A text that can be longer than memory; see `charlab.data.corpora.Corpus`."""

    def between(self, start: int = 0, stop: int | None = None) -> Iterator[str]: ...


Tokenizer = Callable[[TextSource, slice], Vocabulary]
"""A function from a whole text and the part of it that is trained on to a vocabulary of the whole text."""


@dataclass(frozen=True)
class Characters(Vocabulary):
    """Characters as tokens, in the order of their code points.

    Attributes:
        characters: the distinct characters, sorted by code point; a character's id is its index here.
        start: see `Vocabulary`.

    Raises:
        UserError: if `characters` is empty, not sorted, or repeats a character.
    """

    unit = "characters"
    most_tokens = 1
    lengths = None

    characters: str
    start: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.characters or list(self.characters) != sorted(set(self.characters)):
            raise UserError(
                f"A vocabulary needs distinct characters in the order of their code points, unlike "
                f"{self.characters!r}: use `Characters.of(text)`."
            )
        if self.start is None and "\n" in self.characters:
            object.__setattr__(self, "start", "\n")

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the vocabulary of the characters in `text`."""
        return cls(*alphabet(chunks(text)))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str, *, source: str = "the text") -> np.ndarray:
        ids = np.empty(len(text), dtype=self.dtype)
        for start in range(0, len(text), _CHUNK):
            codes = _code_points(text[start : start + _CHUNK])
            found = self._ids_by_code_point[np.minimum(codes, len(self._ids_by_code_point) - 1)]
            unknown = np.flatnonzero(found < 0)
            if unknown.size:
                raise _unknown(text, start + int(unknown[0]), source, self)
            ids[start : start + _CHUNK] = found
        return ids

    def decode(self, ids: ArrayLike) -> str:
        indices = np.asarray(ids, dtype=np.int64)
        if indices.size and indices.min() < 0:
            raise IndexError(f"an id is at least 0, not {indices.min()}")
        return self._code_points[indices].tobytes().decode("utf-32-le", errors="surrogatepass")

    def decoder(self) -> Callable[[int], str]:
        return self.characters.__getitem__

    def knows(self, character: str) -> bool:
        return character in self.characters

    @cached_property
    def pieces(self) -> list[bytes]:
        return [character.encode("utf-8", "surrogatepass") for character in self.characters]

    def state(self) -> dict[str, Any]:
        return {"characters": self.characters, "start": self.start}

    @cached_property
    def _code_points(self) -> np.ndarray:  # (V,)
        return _code_points(self.characters)

    @cached_property
    def _ids_by_code_point(self) -> np.ndarray:
        """The id of every code point up to the largest known one, and one more entry for all beyond; −1 if unknown."""
        table = np.full(int(self._code_points[-1]) + 2, -1, dtype=np.int32)
        table[self._code_points] = np.arange(len(self))
        return table


@dataclass(frozen=True)
class Bytes(Vocabulary):
    """The bytes of the text's UTF-8 form as tokens. A character beyond ASCII takes two to four of them.

    An ASCII text has the same ids as with `Characters`.

    Attributes:
        known: the bytes that occur, sorted, as the characters U+0000 … U+00FF.
        start: see `Vocabulary`.
    """

    known: str
    start: str | None = field(default=None, compare=False)

    unit = "bytes"

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the vocabulary of the bytes in `text`."""
        return cls(*byte_alphabet(chunks(text)))

    def __len__(self) -> int:
        return len(self.known)

    def encode(self, text: str, *, source: str = "the text") -> np.ndarray:
        parts = [self._encode(utf8(part, source)) for part in chunks(text)]
        ids = np.concatenate(parts) if parts else np.empty(0, dtype=np.int16)
        if (ids < 0).any():
            raise _unknown(text, self._first_unknown(text), source, self)
        return ids.astype(self.dtype)

    def decode(self, ids: ArrayLike) -> str:
        indices = np.asarray(ids, dtype=np.int64)
        if indices.size and indices.min() < 0:
            raise IndexError(f"an id is at least 0, not {indices.min()}")
        return b"".join(self.pieces[index] for index in indices.tolist()).decode("utf-8", "surrogateescape")

    def decoder(self) -> Callable[[int], str]:
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        return lambda index: decoder.decode(self.pieces[index])

    def knows(self, character: str) -> bool:
        return set(utf8(character, "the text")) <= set(self.known.encode("latin-1"))

    @cached_property
    def pieces(self) -> list[bytes]:
        return [character.encode("latin-1") for character in self.known]

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.array([sum(not 0x80 <= byte < 0xC0 for byte in piece) for piece in self.pieces])  # not a continuation

    def state(self) -> dict[str, Any]:
        return {"known": self.known, "start": self.start}

    def _encode(self, data: bytes) -> np.ndarray:
        """Return ids as int16 or int32; −1 for a byte that is not known."""
        return self._ids_by_byte[np.frombuffer(data, dtype=np.uint8)]

    @cached_property
    def _ids_by_byte(self) -> np.ndarray:
        table = np.full(256, -1, dtype=np.int16)
        table[np.frombuffer(self.known.encode("latin-1"), dtype=np.uint8)] = np.arange(len(self.known))
        return table

    def _first_unknown(self, text: str) -> int:
        return next(index for index, character in enumerate(text) if not self.knows(character))


def characters(text: TextSource, train: slice) -> Characters:
    """Make each distinct character of a text a token."""
    return Characters(*alphabet(text.between()))


def utf8_bytes(text: TextSource, train: slice) -> Bytes:
    """Make each distinct byte of a text's UTF-8 form a token."""
    return Bytes(*byte_alphabet(text.between()))


def to_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a vocabulary as a checkpoint keeps it: its class and the arguments of its constructor."""
    return {"_target_": f"{type(vocabulary).__module__}.{type(vocabulary).__qualname__}", **vocabulary.state()}


def alphabet(parts: Iterable[str]) -> tuple[str, str | None]:
    """Return the distinct characters of a text, sorted, and the one after which a text without a prompt begins."""
    counts = np.zeros(0x110000, dtype=np.int64)  # of every possible code point
    for part in parts:
        found = np.bincount(_code_points(part))
        counts[: len(found)] += found
    known = "".join(map(chr, np.flatnonzero(counts)))
    return known, "\n" if "\n" in known or not known else chr(int(counts.argmax()))


def byte_alphabet(parts: Iterable[str]) -> tuple[str, str | None]:
    """Return the distinct bytes of a text as characters U+0000 … U+00FF, sorted, and its start; see `alphabet`."""
    known, start = alphabet(parts)
    return "".join(map(chr, sorted({byte for character in known for byte in utf8(character, "the text")}))), start


def readable(text: str) -> str:
    """Return a text with replacement characters for bytes that are not UTF-8; see `Vocabulary.decode`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def chunks(text: str) -> Iterator[str]:
    """Return the parts in which to encode a long text."""
    return (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))


def in_chunks(parts: Iterable[str]) -> Iterator[str]:
    """Yield a text in the parts that `chunks` makes of it, however it is cut.

    No byte pair crosses the end of a part, so a text's tokens would otherwise depend on the files that it is read from.
    """
    held, size = list[str](), 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= _CHUNK:
            text, whole = "".join(held), size - size % _CHUNK
            yield from chunks(text[:whole])
            held, size = [text[whole:]], size - whole
    if size:
        yield "".join(held)


def utf8(text: str, source: str) -> bytes:
    """Return a text's UTF-8 form, with bytes that could not be decoded restored.

    Raises:
        UserError: if no bytes decode to the text.
    """
    with contextlib.suppress(UnicodeEncodeError):
        data = text.encode("utf-8", "surrogateescape")
        if data.isascii() or data.decode("utf-8", "surrogateescape") == text:
            return data
    found = next(character for character in text if "\ud800" <= character <= "\udfff")
    raise UserError(f"{source[:1].upper()}{source[1:]} has {found!r}, a lone surrogate, not a character: remove it.")


def _unknown(text: str, index: int, source: str, vocabulary: Vocabulary) -> UserError:
    character = text[index]
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    return UserError(
        f"Character {index + 1} of {source} (line {line}, column {column}) is {character!r} "
        f"(U+{ord(character):04X}), which is not in the vocabulary of {len(vocabulary)} {vocabulary.unit}: "
        "remove or replace it."
    )


def _code_points(text: str) -> np.ndarray:
    """Return the code points of `text`, (len(text),) uint32, including lone surrogates (from a terminal)."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
