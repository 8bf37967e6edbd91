"""Stopping a run whose loss is no longer a number."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, Trainer

from charlab.training.module import LanguageModelModule
from charlab.types import PositiveInt


class DivergedError(RuntimeError):
    """The training loss became infinite or not a number."""


class Divergence(Callback):
    """Stops training when the loss is not finite; `Checkpointing` asks before it writes such weights.

    Args:
        every_n_steps: how often to look where looking makes training wait: for a GPU, or for other processes. One
            process on a CPU looks at every step.
    """

    def __init__(self, *, every_n_steps: PositiveInt) -> None:
        self.every_n_steps = every_n_steps
        self.last_finite_loss = math.nan

    def on_train_batch_end(self, trainer: Trainer, pl_module: LanguageModelModule, *_: Any) -> None:
        looking_is_free = pl_module.device.type == "cpu" and trainer.world_size == 1
        if looking_is_free or trainer.global_step % self.every_n_steps == 0:
            self.check(trainer, pl_module)

    def check(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        """Raises `DivergedError` if the latest loss is not finite, on whichever rank: on all of them then."""
        if pl_module.last_loss is None:
            return
        loss = trainer.strategy.reduce(pl_module.last_loss, reduce_op="mean").item()
        if math.isfinite(loss):
            self.last_finite_loss = loss
            return
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        raise DivergedError(
            f"The loss became {loss} at step {trainer.global_step}; the last finite one was "
            f"{self.last_finite_loss:.4g}, the learning rate {rate:.3g}: lower optimizer.lr or clip the gradient."
        )
