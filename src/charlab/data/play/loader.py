"""The embedded corpus, generated with the exact nll of each character, and its cache."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from charlab.data.corpora import Corpus, data_folder
from charlab.data.play.choice import Choice, character_costs
from charlab.data.play.stage import tell
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.types import PositiveInt, checked

WORTH_KEEPING = 100_000  # characters: shorter texts are not worth caching
DRAWS_PER_BLOCK = 1 << 16


class Play:
    """Generated verse plays in tiny Shakespeare's alphabet, with their entropy floor; needs no file and no network.

    A long text is cached in the data folder if that is writable, because generating a million characters takes two
    seconds. A cache that is damaged, or from another version of the generator, is ignored.

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
    # RuntimeError: a changed bit in the archive's directory says that a part is encrypted, or packed in some other way.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None
    return (characters.tobytes().decode(), nll) if checksum.tobytes() == _checksum(characters, nll) else None


def _checksum(characters: np.ndarray, nll: np.ndarray) -> bytes:
    return hashlib.sha256(characters.tobytes() + nll.tobytes()).digest()


def generate_with_nll(seed: int, length: int) -> tuple[str, np.ndarray]:
    """Return the first `length` characters of the plays of `seed`, the same on every machine, and their nll.

    Returns:
        The text; and −log p(character t | characters before t) under the generator, in nats, (length,) float64: no
        model can do better in expectation.
    """
    draws = _draws(seed)
    telling = tell()
    choice = next(telling)
    chosen = _Chosen()
    written = 0
    while written < length:
        draw = next(draws)
        while draw >= choice.draw_limit:
            draw = next(draws)
        index = choice.pick(draw)
        written += chosen.add(choice, index)
        choice = telling.send(index)
    return chosen.text()[:length], chosen.nll()[:length]


def _draws(seed: int) -> Iterator[int]:
    """Yield uniform integers in [0, 2³²): the output of SHAKE-128 (FIPS 202) on the seed and a block's number."""
    block = 0
    while True:
        digest = hashlib.shake_128(f"charlab play {seed}/{block}".encode()).digest(4 * DRAWS_PER_BLOCK)
        yield from np.frombuffer(digest, dtype="<u4").tolist()
        block += 1


class _Chosen:
    """The strings chosen so far, prepared for computing the nll of all of them at once."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._rows: list[int] = []  # for each string, in the table of all strings of all choices so far
        self._first_rows: dict[Choice, int] = {}
        self._num_rows = 0

    def add(self, choice: Choice, index: int) -> int:
        """Add a string, and return its length."""
        first_row = self._first_rows.get(choice)
        if first_row is None:
            first_row = self._first_rows[choice] = self._num_rows
            self._num_rows += len(choice.texts)
        text = choice.texts[index]
        self._rows.append(first_row + index)
        self._texts.append(text)
        return len(text)

    def text(self) -> str:
        return "".join(self._texts)

    def nll(self) -> np.ndarray:
        if not self._rows:
            return np.empty(0)
        costs, lengths = character_costs(list(self._first_rows))
        rows = np.array(self._rows)
        lengths = lengths[rows]
        starts = np.cumsum(lengths) - lengths
        columns = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        nll: np.ndarray = costs[np.repeat(rows, lengths), columns]
        return nll
