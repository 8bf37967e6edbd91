"""The LightningDataModule: a corpus, split by position, served as random windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from lightning import LightningDataModule
from torch import Tensor

from charlab.data.corpus import Corpus, CorpusLoader
from charlab.data.vocabulary import Vocabulary
from charlab.data.windows import consecutive_starts, gather_windows, window_starts
from charlab.errors import UserError
from charlab.types import Fraction, PositiveInt, checked


class CharacterDataModule(LightningDataModule):
    """Random windows of a corpus for training, and all of its validation text in order.

    The text is split by position: train, validation and, if the fractions leave something over, a rest that is never
    looked at. A `dev` split, for choosing between models without touching the validation text, is cut from the
    beginning of train: the end of it, which the validation text goes on from, tells most about that. What travels to
    the device in a training step is where its windows start; they are cut out there, from ids that stay on the device.
    There are no workers, and Lightning has no sampler to replace.

    Args:
        corpus: loads the text, in `setup`; a corpus that is loaded already will do as well.
        path: the file that the user names (`data.path=FILE`). It is here because the key is this node's; the corpus's
            loader is what reads it (`corpus.path: ${data.path}`), and a corpus that reads no file has no such key.
        context_length: T; a window is T+1 characters.
        batch_size: windows in a micro-batch, on each device.
        train_fraction: part of the text to learn from, dev included.
        validation_fraction: part of the text that follows, to report on.
        dev_fraction: part of the text, the first of the train split, to make choices on; 0 for none.
        order: "random" windows, or "contiguous" ones: each continues the window in its row of the batch before.
        seed: the run's seed; the windows' own is derived from it.

    Attributes:
        corpus: the text; after `setup`.
        vocabulary: the characters of the whole text; after `setup`.
        splits: (N,) ids on the CPU, of the smallest integer type, by name: "train", "validation" and, if
            `dev_fraction` is not 0, "dev"; after `setup`.

    Raises:
        UserError: if a size is not positive, or the fractions do not fit into one text.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    splits: dict[str, Tensor]

    @checked
    def __init__(
        self,
        *,
        corpus: CorpusLoader,
        path: str | None = None,
        context_length: PositiveInt,
        batch_size: PositiveInt,
        train_fraction: Fraction,
        validation_fraction: Fraction,
        dev_fraction: Fraction,
        order: Literal["random", "contiguous"] = "random",
        seed: int,
    ) -> None:
        super().__init__()
        # As they are written: in floating point, 0.7 + 0.1 is less than 0.8, which is a character less sometimes.
        train, validation, dev = (Decimal(str(part)) for part in (train_fraction, validation_fraction, dev_fraction))
        if not (dev < train and validation > 0 and train + validation <= 1):
            raise UserError(
                f"data.train_fraction={train_fraction} and data.validation_fraction={validation_fraction} have to be "
                f"above 0 and add up to at most 1, and data.dev_fraction={dev_fraction} has to be below "
                f"data.train_fraction, from which it is cut: change them."
            )
        self._boundaries = {"train": (dev, train), "validation": (train, train + validation)}
        if dev:
            self._boundaries["dev"] = (Decimal(0), dev)
        self._loader = corpus
        self.path = path
        self.context_length = context_length
        self.batch_size = batch_size
        self.order = order
        self.seed = seed
        self._ids_on_device: dict[tuple[str, torch.device], Tensor] = {}
        self._slices: dict[str, slice] = {}

    def setup(self, stage: str | None = None) -> None:
        """Loads the corpus and splits it; does nothing the second time.

        Raises:
            UserError: if the corpus cannot be loaded, or a split of it is shorter than one window.
        """
        if self._slices:
            return
        corpus = self._loader.load()
        slices = {
            name: slice(int(start * len(corpus.text)), int(stop * len(corpus.text)))
            for name, (start, stop) in self._boundaries.items()
        }
        for name, part in slices.items():
            length = part.stop - part.start
            if length <= self.context_length:
                raise UserError(
                    f"The {name} split of {corpus.name} is {length} of its {len(corpus.text)} characters, and shorter "
                    f"than one window of data.context_length + 1 = {self.context_length + 1}: take a longer text, a "
                    f"smaller data.context_length or a larger data.{name}_fraction."
                )
        self.corpus = corpus
        self.vocabulary = Vocabulary.of(corpus.text)
        ids = torch.from_numpy(self.vocabulary.encode(corpus.text))
        self.splits = {name: ids[part] for name, part in slices.items()}
        self._slices = slices

    def ids(self, split: str, device: torch.device | str = "cpu") -> Int[Tensor, " N"]:
        """Returns the ids of a split on `device`; they are copied there once.

        Raises:
            UserError: if there is no such split.
        """
        key = (split, torch.device(device))
        if key not in self._ids_on_device:
            if split not in self.splits:
                raise UserError(
                    f"There is no {split} split, only {', '.join(self.splits)}: name one of them, or set "
                    f"data.dev_fraction for a dev split."
                )
            self._ids_on_device[key] = self.splits[split].to(device)
        return self._ids_on_device[key]

    def floor(self, split: str) -> float | None:
        """Returns the mean −log p of a split's characters but the first, in nats, under the process that made them.

        No model can be below it in expectation. None if the corpus has no known floor.
        """
        if self.corpus.floor_per_character is None:
            return None
        return float(self.corpus.floor_per_character[self._slices[split]][1:].mean())

    def train_dataloader(self) -> Starts:
        """Returns the starts of each micro-batch's windows, from the first micro-batch on."""
        rank = self.trainer.global_rank if self.trainer else 0
        sizes = {"batch_size": self.batch_size, "num_starts": len(self.splits["train"]) - self.context_length}
        if self.order == "contiguous":
            sizes |= {"world_size": self.trainer.world_size if self.trainer else 1, "length": self.context_length}
            return Starts(lambda counter: consecutive_starts(self.seed, counter, rank, **sizes))
        return Starts(lambda counter: window_starts(self.seed, counter, rank, **sizes))

    def val_dataloader(self) -> Blocks:
        """Returns the windows that predict each validation character but the first once.

        Under several processes each gets all of them: the mean is the same, and none waits for another.
        """
        return Blocks(self.splits["validation"], self.context_length, self.batch_size)

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Int[Tensor, "B T+1"]:
        """Cuts out the windows of a training batch, (B,) starts, on the device; passes on others, (B, T+1) windows."""
        if batch.ndim == 2:
            return batch
        return gather_windows(self.ids("train", batch.device), batch, self.context_length)


