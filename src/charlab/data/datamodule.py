"""The LightningDataModule: a corpus, split by position, served as random windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from lightning import LightningDataModule
from torch import Tensor

from charlab.data.corpus import Corpus, CorpusLoader
from charlab.data.vocabulary import Vocabulary
from charlab.data.windows import consecutive_starts, estimate_starts, gather_windows, window_starts
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
        estimate_batches: batches of random windows that an estimate reads of train and of validation text.
        corpus: loads the text, in `setup`; a corpus that is loaded already will do as well.
        path: the file that the user names (`data.path=FILE`). It is here because the key is this node's; the corpus's
            loader is what reads it (`corpus.path: ${data.path}`), and a corpus that reads no file has no such key.
        context_length: T; a window is T+1 characters.
        batch_size: windows in an optimizer step. Devices and accumulated micro-batches divide it between them, and
            window w of step s is the same whoever computes it.
        epoch_steps: optimizer steps in an epoch; None for as many as it takes to score as many characters as the
            train text has.
        train_fraction: part of the text to learn from, dev included.
        validation_fraction: part of the text that follows, to report on.
        dev_fraction: part of the text, the first of the train split, to make choices on; 0 for none.
        test_fraction: part of the text that follows the validation split, to be looked at once; 0 for none.
        order: "random" windows, or "contiguous" ones: each continues the window in its row of the batch before.
        seed: the run's seed; the windows' own is derived from it.

    Attributes:
        corpus: the text; after `setup`.
        vocabulary: the characters of the whole text; after `setup`.
        splits: (N,) ids on the CPU, of the smallest integer type, by name: "train", "validation" and, if
            their fractions are not 0, "dev" and "test"; after `setup`.

    Raises:
        UserError: if a size is not positive, or the fractions do not fit into one text.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    splits: dict[str, Tensor]

    @checked
    def __init__(
        self,
        estimate_batches: PositiveInt = 10,
        *,
        corpus: CorpusLoader,
        path: str | None = None,
        context_length: PositiveInt,
        batch_size: PositiveInt,
        epoch_steps: PositiveInt | None = None,
        train_fraction: Fraction,
        validation_fraction: Fraction,
        dev_fraction: Fraction,
        test_fraction: Fraction = 0.0,
        order: Literal["random", "contiguous"] = "random",
        seed: int,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more processes than batches to evaluate
        # As they are written: in floating point, 0.7 + 0.1 is less than 0.8, which is a character less sometimes.
        fractions = (train_fraction, validation_fraction, dev_fraction, test_fraction)
        train, validation, dev, test = (Decimal(str(part)) for part in fractions)
        if not (dev < train and validation > 0 and train + validation + test <= 1):
            and_test = f" with data.test_fraction={test_fraction}" if test else ""
            raise UserError(
                f"data.train_fraction={train_fraction} and data.validation_fraction={validation_fraction} have to be "
                f"above 0 and add up{and_test} to at most 1, and data.dev_fraction={dev_fraction} has to be below "
                f"data.train_fraction, from which it is cut: change them."
            )
        self._boundaries = {"train": (dev, train), "validation": (train, train + validation)}
        if dev:
            self._boundaries["dev"] = (Decimal(0), dev)
        if test:
            self._boundaries["test"] = (train + validation, train + validation + test)
        self._loader = corpus
        self.path = path
        self.context_length = context_length
        self.batch_size = batch_size
        self.epoch_steps = epoch_steps
        self.estimate_batches = estimate_batches
        self.order = order
        self.seed = seed
        self._ids_on_device: dict[tuple[str, torch.device], Tensor] = {}
        self._slices: dict[str, slice] = {}
        self._starts: Starts | None = None
        self._served = 0  # micro-batches that a resumed run has seen already

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

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.epoch_steps or math.ceil(len(self.splits["train"]) / (self.batch_size * self.context_length))

    @property
    def micro_batch_size(self) -> int:
        """Windows that a device computes at a time: its share of a step's, divided by the accumulated micro-batches.

        Raises:
            UserError: if the batch cannot be divided evenly.
        """
        if self.trainer is None:
            return self.batch_size
        return divided(self.batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches)

    def train_dataloader(self) -> Starts:
        """Return the starts of each micro-batch's windows.

        An epoch goes on where the one before ended, but with `overfit_batches`, which repeats its batches.
        """
        size, parts = self.micro_batch_size, self.batch_size // self.micro_batch_size  # of all devices
        rank = self.trainer.global_rank if self.trainer else 0
        accumulated = self.trainer.accumulate_grad_batches if self.trainer else 1
        length = self.steps_per_epoch * accumulated
        repeated = self.trainer.overfit_batches if self.trainer else 0
        period = int(repeated if isinstance(repeated, int) else length * repeated)
        sizes = {"batch_size": self.batch_size, "num_starts": len(self.splits["train"]) - self.context_length}
        assert parts % accumulated == 0

        def draw(counter: int) -> np.ndarray:
            step, part = divmod(counter % period if period else counter, accumulated)
            if self.order == "contiguous":
                starts = consecutive_starts(self.seed, step, length=self.context_length, **sizes)
            else:
                starts = window_starts(self.seed, step, **sizes)
            first = (rank * accumulated + part) * size
            return starts[first : first + size]

        self._starts = Starts(draw, length, self._served)
        return self._starts

    def state_dict(self) -> dict[str, int]:
        """Return how many micro-batches were served; Lightning keeps it in the checkpoint."""
        return {"micro_batches": self._starts.counter if self._starts is not None else self._served}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where the datamodule that gave this state stopped."""
        self._served = state_dict["micro_batches"]

    @property
    def evaluated(self) -> list[str]:
        """The splits that are evaluated while a model trains, in the order of `val_dataloader`."""
        return [split for split in ("train", "validation", "dev") if split in self.splits]

    def val_dataloader(self) -> list[EvaluationWindows]:
        """Return the windows of an evaluation: a sample of train and of validation text, and all of dev, if any."""
        return [self._blocks(split) if split == "dev" else self._sample(split) for split in self.evaluated]

    def test_dataloader(self) -> EvaluationWindows:
        """Return the windows that predict each character of the test split but the first once.

        Raises:
            UserError: if there is no test split.
        """
        if "test" not in self.splits:
            raise UserError("There is no test split: set data.test_fraction (0.05, say), and leave text for it.")
        return self._blocks("test")

    def predict_dataloader(self) -> EvaluationWindows:
        """Return the windows that predict each validation character but the first once, in order."""
        return self._blocks("validation")

    def _sample(self, split: str) -> EvaluationWindows:
        ids = self.splits[split]
        sizes = {"batch_size": self.batch_size, "num_starts": len(ids) - self.context_length}
        starts = estimate_starts(self.seed, self.estimate_batches, **sizes)
        return self._windows(ids, [(starts, self.context_length)])

    def _blocks(self, split: str) -> EvaluationWindows:
        ids, length = self.splits[split], self.context_length
        number, rest = divmod(len(ids) - 1, length)
        return self._windows(ids, [(length * np.arange(number), length), (np.array([length * number]), rest)])

    def _windows(self, ids: Tensor, groups: Sequence[tuple[np.ndarray, int]]) -> EvaluationWindows:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EvaluationWindows(ids, groups, self.micro_batch_size, rank, world_size)

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Int[Tensor, "B T+1"]:
        """Cut out the windows of a training batch, (B,) starts, on the device; pass on others, (B, T+1) windows."""
        if batch.ndim == 2:
            return batch
        return gather_windows(self.ids("train", batch.device), batch, self.context_length)


