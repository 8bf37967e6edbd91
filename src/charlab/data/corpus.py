"""A corpus: a text, its checksum and, if the text was generated, its entropy floor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np


class Corpus:
    """A text to train on. Two corpora are the same text if and only if their `sha256` is the same.

    Not a dataclass, since Hydra's `instantiate` would take it for a configuration.

    Args:
        name: a short name for tables, file names and messages.
        text: the whole text; the datamodule splits it.
        sha256: hexadecimal SHA-256 of the text's UTF-8 bytes.
        floor_per_character: (len(text),) float64, −log p in nats of each character given all that precede it under
            the process that generated the text; None if that process is not known.
        notes: sentences on how the text was changed, printed when a run begins.
    """

    def __init__(
        self,
        name: str,
        text: str,
        sha256: str,
        floor_per_character: np.ndarray | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.text = text
        self.sha256 = sha256
        self.floor_per_character = floor_per_character
        self.notes = tuple(notes)

    @classmethod
    def of(cls, name: str, text: str, floor_per_character: np.ndarray | None = None, notes: Sequence[str] = ()) -> Self:
        """Return the corpus of `text` with its checksum."""
        return cls(name, text, hashlib.sha256(text.encode()).hexdigest(), floor_per_character, notes)

    def load(self) -> Self:
        """Return itself, so that a loaded corpus can be used as a loader."""
        return self


class CorpusLoader(Protocol):
    """What a configuration's `data.corpus` names: any object with a `load` method."""

    def load(self) -> Corpus:
        """Return the corpus.

        Raises:
            UserError: if the text cannot be found or is not the expected one.
        """
