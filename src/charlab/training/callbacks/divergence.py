"""Stop a run whose loss or weights are no longer finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from charlab.training.module import LanguageModelModule
from charlab.types import PositiveInt


class DivergedError(RuntimeError):
    """Raised when the training loss or a weight becomes infinite or NaN."""


class Divergence(Callback):
    """Stop training when the loss is not finite; `Checkpointing` also checks the weights before it saves them.

    The loss is computed before the update of the weights, so it may be finite when the weights no longer are.

    Args:
        every_n_steps: steps between checks on a GPU or with several processes, where a check has to wait for them. A
            single process on a CPU checks every step.
    """

    def __init__(self, *, every_n_steps: PositiveInt) -> None:
        self.every_n_steps = every_n_steps
        self.last_finite_loss = math.nan

    def on_train_batch_end(self, trainer: Trainer, pl_module: LanguageModelModule, *_: Any) -> None:
        looking_is_free = pl_module.device.type == "cpu" and trainer.world_size == 1
        if looking_is_free or trainer.global_step % self.every_n_steps == 0:
            self.check(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        self.check_weights(trainer, pl_module)
        if any(entry["split"] == "train" and entry["nll"] is None for entry in pl_module.results):
            raise self._diverged("The loss on train text became infinite or NaN", trainer, pl_module)

    def check(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        """Raise `DivergedError` on all ranks if the latest loss is not finite on any rank."""
        if pl_module.last_loss is None:
            return
        loss = trainer.strategy.reduce(pl_module.last_loss, reduce_op="mean").item()
        if not math.isfinite(loss):
            raise self._diverged(f"The loss became {loss}", trainer, pl_module)
        self.last_finite_loss = loss

    def check_weights(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        """Raise `DivergedError` if a weight is NaN or +inf. All ranks hold the same weights.

        A weight of −inf is allowed, because it may be the log of a probability of 0.
        """
        lost = [(weight.isnan() | weight.isposinf()).any() for weight in pl_module.model.parameters()]
        if lost and torch.stack(lost).any():
            raise self._diverged("Weights became infinite or NaN", trainer, pl_module)

    def _diverged(self, what: str, trainer: Trainer, module: LanguageModelModule) -> DivergedError:
        advice = "lower optimizer.lr or clip the gradient"
        if any("smoothing" in group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            advice = "set optimizer.smoothing above 0, so that EM makes no character impossible"
        return DivergedError(
            f"{what} at step {trainer.global_step}; the last finite loss was {self.last_finite_loss:.4g}, "
            f"the learning rate {module.learning_rate:.3g}: {advice}."
        )
