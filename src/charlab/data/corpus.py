"""What a corpus is: a text, its checksum and, where the text was generated, its entropy floor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np


class Corpus:
    """A text to learn from. Two corpora are the same text exactly if their `sha256` is the same.

    It is no dataclass, because Hydra's `instantiate` would take one for a configuration, rather than hand it on.

    Args:
        name: a short name for tables, file names and messages.
        text: the whole text; how it is split is the datamodule's business.
        sha256: hexadecimal SHA-256 of the text's UTF-8 bytes.
        floor_per_character: (len(text),) float64, −log p in nats of each character given all that precede it under
            the process that generated the text; None where that process is not known.
        notes: sentences on what was done to the text, to be said when a run begins.
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
        """Return the corpus of `text`, its checksum computed."""
        return cls(name, text, hashlib.sha256(text.encode()).hexdigest(), floor_per_character, notes)

    def load(self) -> Self:
        """Returns itself: wherever a loader is asked for, a text that is loaded already will do."""
        return self


class CorpusLoader(Protocol):
    """Anything with a `load` method: what a configuration's `data.corpus` names."""

    def load(self) -> Corpus:
        """Returns the corpus.

        Raises:
            UserError: if the text cannot be found or is not what it should be.
        """
