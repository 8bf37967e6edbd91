"""Full precision for computations that half precision would spoil: long products of decays, long sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` outside autocast, with half-precision tensors converted to float32."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        promoted = cast(Any, map(_promote, args))
        if not torch.amp.is_autocast_available(device):  # such as "meta"
            return function(*promoted, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*promoted, **kwargs)

    return run


def promoted(tensor: Tensor) -> Tensor:
    """Return a tensor of half precision in float32, any other unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _promote(arg: object) -> object:
    return promoted(arg) if isinstance(arg, Tensor) and arg.is_floating_point() else arg