DRAWN_AT_ONCE = 64  # micro-batches


class Starts(Iterator[Int[Tensor, " B"]]):
    """Where the windows of one micro-batch after the other start: (B,) int64, without end.

    It has the length of an epoch, by which Lightning counts. The next epoch goes on where the last one ended.

    Args:
        draw: `draw(counter)` returns the starts of a micro-batch, and nothing but the counter decides on them.
        length: micro-batches in an epoch.
        counter: number of the first micro-batch.
    """

    def __init__(self, draw: Callable[[int], np.ndarray], length: int, counter: int = 0) -> None:
        self.draw = draw
        self.length = length
        self.counter = counter
        self._ahead: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.length

    def __next__(self) -> Int[Tensor, " B"]:
        if self.counter not in self._ahead:  # one by one, between a model's large arrays, takes six times as long
            self._ahead = {counter: self.draw(counter) for counter in range(self.counter, self.counter + DRAWN_AT_ONCE)}
        starts = self._ahead.pop(self.counter)
        self.counter += 1
        return torch.from_numpy(starts)

    def state_dict(self) -> dict[str, int]:
        """Return how many micro-batches were served; Lightning keeps it in the checkpoint."""
        return {"counter": self.counter}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the loader that gave this state stopped."""
        self.counter = state["counter"]


def divided(batch_size: int, devices: int, accumulated: int) -> int:
    """Return the windows in a micro-batch.

    Raises:
        UserError: if `batch_size` cannot be divided evenly.
    """
    parts = devices * accumulated
    size, rest = divmod(batch_size, parts)
    if rest:
        nearest = " or ".join(f"data.batch_size={number * parts}" for number in (size, size + 1) if number)
        raise UserError(
            f"data.batch_size={batch_size} is the number of windows in an optimizer step and cannot be divided by "
            f"{devices} device{'s' * (devices > 1)} times trainer.accumulate_grad_batches={accumulated}: "
            f"set {nearest}."
        )
    return size


class EvaluationWindows:
    """Windows of a text in a fixed order, as batches on the CPU: (≤ B, T+1) int64.

    Processes take batches in turn; a batch has the same number, and the same windows, however many they are.

    Args:
        ids: (N,) the text.
        groups: starts of windows of one length T each.
        batch_size: windows in a batch, at most.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        ids: Int[Tensor, " N"],
        groups: Sequence[tuple[np.ndarray, int]],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.ids = ids
        batches = [
            (starts[first : first + batch_size], length)
            for starts, length in groups
            if length
            for first in range(0, len(starts), batch_size)
        ]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Int[Tensor, "B T+1"]]:
        for starts, length in self.batches:
            yield gather_windows(self.ids, torch.from_numpy(starts), length)
