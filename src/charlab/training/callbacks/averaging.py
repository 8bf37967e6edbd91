"""Averages of the weights over the course of training."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from charlab.errors import UserError
from charlab.training.module import KeepsAverage, LanguageModelModule
from charlab.types import Fraction, PositiveInt


class Averaging(Callback):
    """Keeps an average of the weights, which is what is evaluated, saved and used in the end; training goes on beside.

    At its n-th update the average moves toward the weights by max(1 − decay, 1/n) of the way. So at first it is the
    mean of all weights so far, and then an exponential moving average (Polyak & Juditsky 1992) that owes nothing to
    where it began. With a decay of 1 it stays the mean: stochastic weight averaging (Izmailov et al., arXiv
    1803.05407), which starts late and wants a constant learning rate.

    Of a trainer's callbacks it has to be the first, so that the others find it up to date. Lightning's own
    `WeightAveraging` knows no evaluation but its own, and uses the initial weights until averaging begins.

    Args:
        decay: share of the average that is kept in the long run.
        start: share of the budget after which averaging begins; until then the weights themselves are used.
        every_n_steps: optimizer steps between two updates.
    """

    def __init__(self, *, decay: Fraction, start: Fraction, every_n_steps: PositiveInt) -> None:
        self.decay, self.start, self.every_n_steps = decay, start, every_n_steps
        self._weights: list[Tensor] = []
        self._average: list[Tensor] = []
        self._updates = 0
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        if any(isinstance(optimizer, KeepsAverage) for optimizer in trainer.optimizers):
            raise UserError(
                "averaging averages the weights of an optimizer that averages them itself: choose averaging=none, "
                "or another optimizer."
            )
        self._weights = list(pl_module.model.parameters())
        self._average = [average.to(pl_module.device) for average in self._average]

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LanguageModelModule, *_: Any) -> None:
        step = trainer.global_step
        is_due = step % self.every_n_steps == 0 and pl_module.budget_spent(step) >= self.start
        if step == self._last_step or not is_due:
            return
        self._last_step = step
        self._updates += 1
        if self._updates == 1:
            self._average = [weight.detach().clone() for weight in self._weights]
        else:
            torch._foreach_lerp_(self._average, self._weights, max(1 - self.decay, 1 / self._updates))

    def eval(self) -> None:
        """Exchanges the weights that are trained for their average, if there is one yet."""
        self._exchange()

    def train(self) -> None:
        """Exchanges them back."""
        self._exchange()

    def state_dict(self) -> dict[str, Any]:
        return {"average": self._average, "updates": self._updates, "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average, self._updates = state_dict["average"], state_dict["updates"]
        self._last_step = state_dict["last_step"]

    @torch.no_grad()
    def _exchange(self) -> None:
        for weight, average in zip(self._weights, self._average, strict=False):  # no average before the first update
            trained = weight.clone()
            weight.copy_(average)
            average.copy_(trained)
