"""Byte-pair encoding: tokens of several bytes, merged in the order of their frequency in the train text.

As in GPT-2 (Radford et al. 2019, section 2.2), merges are of bytes and stay within words, each with the space before
it. The Hugging Face library `tokenizers` finds and applies them. The merges of a text are kept in the data folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from charlab.data.corpora import Corpus, data_folder
from charlab.data.tokenizers import Bytes, TextSource, byte_alphabet, utf8
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.types import PositiveInt, checked

WORD = re.compile(rb" ?[A-Za-z'\x80-\xff]{1,64}| ?[0-9]{1,64}| ?[^\sA-Za-z'\x80-\xff0-9]{1,64}|\s{1,64}")
MOST_REMEMBERED = 100_000  # words whose tokens are remembered
WORTH_KEEPING = 100_000  # characters of a train text: the merges of a shorter one are found as fast as read
DIGEST = 32  # bytes at the beginning of a file of merges: the SHA-256 of what follows


@dataclass(frozen=True)
class BytePairs(Bytes):
    """Bytes and their merges as tokens.

    Many sequences of tokens spell the same text, and `encode` returns one of them. The sum of its tokens' −log p is
    therefore an upper bound on −log p of the text.

    Attributes:
        merges: the pairs of tokens that are merged, first to last, as characters U+0000 … U+00FF.
    """

    merges: tuple[tuple[str, str], ...] = ()

    unit = "tokens"
    likelihood = "bound"

    def __post_init__(self) -> None:
        pairs = tuple((first, second) for first, second in self.merges)  # a checkpoint has lists
        object.__setattr__(self, "merges", pairs)

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def pieces(self) -> list[bytes]:
        tokens = dict.fromkeys([*self.known, *(first + second for first, second in self.merges)])
        return [token.encode("latin-1") for token in tokens]

    def state(self) -> dict[str, Any]:
        return {**super().state(), "merges": [list(pair) for pair in self.merges]}

    def _encode(self, data: bytes) -> np.ndarray:
        if (super()._encode(data) < 0).any():
            return np.array([-1], dtype=np.int32)
        found: list[int] = []
        for word in WORD.findall(data):
            if word not in self._remembered:
                if len(self._remembered) == MOST_REMEMBERED:
                    self._remembered.clear()
                self._remembered[word] = [token.id for token in self._model.tokenize(word.decode("latin-1"))]
            found += self._remembered[word]
        return np.array(found, dtype=np.int32)

    @cached_property
    def _remembered(self) -> dict[bytes, list[int]]:
        return {}

    @cached_property
    def _model(self) -> Any:
        _require_library()
        from tokenizers.models import BPE

        ids = {piece.decode("latin-1"): index for index, piece in enumerate(self.pieces)}
        return BPE(vocab=ids, merges=list(self.merges))


@checked
def bpe(text: TextSource, train: slice, *, vocab_size: PositiveInt) -> BytePairs:
    """Merge the most frequent pair of tokens in the train text, again and again, starting from the text's bytes.

    The merges of long texts are cached in the data folder.

    Args:
        text: the whole text.
        train: the part that is trained on, in which pairs are counted.
        vocab_size: number of tokens, including the bytes.

    Raises:
        UserError: if `vocab_size` leaves no room for merges, too few pairs occur twice in the train text, or
            `tokenizers` is not installed.
    """
    _require_library()
    path = _path(text, train, vocab_size)
    vocabulary = _read(path) if path is not None else None
    if vocabulary is None:
        vocabulary = _learn(text, train, vocab_size)
        if path is not None:
            _keep(vocabulary, path)
    return vocabulary


def _learn(text: TextSource, train: slice, vocab_size: int) -> BytePairs:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    known, start = byte_alphabet(text.between())
    if vocab_size <= len(known):
        raise UserError(
            f"data.tokenizer.vocab_size={vocab_size} leaves no token to merge, since the text has {len(known)} "
            "different bytes: give more, or use data/tokenizer=bytes."
        )
    tokenizer = Tokenizer(BPE())
    trainer = BpeTrainer(vocab_size=vocab_size, min_frequency=2, show_progress=False, initial_alphabet=list(known))
    tokenizer.train_from_iterator(_words(text.between(train.start or 0, train.stop)), trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    vocabulary = BytePairs(known, start, tuple(map(tuple, merges)))
    if len(vocabulary) < vocab_size:
        raise UserError(
            f"data.tokenizer.vocab_size={vocab_size} is too large for this text: only {len(vocabulary)} tokens occur "
            "more than once in the train split, so give at most that."
        )
    return vocabulary


def _path(text: TextSource, train: slice, vocab_size: int) -> Path | None:
    """Return the file for the merges of a text; None if they are not worth keeping."""
    start, stop, _ = train.indices(text.length if isinstance(text, Corpus) else 0)
    if not isinstance(text, Corpus) or stop - start < WORTH_KEEPING:
        return None
    library = importlib.metadata.version("tokenizers")
    pattern = WORD.pattern.decode("latin-1")
    learned_from = [text.sha256, start, stop, vocab_size, pattern, library, "in equal parts"]
    name = hashlib.sha256(json.dumps(learned_from).encode()).hexdigest()[:16]
    return data_folder() / "merges" / f"{name}.merges"


def _keep(vocabulary: BytePairs, path: Path) -> None:
    state = json.dumps(vocabulary.state()).encode()
    with contextlib.suppress(OSError, UserError):  # a folder that is not writable
        write_atomically(path, lambda file: file.write(hashlib.sha256(state).digest() + state))


def _read(path: Path) -> BytePairs | None:
    """Return the vocabulary that `_keep` wrote; None if the file is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, state = data[:DIGEST], data[DIGEST:]
    return BytePairs(**json.loads(state)) if hashlib.sha256(state).digest() == digest else None


def _words(parts: Iterable[str]) -> Iterator[list[str]]:
    for part in parts:
        yield [word.decode("latin-1") for word in WORD.findall(utf8(part, "the text"))]


def _require_library() -> None:
    if importlib.util.find_spec("tokenizers") is None:
        raise UserError('data/tokenizer=bpe needs an extra: pip install "charlab[bpe]".')
