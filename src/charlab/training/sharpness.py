"""Sharpness-aware minimization, adapted to Lightning's closures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_optimizer import SAM

from charlab.errors import UserError


class SharpnessAwareMinimization(SAM):
    """The library's SAM, with both gradients computed by the closure.

    The library expects the first gradient before `step` is called, but Lightning computes and clips gradients only in
    the closure.
    """

    repeats_closure = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step along the gradient at the point within the radius where the loss is highest.

        Args:
            closure: computes the loss and its gradients; called at the weights, then at the perturbed weights.

        Raises:
            UserError: if there is no closure, as is the case with a scaled loss.
        """
        if closure is None:
            raise UserError(
                "optimizer=sam needs two gradients a step, which a scaled loss cannot give: set "
                "trainer.precision=float32 or bfloat16."
            )
        with torch.enable_grad():
            loss = closure()
        super().step(closure)
        return loss
