"""The splits of a corpus and their ids: in memory or, for a long text, in a memory-mapped file."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import IO

import numpy as np

from charlab.data.corpora import LONG, Corpus, data_folder
from charlab.data.tokenizers import Vocabulary, to_config
from charlab.errors import UserError
from charlab.files import write_atomically

DIGEST = 32  # bytes at the beginning of a file of ids: the SHA-256 of what follows
PART = 1 << 20


class TextChangedError(UserError):
    """A text is no longer the one whose checksum is known."""


def slices_of(
    size: int,
    *,
    train_fraction: float,
    validation_fraction: float,
    dev_fraction: float = 0.0,
    test_fraction: float = 0.0,
) -> dict[str, slice]:
    """Return each split of a text of `size` characters as a slice of it; see `CharacterDataModule` for the fractions.

    Raises:
        UserError: if the fractions add up to more than the whole text, or leave nothing to train or to report on.
    """
    # In decimal, as written: in floating point 0.7 + 0.1 < 0.8, which can make a split one character shorter.
    fractions = (train_fraction, validation_fraction, dev_fraction, test_fraction)
    train, validation, dev, test = (Decimal(str(part)) for part in fractions)
    if not (dev < train and validation > 0 and train + validation + test <= 1):
        and_test = f" with data.test_fraction={test_fraction}" if test else ""
        raise UserError(
            f"data.train_fraction={train_fraction} and data.validation_fraction={validation_fraction} must be "
            f"above 0 and add up{and_test} to at most 1, and data.dev_fraction={dev_fraction} must be below "
            f"data.train_fraction, from which it is cut: change them."
        )
    ends = {"train": (dev, train), "validation": (train, train + validation)}
    ends |= {"dev": (Decimal(0), dev)} if dev else {}
    ends |= {"test": (train + validation, train + validation + test)} if test else {}
    return {name: slice(int(start * size), int(stop * size)) for name, (start, stop) in ends.items()}


def encode_part(corpus: Corpus, part: slice, vocabulary: Vocabulary) -> np.ndarray:
    """Return the ids of a part of a corpus, (N,) of the smallest integer type that holds them.

    The ids of a long part are written to the data folder once, and read from there as they are needed; another run
    finds them by the text's checksum and the vocabulary. They stay in memory if the folder is not writable, or if the
    vocabulary is of a user's own class, whose code may change.

    Raises:
        TextChangedError: if the files of a long text have changed since their checksum was taken.
    """
    if part.stop - part.start > LONG and type(vocabulary).__module__.startswith("charlab."):
        path = _path(corpus, part, vocabulary)
        try:
            if not _is_whole(path):
                write_atomically(path, lambda file: _write(file, corpus, part, vocabulary))
            return np.memmap(path, vocabulary.dtype, mode="c", offset=DIGEST)  # "c": torch warns of read-only arrays
        except TextChangedError:
            raise
        except (OSError, UserError):
            pass
    ids = [vocabulary.encode(text) for text in corpus.between(part.start, part.stop)]
    return np.concatenate(ids) if ids else np.empty(0, vocabulary.dtype)


def _path(corpus: Corpus, part: slice, vocabulary: Vocabulary) -> Path:
    described_by = [corpus.sha256, part.start, part.stop, to_config(vocabulary)]
    if vocabulary.likelihood == "bound":  # earlier versions cut the text where its files and their buffers ended
        described_by.append("in equal parts")
    return data_folder() / "ids" / f"{hashlib.sha256(json.dumps(described_by).encode()).hexdigest()[:16]}.ids"


def _write(file: IO[bytes], corpus: Corpus, part: slice, vocabulary: Vocabulary) -> None:
    digest, read, place = hashlib.sha256(), hashlib.sha256(), 0
    file.write(bytes(DIGEST))
    for text in corpus.between():  # to the end: the checksum of the whole text names the file
        read.update(text.encode())
        piece = text[max(0, part.start - place) : max(0, part.stop - place)]
        place += len(text)
        ids = vocabulary.encode(piece).tobytes()
        digest.update(ids)
        file.write(ids)
    if read.hexdigest() != corpus.sha256:
        raise TextChangedError(f"The files of {corpus.name} changed while they were read: run again.")
    file.seek(0)
    file.write(digest.digest())


def _is_whole(path: Path) -> bool:
    """Return whether a file of ids exists and is undamaged."""
    if not path.exists():
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        expected = file.read(DIGEST)
        while data := file.read(PART):
            digest.update(data)
    return digest.digest() == expected
