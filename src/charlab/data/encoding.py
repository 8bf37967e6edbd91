"""The ids of a corpus: in memory or, for a long text, in a file that is mapped into memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import IO

import numpy as np

from charlab.data.corpora import LONG, Corpus, data_folder
from charlab.data.tokenizers import Vocabulary, described
from charlab.errors import UserError
from charlab.files import write_atomically

DIGEST = 32  # bytes at the beginning of a file of ids: the SHA-256 of what follows
PART = 1 << 20


def encoded(corpus: Corpus, part: slice, vocabulary: Vocabulary) -> np.ndarray:
    """Return the ids of a part of a corpus, (N,) of the smallest integer type that holds them.

    The ids of a long part are written to the data folder once, and read from there as they are needed; another run
    finds them by the text's checksum and the vocabulary. They stay in memory if the folder is not writable.
    """
    if part.stop - part.start > LONG:
        path = _path(corpus, part, vocabulary)
        try:
            if not _is_whole(path):
                write_atomically(path, lambda file: _write(file, corpus, part, vocabulary))
            return np.memmap(path, vocabulary.dtype, mode="c", offset=DIGEST)  # "c": torch warns of read-only arrays
        except (OSError, UserError):
            pass
    ids = [vocabulary.encode(text) for text in corpus.between(part.start, part.stop)]
    return np.concatenate(ids) if ids else np.empty(0, vocabulary.dtype)


def _path(corpus: Corpus, part: slice, vocabulary: Vocabulary) -> Path:
    described_by = [corpus.sha256, part.start, part.stop, described(vocabulary)]
    return data_folder() / "ids" / f"{hashlib.sha256(json.dumps(described_by).encode()).hexdigest()[:16]}.ids"


def _write(file: IO[bytes], corpus: Corpus, part: slice, vocabulary: Vocabulary) -> None:
    digest = hashlib.sha256()
    file.write(bytes(DIGEST))
    for text in corpus.between(part.start, part.stop):
        ids = vocabulary.encode(text).tobytes()
        digest.update(ids)
        file.write(ids)
    file.seek(0)
    file.write(digest.digest())


def _is_whole(path: Path) -> bool:
    """Return whether a file of ids is there and undamaged."""
    if not path.exists():
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        expected = file.read(DIGEST)
        while data := file.read(PART):
            digest.update(data)
    return digest.digest() == expected
