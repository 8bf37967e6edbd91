"""The part of the Lightning module that evaluates any language model, in and out of training."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from charlab.errors import UserError
from charlab.evaluation.metric import NegativeLogLikelihood, count_characters
from charlab.evaluation.protocols import Blocks, Estimate, Score, Sizes
from charlab.evaluation.scoring import score_window
from charlab.files import write_atomically
from charlab.models.contract import LanguageModel
from charlab.models.side_effects import evaluation_mode, untouched_randomness
from charlab.training.callbacks.averaging import KeepsAverage, averages_in_place

NUM_DRAWS = 4  # Monte Carlo samples that an evaluation averages to estimate a bound


class EvaluatedModule(LightningModule):
    """Evaluate a language model: Lightning's loops for validation, test and prediction.

    An evaluation logs `train/nll`, `validation/nll` and, with a dev split, `dev/nll`, in nats per character.

    Args:
        model: the model to evaluate.

    Attributes:
        characters_seen: characters scored in training so far, over all ranks; if tokens are not characters, the number
            of tokens times their mean length in the train split.
        evaluated_step: optimizer step of the latest evaluation.
        scores: scores of the latest evaluation, by split.
        results: the same scores as entries of the run's record.
        best: step and nll of the evaluation with the lowest nll on the dev split; None without a dev split.
        training_clock, evaluation_clock: time spent training and evaluating, over all attempts at this run.
        compilation_clock: time spent compiling, which counts neither as training nor as evaluation.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model
        self.characters_seen = 0
        self.evaluated_step: int | None = None
        self.scores: dict[str, Score] = {}
        self.results: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.training_clock, self.evaluation_clock = Stopwatch(), Stopwatch()
        self.compilation_clock = Stopwatch()
        self._averages: list[KeepsAverage] = []  # callbacks and optimizers, while training
        self._evaluation = ExitStack()
        self._was_training = False  # whether the training clock ran before the current evaluation
        self._variance: dict[str, float] = {}
        splits = ("train", "validation", "dev", "test")
        self._metrics = nn.ModuleDict({f"{split}_nll": NegativeLogLikelihood() for split in splits})

    def setup(self, stage: str) -> None:
        if self.trainer.datamodule is None:
            raise UserError(
                "This module reads a datamodule, not dataloaders: give the trainer the datamodule itself, as in "
                "trainer.fit(module, datamodule)."
            )
        self.trainer.datamodule.draws_by_batch = self.model.likelihood == "bound"

    @property
    def training_seconds(self) -> float:
        """Seconds spent training so far, over all attempts at this run, excluding evaluation."""
        return self.training_clock.seconds

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the model into evaluation mode, with averaged weights if there are any, while the block runs.

        The time counts as evaluation, not as training.
        """
        precision = self.trainer.precision_plugin.forward_context()
        with self._averaged(), evaluation_mode(self.model), torch.no_grad(), precision:
            yield

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Swap in the averaged weights and run the evaluation clock while the block runs."""
        was_counting = self.training_clock.running
        self.training_clock.stop()
        self.evaluation_clock.start()
        try:
            with averages_in_place(self.model, self._averages):
                self.prepare_evaluation()
                yield
        finally:
            self.evaluation_clock.stop()
            if was_counting:
                self.training_clock.start()

    def prepare_evaluation(self) -> None:
        """Prepare the model for evaluation or saving. A hook, called with averaged weights in place."""

    def on_validation_model_eval(self) -> None:
        super().on_validation_model_eval()
        self._was_training = self.training_clock.running
        self._evaluation = ExitStack()
        self._evaluation.enter_context(self._averaged())
        self._evaluation.enter_context(untouched_randomness(self.device))
        self._variance = {}

    def validation_step(self, window: Int[Tensor, "B T+1"], batch_idx: int, dataloader_idx: int = 0) -> None:
        split = self.trainer.datamodule.evaluated[dataloader_idx]
        nll, variance = self._score(window, batch_idx)
        self._variance[split] = self._variance.get(split, 0.0) + variance
        self._log_nll(split, nll, window)

    def on_validation_epoch_end(self) -> None:
        step = self.trainer.global_step
        if self.trainer.sanity_checking:
            self._evaluation.close()
            return
        self.scores = {split: self._result(split) for split in self._variance}
        self.results = [{"split": split, **score.as_dict()} for split, score in self.scores.items()]
        self.evaluated_step = step
        if "dev" in self.scores:
            nll = self.scores["dev"].nll
            if nll < (self.best["nll"] if self.best else math.inf):
                self.best = {"step": step, "nll": nll}
            if self.trainer.state.fn == "fit":
                for config in self.trainer.lr_scheduler_configs:
                    if config.reduce_on_plateau:
                        config.scheduler.step(nll)
        when = {"step": step, "characters": self.characters_seen, "seconds": self.training_seconds}
        self.log_dict({name: torch.tensor(float(value), dtype=torch.float64) for name, value in when.items()})
        self._evaluation.close()
        self.training_clock.stop()  # logging and the checkpoint that follows are not training either
        self.evaluation_clock.start()

    def on_validation_end(self) -> None:
        self.trainer.callback_metrics.pop("step", None)  # else `ModelCheckpoint` would name later files after it
        self.evaluation_clock.stop()
        if self._was_training:
            self.training_clock.start()

    def on_test_end(self) -> None:
        """Count the look at the test split in the run's record, if `default_root_dir` is the folder of a run."""
        if self.trainer.is_global_zero:
            count_look(Path(self.trainer.default_root_dir))

    def test_step(self, window: Int[Tensor, "B T+1"], batch_idx: int) -> None:
        """Score the test split with the protocol `blocks` and log it as `test/nll`."""
        nll, _ = self._score(window, batch_idx)
        self._log_nll("test", nll, window)

    def predict_step(self, window: Int[Tensor, "B T+1"], batch_idx: int) -> Float[Tensor, " B*T"]:
        """Return −log p, in nats, of each validation character given its block, in order."""
        nll, _ = self._score(window, batch_idx)
        return nll.flatten()

    def _score(self, window: Int[Tensor, "B T+1"], batch_idx: int) -> tuple[Float[Tensor, "B T"], float]:
        if not len(window):
            return torch.zeros(0, window.shape[1] - 1, device=window.device), 0.0
        number = batch_idx * self.trainer.world_size + self.trainer.global_rank
        draws = NUM_DRAWS if self.model.likelihood == "bound" else 1
        return score_window(self.model, window, number=number, num_draws=draws)

    def _log_nll(self, split: str, nll: Float[Tensor, "B T"], window: Int[Tensor, "B T+1"]) -> None:
        metric = self._metric(split)
        counts = count_characters(window[:, 1:], self.trainer.datamodule.vocabulary)
        metric.update(nll, None if counts is None else counts.sum())
        self.log(f"{split}/nll", metric, on_step=False, on_epoch=True, add_dataloader_idx=False)

    def _metric(self, split: str) -> NegativeLogLikelihood:
        return cast(NegativeLogLikelihood, self._metrics[f"{split}_nll"])

    def _result(self, split: str) -> Score:
        """Return the score of a split over all ranks, equal to what `evaluate` returns unless batches are left out."""
        data = self.trainer.datamodule
        estimate = Estimate(num_batches=data.estimate_batches, batch_size=data.batch_size, seed=data.seed)
        protocol = Blocks() if split == "dev" else estimate
        sizes = Sizes(len(data.splits[split]), data.context_length, data.batch_size)
        own_variance = torch.tensor(self._variance[split], dtype=torch.float64)
        variance = self.trainer.strategy.reduce(own_variance, reduce_op="sum").item()
        metric, vocabulary = self._metric(split), data.vocabulary
        nll, scored = metric.compute().item(), int(metric.counted)
        score = protocol.result(self.model, data.splits[split], sizes, nll, variance, NUM_DRAWS, vocabulary=vocabulary)
        if scored == score.characters:
            return score
        # A limit, which `overfit_batches` sets too, leaves out a part.
        error = None if score.standard_error is None else score.standard_error * score.characters / scored
        settings = {**score.settings, "limit_val_batches": self.trainer.limit_val_batches}
        return dataclasses.replace(score, characters=scored, standard_error=error, settings=settings)


def count_look(folder: Path) -> None:
    """Add a look at the test split to the record in `folder`, if there is one."""
    path = folder / "record.json"
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        record["test_looks"] = record.get("test_looks", 0) + 1
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(path, lambda file: file.write(text.encode()))


class Stopwatch:
    """Add up the time between `start` and `stop`; a repeated call of either has no effect."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since: float | None = None

    @property
    def running(self) -> bool:
        """Whether the stopwatch is running."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds so far, including the time since an open `start`."""
        return self._total + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._total = value
        if self._since is not None:
            self._since = time.perf_counter()

    def start(self) -> None:
        """Start, or continue, the stopwatch."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop the stopwatch once the device has finished its queued work."""
        if self._since is not None:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            elif torch.backends.mps.is_available():
                torch.mps.synchronize()
            self._total, self._since = self.seconds, None
