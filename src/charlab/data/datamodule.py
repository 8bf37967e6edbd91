"""The LightningDataModule: a corpus, split by position and served as windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from lightning import LightningDataModule
from torch import Tensor

from charlab.data.corpora import Corpus, CorpusLoader
from charlab.data.encoding import encode_part, slices_of
from charlab.data.tokenizers import Tokenizer, Vocabulary, characters
from charlab.data.windows import (
    Windows,
    adjacent_windows,
    consecutive_starts,
    gather_windows,
    in_batches,
    sampled_windows,
    window_starts,
)
from charlab.errors import UserError
from charlab.types import Fraction, PositiveInt, checked


class CharacterDataModule(LightningDataModule):
    """Windows of a corpus for training and evaluation.

    The text is split by position into train, validation and, optionally, test; the rest, if any, is unused. The
    optional `dev` split, for choosing between models without touching the validation split, is cut from the beginning
    of the train split, whose end adjoins the validation split and is therefore the best text to train on. A training
    batch holds only the starts of its windows, which are cut out of ids that stay on the device. There are no workers
    and no sampler.

    Args:
        estimate_batches: batches of random windows in an estimate of the train or validation loss.
        corpus: loader of the text, called by `setup`, or a loaded corpus.
        path: the file set by `data.path=FILE`. It is not read here: the corpus's loader reads it
            (`corpus.path: ${data.path}`). A corpus that reads no file has no key `corpus.path`.
        tokenizer: how the text becomes tokens.
        context_length: T; a window has T+1 tokens.
        batch_size: windows in an optimizer step, divided between devices and accumulated micro-batches. The windows of
            a step do not depend on the division.
        epoch_steps: optimizer steps in an epoch; None for enough to predict as many tokens as the train split has.
        train_fraction: fraction of the text to train on, including the dev split.
        validation_fraction: fraction of the text, after the train split, to report on.
        dev_fraction: fraction of the text, at the beginning of the train split, to choose models by; 0 for none.
        test_fraction: fraction of the text, after the validation split, to test on once; 0 for none.
        order: "random" windows, or "contiguous" windows, each of which continues the previous one in its row of the
            batch.
        seed: the run's seed, from which the seed of the windows is derived.

    Attributes:
        corpus: the corpus; available after `setup`.
        vocabulary: the tokens of the whole text; available after `setup`.
        draws_by_batch: whether the model draws random numbers for whole batches when it is evaluated, as estimates of a
            bound do. Evaluations then read `batch_size` windows at once, however training divides them, so that their
            figures do not depend on the division.
        splits: ids of each split, (N,) on the CPU, in the smallest integer type: "train", "validation" and, if their
            fractions are not 0, "dev" and "test"; available after `setup`.
        slices: the characters of each split, as a slice of the text; available after `setup`.

    Raises:
        UserError: if a size is not positive, or the fractions add up to more than the whole text.
    """

    corpus: Corpus
    vocabulary: Vocabulary
    splits: dict[str, Tensor]
    slices: dict[str, slice]
    draws_by_batch: bool = False

    @checked
    def __init__(
        self,
        estimate_batches: PositiveInt = 10,
        *,
        corpus: CorpusLoader,
        path: str | list[str] | None = None,
        tokenizer: Tokenizer = characters,
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
        self.allow_zero_length_dataloader_with_multiple_devices = True  # fewer batches than processes
        self._fractions = {
            "train_fraction": train_fraction,
            "validation_fraction": validation_fraction,
            "dev_fraction": dev_fraction,
            "test_fraction": test_fraction,
        }
        slices_of(0, **self._fractions)  # raises if they do not fit together
        self._loader = corpus
        self.path = path
        self._tokenizer = tokenizer
        self.context_length = context_length
        self.batch_size = batch_size
        self.epoch_steps = epoch_steps
        self.estimate_batches = estimate_batches
        self.order = order
        self.seed = seed
        self._ids_on_device: dict[tuple[str, torch.device], Tensor] = {}
        self.splits = {}
        self._starts: WindowStarts | None = None
        self._served = 0  # micro-batches that a resumed run has already seen

    def setup(self, stage: str | None = None) -> None:
        """Load the corpus and split it; later calls do nothing.

        Raises:
            UserError: if the corpus cannot be loaded, or a split is shorter than one window.
        """
        if self.splits:
            return
        corpus = self._loader.load()
        size = corpus.length
        self.slices = slices_of(size, **self._fractions)
        vocabulary = self._tokenizer(corpus, self.slices["train"])
        splits = {}
        for name, part in self.slices.items():
            splits[name] = torch.from_numpy(encode_part(corpus, part, vocabulary))
            if len(splits[name]) <= self.context_length:
                tokens = f", {len(splits[name])} {vocabulary.unit}" if vocabulary.unit != "characters" else ""
                raise UserError(
                    f"The {name} split of {corpus.name} is {part.stop - part.start} of its {size} characters{tokens}, "
                    f"and shorter than one window of data.context_length + 1 = {self.context_length + 1}: take a "
                    f"longer text, a smaller data.context_length or a larger data.{name}_fraction."
                )
        self.corpus, self.vocabulary, self.splits = corpus, vocabulary, splits

    def ids(self, split: str, device: torch.device | str = "cpu") -> Int[Tensor, " N"]:
        """Return the ids of a split on `device`, cached per device.

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
        """Return the floor of a split: its mean −log p under the process that generated it, in nats per character.

        No model can have a lower loss in expectation. The first character is left out, as no model predicts it. None
        if the corpus has no known floor.
        """
        if self.corpus.floor_per_character is None:
            return None
        return float(self.corpus.floor_per_character[self.slices[split]][1:].mean())

    @property
    def characters_per_token(self) -> float:
        """The mean number of characters in a token of the train split."""
        part, tokens = self.slices["train"], len(self.splits["train"])
        return (part.stop - part.start) / tokens

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in an epoch."""
        return self.epoch_steps or math.ceil(len(self.splits["train"]) / (self.batch_size * self.context_length))

    @property
    def micro_batch_size(self) -> int:
        """Number of windows in a micro-batch of one device.

        Raises:
            UserError: if the batch cannot be divided evenly between devices and accumulated micro-batches.
        """
        if self.trainer is None:
            return self.batch_size
        return micro_batch_size_of(self.batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches)

    @property
    def evaluation_batch_size(self) -> int:
        """Number of windows in a batch of an evaluation: what fits in training, unless draws depend on the batch."""
        return self.batch_size if self.draws_by_batch else self.micro_batch_size

    def train_dataloader(self) -> WindowStarts:
        """Return an iterator over the starts of each micro-batch's windows.

        An epoch continues where the previous one ended, except with `overfit_batches`, which repeats its batches. A new
        trainer goes on with the windows that its module has not seen.
        """
        size, parts = self.micro_batch_size, self.batch_size // self.micro_batch_size  # per step, over all devices
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

        counter = self.state_dict()["micro_batches"]
        if self._starts is not None and self.trainer and self.trainer.global_step == 0:  # which served another training
            counter = getattr(self.trainer.lightning_module, "micro_batches", 0)
        self._starts = WindowStarts(draw, length, counter)
        return self._starts

    def state_dict(self) -> dict[str, int]:
        """Return how many micro-batches were served; Lightning keeps it in the checkpoint."""
        return {"micro_batches": self._starts.counter if self._starts is not None else self._served}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue after the micro-batches that the state counts."""
        self._served, self._starts = state_dict["micro_batches"], None

    @property
    def evaluated(self) -> list[str]:
        """The splits that are evaluated during training, in the order of `val_dataloader`."""
        return [split for split in ("train", "validation", "dev") if split in self.splits]

    def val_dataloader(self) -> list[EvaluationWindows]:
        """Return the windows of an evaluation: samples of train and validation, and the whole dev split, if any."""
        return [self._blocks(split) if split == "dev" else self._sample(split) for split in self.evaluated]

    def test_dataloader(self) -> EvaluationWindows:
        """Return windows that predict every character of the test split, except the first, exactly once.

        Raises:
            UserError: if there is no test split.
        """
        if "test" not in self.splits:
            raise UserError("There is no test split: set data.test_fraction (0.05, say), and leave text for it.")
        return self._blocks("test")

    def predict_dataloader(self) -> EvaluationWindows:
        """Return windows that predict every validation character, except the first, exactly once and in order."""
        return self._blocks("validation")

    def _sample(self, split: str) -> EvaluationWindows:
        sizes = {"num_characters": len(self.splits[split]), "length": self.context_length}
        windows = sampled_windows(self.seed, self.estimate_batches, batch_size=self.batch_size, **sizes)
        return self._evaluation(split, windows)

    def _blocks(self, split: str) -> EvaluationWindows:
        return self._evaluation(split, adjacent_windows(len(self.splits[split]), self.context_length))

    def _evaluation(self, split: str, windows: list[Windows]) -> EvaluationWindows:
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EvaluationWindows(self.splits[split], in_batches(windows, self.evaluation_batch_size), rank, world_size)

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Int[Tensor, "B T+1"]:
        """Gather the windows of a training batch of (B,) starts; return a batch of (B, T+1) windows unchanged."""
        if batch.ndim == 2:
            return batch
        return gather_windows(self.ids("train", batch.device), batch, self.context_length)


