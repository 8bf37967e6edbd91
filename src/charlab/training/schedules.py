"""Learning-rate schedules: functions from the spent share of the budget to a multiple of the learning rate.

The budget may be in steps or in seconds; a schedule does not know which, so it always ends with the run. It is
evaluated at the middle of each step, so that no step has a learning rate of 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from hydra.utils import get_object
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from charlab.configuration.build import build, build_scheduler, first_parameter
from charlab.errors import UserError
from charlab.types import Fraction

if TYPE_CHECKING:
    from charlab.data.datamodule import CharacterDataModule


WITHOUT_DEV = (
    "scheduler=ReduceLROnPlateau lowers the rate by dev/nll, and this run has no dev split: set data.dev_fraction "
    "(0.05, say)."
)


def schedule_from(node: Mapping[str, Any], data: CharacterDataModule) -> Any:
    """Return the schedule that `node` describes, or a partial of what takes an optimizer, such as torch's schedulers.

    Raises:
        UserError: if `node` describes neither, or a scheduler that needs a dev split, which `data` does not have.
    """
    made = get_object(node["_target_"])
    kind = made if isinstance(made, type) else object
    if issubclass(kind, LRScheduler) or first_parameter(node["_target_"]) == "optimizer":
        if issubclass(kind, ReduceLROnPlateau) and "dev" not in data.splits:
            raise UserError(WITHOUT_DEV)
        return partial(build_scheduler, node)
    schedule = build({key: value for key, value in node.items() if key != "_partial_"})
    if not callable(schedule):
        raise UserError(f"scheduler._target_={node['_target_']} does not create a schedule: name one that does.")
    return schedule


class Schedule(Protocol):
    """A function from the spent share of the budget, in [0, 1], to a multiple of the learning rate."""

    def __call__(self, spent: float) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant learning rate."""

    def __call__(self, spent: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Linear warmup, then cosine decay (Loshchilov & Hutter 2017, equation 5, without restarts).

    Args:
        warmup: share of the budget for warmup.
        final: final learning rate, as a multiple of the peak.
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
    """Linear warmup, a plateau, then linear decay (Hu et al., arXiv 2404.06395).

    Args:
        warmup: share of the budget for warmup.
        decay: share of the budget, at its end, for decay.
        final: final learning rate, as a multiple of the peak.
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
