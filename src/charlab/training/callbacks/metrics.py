"""Metrics of training itself: loss, learning rate, gradient norm and speed."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from charlab.training.module import LanguageModelModule, gradient_scale
from charlab.training.ranks import from_every_rank, this_rank


class TrainingMetrics(Callback):
    """Log `train/loss`, learning rate, gradient norm and speed every `log_every_n_steps` steps and after the last one.

    `train/loss` is the mean over all batches since the previous log entry and over all ranks, in nats per character. It
    is summed on the device, so that only logged steps synchronize with the device. When the budget is spent, this
    callback tells the trainer to stop, and the trainer evaluates once more.

    The callback passes its metrics to the loggers directly, so that they are logged at the right step, and before a
    checkpoint of that step is written.
    """

    def __init__(self) -> None:
        self._loss_sum: Tensor | float = 0.0
        self._batches = 0
        self._characters = 0  # characters seen and training seconds at the previous log entry
        self._seconds = 0.0
        self._step = 0
        self._gradient_norm: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradient norm; gradients are complete here and not yet clipped."""
        assert isinstance(pl_module, LanguageModelModule)
        step = trainer.global_step + 1
        if _is_due(step, trainer) or step == pl_module.max_steps:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._gradient_norm = torch.nn.utils.get_total_norm(gradients) / gradient_scale(trainer, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModelModule)
        if pl_module.last_loss is None:  # the model is not trained by gradients
            return
        self._loss_sum = self._loss_sum + pl_module.last_loss.float()
        self._batches += 1
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        over = pl_module.budget_spent(self._step) >= 1
        if over:
            trainer.should_stop = True
        if over or _is_due(self._step, trainer):
            self._log(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {
            "loss_sums": from_every_rank(float(self._loss_sum)),
            "batches": self._batches,
            "characters": self._characters,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loss_sum, self._batches = this_rank(state_dict["loss_sums"]) or 0.0, state_dict["batches"]
        self._characters, self._seconds = state_dict["characters"], state_dict["seconds"]

    def _log(self, trainer: Trainer, module: LanguageModelModule) -> None:
        loss = trainer.strategy.reduce(torch.as_tensor(self._loss_sum) / self._batches, reduce_op="mean").cpu()
        metrics = {"train/loss": loss.item(), "learning_rate": module.learning_rate}
        if self._gradient_norm is not None:
            metrics["gradient_norm"] = self._gradient_norm.item()
        seconds = module.training_seconds  # read after the device has finished the step
        if seconds > self._seconds:
            metrics["characters_per_second"] = (module.characters_seen - self._characters) / (seconds - self._seconds)
        when = {"characters": module.characters_seen, "seconds": module.training_seconds}
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, **when}, step=trainer.global_step)
        trainer.callback_metrics["train/loss"] = loss
        self._loss_sum, self._batches, self._gradient_norm = 0.0, 0, None
        self._characters, self._seconds = module.characters_seen, seconds


def _is_due(step: int, trainer: Trainer) -> bool:
    every = trainer.log_every_n_steps
    return every > 0 and step % every == 0