DRAWN_AT_ONCE = 64  # micro-batches


class WindowStarts(Iterator[Int[Tensor, " B"]]):
    """Infinite iterator over micro-batches of window starts, (B,) int64.

    Its length is that of an epoch, as Lightning expects. The next epoch continues where the last one ended.

    Args:
        draw: function from the number of a micro-batch to its starts; it must be pure.
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
        if self.counter not in self._ahead:  # drawing one by one is six times as slow
            self._ahead = {counter: self.draw(counter) for counter in range(self.counter, self.counter + DRAWN_AT_ONCE)}
        starts = self._ahead.pop(self.counter)
        self.counter += 1
        return torch.from_numpy(starts)

    def state_dict(self) -> dict[str, int]:
        """Return how many micro-batches were served; Lightning keeps it in the checkpoint."""
        return {"counter": self.counter}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the micro-batches that the state counts."""
        self.counter = state["counter"]


def micro_batch_size_of(batch_size: int, devices: int, accumulated: int) -> int:
    """Return the number of windows in a micro-batch of one device.

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
    """Batches of windows of a text in a fixed order, on the CPU: (≤ B, T+1) int64.

    Batches are distributed round-robin over the processes. The windows of a batch do not depend on the number of
    processes. A process for which no batch is left gets an empty one, (0, T+1), because all processes must take part in
    the reductions of each split.

    Args:
        ids: (N,) the text.
        batches: the windows of all processes, in batches.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(self, ids: Int[Tensor, " N"], batches: list[Windows], rank: int = 0, world_size: int = 1) -> None:
        self.ids = ids
        without = [batches[0]._replace(starts=batches[0].starts[:0])]
        self.batches = batches[rank::world_size] or without

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Int[Tensor, "B T+1"]]:
        for batch in self.batches:
            yield gather_windows(self.ids, torch.from_numpy(batch.starts), batch.length)
