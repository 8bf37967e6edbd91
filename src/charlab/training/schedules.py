"""Learning-rate schedules: a multiple of the optimizer's rate for each share of the budget that is spent.

The budget may be steps or seconds; a schedule does not know which. So the same schedule ends where the run ends. It
is read at the middle of each step, so that neither the first step of a rise from 0 nor the last of a fall to 0 is
wasted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hydra.utils import get_object
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from charlab.configuration.build import build
from charlab.errors import UserError
from charlab.types import Fraction

if TYPE_CHECKING:
    from charlab.data.datamodule import CharacterDataModule


def schedule_from(node: Mapping[str, Any], data: CharacterDataModule) -> Any:
    """Return the schedule that a part of a configuration describes, or a partial of one of torch's schedulers.

    Raises:
        UserError: if it is neither, or chooses by a dev split that `data` does not have.
    """
    made = get_object(node["_target_"])
    if isinstance(made, type) and issubclass(made, LRScheduler):
        if issubclass(made, ReduceLROnPlateau) and "dev" not in data.splits:
            raise UserError(
                "scheduler=ReduceLROnPlateau lowers the rate by dev/nll, and this run has no dev split: set "
                "data.dev_fraction (0.05, say)."
            )
        return build({**node, "_partial_": True})
    schedule = build({key: value for key, value in node.items() if key != "_partial_"})
    if not callable(schedule):
        raise UserError(f"scheduler._target_={node['_target_']} makes no schedule: name one that does.")
    return schedule


class Schedule(Protocol):
    """A function from the share of the budget that is spent, in [0, 1], to a multiple of the learning rate."""

    def __call__(self, spent: float) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The optimizer's own rate throughout."""

    def __call__(self, spent: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """A linear rise, then half a cosine down (Loshchilov & Hutter 2017, equation 5, without restarts).

    Args:
        warmup: share of the budget in which the rate rises.
        final: the last rate, as a multiple of the highest.
    """

    warmup: Fraction
    final: Fraction

    def __call__(self, spent: float) -> float:
        if spent < self.warmup:
            return spent / self.warmup
        descent = (spent - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * descent))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """A linear rise, a plateau, a linear fall (Hu et al., arXiv 2404.06395).

    Args:
        warmup: share of the budget in which the rate rises.
        decay: share of the budget, at its end, in which it falls.
        final: the last rate, as a multiple of the highest.
    """

    warmup: Fraction
    decay: Fraction
    final: Fraction

    def __post_init__(self) -> None:
        if self.warmup + self.decay > 1:
            raise UserError(
                f"scheduler.warmup={self.warmup} and scheduler.decay={self.decay} exceed the whole budget: "
                "make them sum to at most 1."
            )

    def __call__(self, spent: float) -> float:
        if spent < self.warmup:
            return spent / self.warmup
        if spent <= 1 - self.decay:
            return 1.0
        return self.final + (1 - self.final) * (1 - spent) / self.decay
