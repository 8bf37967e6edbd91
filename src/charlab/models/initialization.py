"""Initial weights, applied to a whole model after torch's own defaults."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from charlab.types import PositiveFloat

UNDECAYED = "_no_weight_decay"  # the attribute that marks a parameter


@runtime_checkable
class ResidualModel(Protocol):
    """A model that says which of its linear maps write to the residual stream."""

    def output_projections(self) -> list[nn.Linear]: ...


def undecayed(values: Tensor) -> nn.Parameter:
    """Return a parameter that no optimizer pulls toward 0: a decay rate, a step size, a frequency.

    The mark is the one that the authors of S4 and Mamba use, so layers of their code are respected as well.
    """
    parameter = nn.Parameter(values)
    setattr(parameter, UNDECAYED, True)
    return parameter


def normal(model: nn.Module, *, std: PositiveFloat, scale_residual: bool, zero_residual: bool) -> None:
    """Draws every linear and embedding weight from N(0, std²) and sets every bias to 0.

    A layer whose weights mean something else (a decay, a step size) keeps its own by an attribute
    `keeps_initialization = True`.

    Args:
        model: changed in place; its `output_projections()` are the maps that write to the residual stream.
        std: standard deviation.
        scale_residual: divides the residual writes' deviation by the root of their number (GPT-2).
        zero_residual: sets the residual writes to 0, so that every block starts as the identity.
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