DRAWN_AT_ONCE = 64  # micro-batches


class Starts(Iterator[Int[Tensor, " B"]]):
    """Where the windows of one micro-batch after the other start: (B,) int64, without end.

    It has a length all the same, one that is never reached: of an iterator without any, Lightning would fetch one
    item ahead to see whether it ends. An iteration that is broken off goes on where it was, so that epochs of a
    limited number of batches do not repeat each other.

    Args:
        draw: `draw(counter)` returns the starts of a micro-batch, and nothing but the counter decides on them.
    """

    def __init__(self, draw: Callable[[int], np.ndarray]) -> None:
        self.draw = draw
        self.counter = 0
        self._ahead: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return 10**12

    def __next__(self) -> Int[Tensor, " B"]:
        if self.counter not in self._ahead:  # one by one, between a model's large arrays, takes six times as long
            self._ahead = {counter: self.draw(counter) for counter in range(self.counter, self.counter + DRAWN_AT_ONCE)}
        starts = self._ahead.pop(self.counter)
        self.counter += 1
        return torch.from_numpy(starts)

    def state_dict(self) -> dict[str, int]:
        """Returns how many micro-batches were given; Lightning keeps it in the checkpoint."""
        return {"counter": self.counter}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on where the loader that gave this state had stopped."""
        self.counter = state["counter"]


class Blocks:
    """A text in order, as batches of windows that overlap by one character, the given one: (≤ B, T+1) int64.

    What is left over at the end is a shorter window and the last batch, (1, ≤ T).
    """

    def __init__(self, ids: Int[Tensor, " N"], context_length: int, batch_size: int) -> None:
        self.ids = ids
        self.context_length = context_length
        self.batch_size = batch_size
        self.num_windows, self.rest = divmod(len(ids) - 1, context_length)  # counted in predictions: N−1 in all

    def __len__(self) -> int:
        return -(-self.num_windows // self.batch_size) + (self.rest > 0)

    def __iter__(self) -> Iterator[Int[Tensor, "B T+1"]]:
        for first in range(0, self.num_windows, self.batch_size):
            windows = torch.arange(first, min(first + self.batch_size, self.num_windows))
            yield gather_windows(self.ids, windows * self.context_length, self.context_length)
        if self.rest:
            yield self.ids[-self.rest - 1 :].long()[None]
