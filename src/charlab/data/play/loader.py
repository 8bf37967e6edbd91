"""The loader of the embedded corpus."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from charlab.data.corpora import data_folder
from charlab.data.corpus import Corpus
from charlab.data.play.generator import generate_with_nll
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.types import PositiveInt, checked

WORTH_KEEPING = 100_000  # characters: shorter texts are not worth caching


class Play:
    """Generated verse plays in tiny Shakespeare's alphabet, with their entropy floor; needs no file and no network.

    A long text is cached in the data folder if that is writable, since generating a million characters takes two
    seconds. The cache is used only by the same version of the generator, and only if it is intact.

    Args:
        seed: selects the plays; any integer.
        length: number of characters, at least 1.
    """

    @checked
    def __init__(self, *, seed: int = 305, length: PositiveInt = 1_000_000) -> None:
        self.seed = seed
        self.length = length

    def load(self) -> Corpus:
        """Return the plays; the floor of a part of the text is the mean of `floor_per_character` there."""
        if self.length < WORTH_KEEPING:
            return Corpus.of("play", *generate_with_nll(self.seed, self.length))
        path = self._path()
        kept = _read(path)
        if kept is None:
            kept = generate_with_nll(self.seed, self.length)
            with contextlib.suppress(UserError):  # nowhere to cache it
                _keep(path, *kept)
        return Corpus.of("play", *kept)

    def _path(self) -> Path:
        """Return the cache file, whose name depends on the generator's source."""
        sources = hashlib.sha256(f"{self.seed} {self.length}".encode())
        for source in sorted(Path(__file__).parent.glob("*.py")):
            sources.update(source.read_bytes())
        return data_folder() / "play" / f"{sources.hexdigest()[:16]}.npz"


def _keep(path: Path, text: str, nll: np.ndarray) -> None:
    characters = np.frombuffer(text.encode(), dtype=np.uint8)
    checksum = np.frombuffer(_checksum(characters, nll), dtype=np.uint8)
    write_atomically(path, lambda file: np.savez(file, characters=characters, nll=nll, checksum=checksum))


def _read(path: Path) -> tuple[str, np.ndarray] | None:
    """Return the text and its nats, or None if they are missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as kept:
            characters, nll, checksum = kept["characters"], kept["nll"], kept["checksum"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return (characters.tobytes().decode(), nll) if checksum.tobytes() == _checksum(characters, nll) else None


def _checksum(characters: np.ndarray, nll: np.ndarray) -> bytes:
    return hashlib.sha256(characters.tobytes() + nll.tobytes()).digest()
