"""Sharpness-aware minimization, as Lightning calls an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_optimizer import SAM

from charlab.errors import UserError


class SharpnessAwareMinimization(SAM):
    """The library's SAM, with both gradients computed by the closure.

    The library wants the first gradient to be there before `step` is called. Lightning computes gradients in the
    closure only, which clips them as well.
    """

    repeats_closure = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step along the gradient at the weights where the loss within the radius is highest.

        Args:
            closure: computes the loss and its gradients; called at the weights, then at the perturbed ones.

        Raises:
            UserError: if there is no closure, as with a scaled loss.
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
