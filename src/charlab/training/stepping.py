"""What a step of any optimizer that works on gradients alone does around its own mathematics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch


class GradientOptimizer(torch.optim.Optimizer):
    """An optimizer that says only how a group of parameters changes along the gradients that are there."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Changes all parameters that have a gradient.

        Args:
            closure: computes the loss and its gradients, as for any optimizer.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self.update(group)
        return loss

    @abstractmethod
    def update(self, group: dict[str, Any]) -> None:
        """Changes the parameters of one group, in place; called without gradients being recorded."""
