"""Initial weights, applied to a whole model after torch's own defaults."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from charlab.types import PositiveFloat

UNDECAYED = "_no_weight_decay"  # attribute that exempts a parameter from weight decay


@runtime_checkable
class ResidualModel(Protocol):
    """A model that names the linear maps that write to its residual stream."""

    def output_projections(self) -> list[nn.Linear]: ...


def undecayed(values: Tensor) -> nn.Parameter:
    """Return a parameter that is exempt from weight decay, such as a decay rate, a step size or a frequency.

    The mark is the one that the authors of S4 and Mamba use, so it also works for their own layers.
    """
    parameter = nn.Parameter(values)
    setattr(parameter, UNDECAYED, True)
    return parameter


def normal(model: nn.Module, *, std: PositiveFloat, scale_residual: bool, zero_residual: bool) -> None:
    """Draw every linear and embedding weight from N(0, std²), and set every bias to 0.

    A layer with `keeps_initialization = True` is left alone: its weights have another meaning, such as a decay.

    Args:
        model: changed in place; its `output_projections()` are the maps that write to the residual stream.
        std: standard deviation.
        scale_residual: for `output_projections()`, divide `std` by the square root of their number (GPT-2).
        zero_residual: set the weights of `output_projections()` to 0, so that every block starts as the identity.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not getattr(module, "keeps_initialization", False):
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    writes = model.output_projections() if isinstance(model, ResidualModel) else []
    for write in writes:
        if zero_residual:
            nn.init.zeros_(write.weight)
        elif scale_residual:
            nn.init.normal_(write.weight, std=std / math.sqrt(len(writes)))
