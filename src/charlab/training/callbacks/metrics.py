"""What is measured of training itself: loss, learning rate, gradient norm and speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from charlab.training.module import LanguageModelModule, gradient_scale
from charlab.training.ranks import from_every_rank, own_part
from charlab.types import PositiveInt


class TrainingMetrics(Callback):
    """Logs `train/loss` and what belongs to it every few optimizer steps, and after the last one.

    `train/loss` is the mean over all batches since the previous logging, over all ranks, in nats per character; in
    between it is summed on the device, so that only a step that is logged waits for it.

    Args:
        every_n_steps: optimizer steps between two loggings.
    """

    def __init__(self, *, every_n_steps: PositiveInt) -> None:
        self.every_n_steps = every_n_steps
        self._loss_sum: Tensor | float = 0.0
        self._batches = 0
        self._characters = 0  # characters seen and training seconds at the previous logging
        self._seconds = 0.0
        self._step = 0
        self._gradient_norm: Tensor | None = None
        self._learning_rate = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Notes what this step uses; gradients are complete here and not yet clipped."""
        assert isinstance(pl_module, LanguageModelModule)
        if self._is_logged(trainer.global_step + 1, pl_module):
            self._learning_rate = optimizer.param_groups[0]["lr"]
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._gradient_norm = torch.nn.utils.get_total_norm(gradients) / gradient_scale(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModelModule)
        if pl_module.last_loss is None:  # a model that is not trained by gradients
            return
        self._loss_sum = self._loss_sum + pl_module.last_loss.float()
        self._batches += 1
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        if self._is_logged(self._step, pl_module):
            self._log(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {
            "loss_sums": from_every_rank(float(self._loss_sum)),
            "batches": self._batches,
            "characters": self._characters,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loss_sum, self._batches = own_part(state_dict["loss_sums"]) or 0.0, state_dict["batches"]
        self._characters, self._seconds = state_dict["characters"], state_dict["seconds"]

    def _is_logged(self, step: int, module: LanguageModelModule) -> bool:
        return step % self.every_n_steps == 0 or step == module.max_steps

    def _log(self, trainer: Trainer, module: LanguageModelModule) -> None:
        loss = trainer.strategy.reduce(torch.as_tensor(self._loss_sum) / self._batches, reduce_op="mean").cpu()
        metrics = {
            "train/loss": loss.item(),
            "train/perplexity": loss.double().exp().item(),
            "learning_rate": self._learning_rate,
        }
        if self._gradient_norm is not None:
            metrics["gradient_norm"] = self._gradient_norm.item()
        seconds = module.training_seconds  # read after the device has finished the step
        if seconds > self._seconds:
            metrics["characters_per_second"] = (module.characters_seen - self._characters) / (seconds - self._seconds)
        log_metrics(trainer, module, metrics)
        self._loss_sum, self._batches, self._gradient_norm = 0.0, 0, None
        self._characters, self._seconds = module.characters_seen, seconds


def log_metrics(trainer: Trainer, module: LanguageModelModule, metrics: Mapping[str, float]) -> None:
    """Hands metrics to every logger, with the step, the characters and the training seconds they belong to."""
    clock = {"characters": module.characters_seen, "seconds": module.training_seconds}
    for logger in trainer.loggers:
        logger.log_metrics({**metrics, **clock}, step=trainer.global_step)
