"""Average the weights over training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from charlab.errors import UserError
from charlab.types import Fraction, PositiveInt

if TYPE_CHECKING:
    from charlab.training.module import LanguageModelModule


class Averaging(Callback):
    """Keep an average of the weights, which is evaluated, saved and used after training.

    The n-th update moves the average toward the weights by max(1 − decay, 1/n) of the difference. The average is first
    the mean of all weights so far and then an exponential moving average (Polyak & Juditsky 1992) without bias toward
    its initial value. With a decay of 1 it remains the mean: stochastic weight averaging (Izmailov et al., arXiv
    1803.05407), which should start late and use a constant learning rate.

    This must be the trainer's first callback, so that the other callbacks see the updated average. Lightning's own
    `WeightAveraging` applies the average in Lightning's evaluations only, and uses the initial weights until averaging
    starts.

    Args:
        decay: share of the average that an update keeps in the long run.
        start: share of the budget after which averaging starts; until then the weights themselves are used.
        every_n_steps: optimizer steps between updates.
    """

    def __init__(self, *, decay: Fraction, start: Fraction, every_n_steps: PositiveInt) -> None:
        self.decay, self.start, self.every_n_steps = decay, start, every_n_steps
        self._weights: list[Tensor] = []
        self._average: list[Tensor] = []
        self._updates = 0
        self._last_step = 0

    def setup(self, trainer: Trainer, pl_module: LanguageModelModule, stage: str) -> None:
        if stage == "fit":  # else the average of an earlier training would go on
            self._average, self._updates, self._last_step = [], 0, 0

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
            for average, weight in zip(self._average, self._weights, strict=True):
                average.lerp_(weight, max(1 - self.decay, 1 / self._updates))

    def eval(self) -> None:
        """Swap the trained weights for their average, if there is one yet."""
        self._exchange()

    def train(self) -> None:
        """Swap the trained weights back."""
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


@runtime_checkable
class KeepsAverage(Protocol):
    """A callback or optimizer that averages the weights: `Averaging`, or a schedule-free optimizer."""

    def eval(self) -> Any:
        """Replace the trained weights by their average."""

    def train(self) -> Any:
        """Restore the trained weights."""


@contextmanager
def averages_in_place(model: nn.Module, keepers: Sequence[KeepsAverage]) -> Iterator[None]:
    """Give the model its averaged weights while the block runs, then restore the trained weights exactly.

    Schedule-free optimizers compute the trained weights from the average, with rounding errors. Without an exact copy,
    the number of evaluations would change what a run learns.
    """
    if not keepers:
        yield
        return
    trained = [parameter.detach().clone() for parameter in model.parameters()]
    for keeper in keepers:
        keeper.eval()
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.train()
        with torch.no_grad():
            for parameter, weights in zip(model.parameters(), trained, strict=True):
                parameter.copy_(weights)
