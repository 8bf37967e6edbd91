"""The Lightning module that trains any language model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from charlab.errors import UserError
from charlab.evaluation.metric import NegativeLogLikelihood
from charlab.models.contract import LanguageModel
from charlab.models.inference import evaluation_mode
from charlab.training.averages import KeepsAverage, averages_in_place
from charlab.training.objectives import Objective
from charlab.training.ranks import from_every_rank, own_part
from charlab.training.schedules import Schedule


class LanguageModelModule(LightningModule):
    """Minimises the model's loss, or another objective, on windows of text.

    The module knows nothing of data, evaluation or logging: those are the datamodule's and the callbacks'.

    Where a callback or the optimizer keeps an average of the weights, it is what is evaluated, what a checkpoint
    holds as the model's weights (beside those that training goes on with), and what the model has in the end.

    Args:
        model: what is trained.
        optimizer: `optimizer(model)` returns a torch optimizer over the model's parameters.
        schedule: learning rate as a multiple of the optimizer's own, over the course of the budget.
        max_steps: the budget in optimizer steps, or None.
        max_seconds: the budget in seconds of the training clock, or None.
        objective: what is minimised; None for the model's own loss.

    Attributes:
        compute_loss: the objective, or a compiled form of it.
        characters_seen: characters scored in training so far, over all ranks.
        micro_batches: batches read so far on each rank; with gradient accumulation several make a step.
        compilation_clock: seconds of compiling, which count neither as training nor as evaluation.
        last_loss: the latest batch's loss, in nats per character. Reading it waits for the device.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        optimizer: Callable[[LanguageModel], Optimizer],
        schedule: Schedule,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective if objective is not None else Objective()
        self.compute_loss: Callable[[LanguageModel, Tensor], Tensor] = self.objective
        self.optimizer, self.schedule = optimizer, schedule
        self.max_steps, self.max_seconds = max_steps, max_seconds
        self.characters_seen = 0
        self.micro_batches = 0
        self.last_loss: Tensor | None = None
        self._is_counted = False  # whether the batch at hand is
        self._averages: list[KeepsAverage] = []
        self.validation_nll = NegativeLogLikelihood()
        self.training_clock, self.evaluation_clock = Stopwatch(), Stopwatch()
        self.compilation_clock = Stopwatch()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # Lightning's note of the hook at hand, fifty times a step: no parameter
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def training_seconds(self) -> float:
        """Seconds spent in training so far, over all attempts at this run; evaluation is left out."""
        return self.training_clock.seconds

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._is_counted = False
        self.objective.begin_batch(self.micro_batches % self.trainer.accumulate_grad_batches)

    def training_step(self, window: Int[Tensor, "B T+1"], batch_idx: int) -> Float[Tensor, ""]:
        loss = self.compute_loss(self.model, window)
        if not self._is_counted:  # an optimizer may ask for the loss of a batch more than once
            self._is_counted = True
            self.last_loss = loss.detach()
            self.micro_batches += 1
            self.characters_seen += window.shape[0] * (window.shape[1] - 1) * self.trainer.world_size
        return loss

    def validation_step(self, window: Int[Tensor, "B T+1"], batch_idx: int) -> None:
        """Scores a batch, for `Trainer.validate`; charlab's own runs evaluate by protocols, in callbacks."""
        self.validation_nll.update(self.model.nll(window))
        self.log("validation/nll", self.validation_nll, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer(self.model)
        if getattr(optimizer, "repeats_closure", False) and self.trainer.accumulate_grad_batches > 1:
            raise UserError(
                "This optimizer computes the gradient of a step twice, which Lightning does for its last batch only: "
                "set trainer.accumulate_grad_batches=1."
            )
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(self.budget_spent(step)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Shortens the gradient to a norm of `gradient_clip_val`, if it is longer.

        Lightning's own refuses fused optimizers in every mixed precision, although bfloat16 has no scale that they
        would undo too late.
        """
        if gradient_clip_val is not None:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            clip_grad_norm_(weights, gradient_clip_val * gradient_scale(self.trainer, optimizer))

    def budget_spent(self, step: int) -> float:
        """Returns the share of the budget that is spent at the middle of the step after `step` others, from 0 to 1."""
        shares = [0.0]
        if self.max_steps:
            shares.append((step + 0.5) / self.max_steps)
        if self.max_seconds:
            shares.append(self._budget_seconds() / self.max_seconds)
        return min(max(shares), 1.0)

    def on_train_start(self) -> None:
        parts = [*self.trainer.optimizers, *self.trainer.callbacks]
        self._averages = [part for part in parts if isinstance(part, KeepsAverage)]
        self.training_clock.start()  # after the callbacks' own beginnings, such as an evaluation before the first step

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.max_seconds and self._budget_seconds() >= self.max_seconds:
            self.trainer.should_stop = True

    def _budget_seconds(self) -> float:
        """Returns the training seconds by rank 0's clock, which decides for all; all of them have to ask together."""
        return self.trainer.strategy.broadcast(self.training_seconds)

    def on_train_end(self) -> None:
        self.training_clock.stop()
        for average in self._averages:  # for good: the callbacks' own endings, such as the last checkpoint, are over
            average.eval()
        self._averages = []

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Puts the model into evaluation mode, with averaged weights if there are any, for a while.

        That counts as evaluation rather than training.
        """
        was_counting = self.training_clock.running
        self.training_clock.stop()
        self.evaluation_clock.start()
        try:
            with (
                averages_in_place(self.model, self._averages),
                evaluation_mode(self.model),
                torch.no_grad(),
                self.trainer.precision_plugin.forward_context(),
            ):
                yield
        finally:
            self.evaluation_clock.stop()
            if was_counting:
                self.training_clock.start()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = {
            "characters_seen": self.characters_seen,
            "micro_batches": self.micro_batches,
            "training_seconds": self.training_clock.seconds,
            "evaluation_seconds": self.evaluation_clock.seconds,
            "compilation_seconds": self.compilation_clock.seconds,
        }
        checkpoint["objective"] = from_every_rank(move_data_to_device(self.objective.state_dict(), "cpu"))
        if self._averages:
            checkpoint["training_weights"] = checkpoint["state_dict"]
            with averages_in_place(self.model, self._averages):
                checkpoint["state_dict"] = {name: value.clone() for name, value in self.state_dict().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["progress"]
        self.characters_seen = progress["characters_seen"]
        self.micro_batches = progress["micro_batches"]
        self.training_clock.seconds = progress["training_seconds"]
        self.evaluation_clock.seconds = progress["evaluation_seconds"]
        self.compilation_clock.seconds = progress.get("compilation_seconds", 0.0)
        self.objective.load_state_dict(own_part(checkpoint["objective"]) or {})
        if checkpoint.get("training_over"):  # killed while it was being evaluated: the averages stay in their place
            self.trainer.should_stop = True
        else:
            checkpoint["state_dict"] = checkpoint.get("training_weights", checkpoint["state_dict"])


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> float:
    """Returns by how much the gradients are larger than those of the loss at the time they are looked at.

    In float16 the loss is scaled. Lightning takes that back before gradients are measured or clipped, but for a
    fused optimizer, which does so itself, later. Reading the scale waits for the device.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
        return 1.0
    return float(scaler.get_scale())


class Stopwatch:
    """Adds up the time between `start` and `stop`, each of which may be called twice without harm."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since: float | None = None

    @property
    def running(self) -> bool:
        """Whether it counts at present."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """Seconds counted so far, the running stretch included."""
        return self._total + (time.perf_counter() - self._since if self._since is not None else 0.0)

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._total = value
        if self._since is not None:
            self._since = time.perf_counter()

    def start(self) -> None:
        """Goes on counting."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Stops counting, once the device has finished what was asked of it so far."""
        if self._since is not None:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            elif torch.backends.mps.is_available():
                torch.mps.synchronize()
            self._total, self._since = self.seconds, None
