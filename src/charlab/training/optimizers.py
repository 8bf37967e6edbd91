"""Optimizers: functions from a model to a torch optimizer over its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from charlab.types import NonNegativeFloat, PositiveFloat

Decayed = Literal["all", "matrices"]


def sgd(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    momentum: NonNegativeFloat,
    nesterov: bool,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.SGD:
    """Stochastic gradient descent, with momentum or without.

    Args:
        model: whose parameters are optimized.
        lr: learning rate.
        momentum: share of the former step that is kept; 0 for none.
        nesterov: whether the gradient is taken after the momentum's step (Sutskever et al. 2013).
        weight_decay: strength of the pull toward 0, added to the gradient.
        decayed: "all" parameters, or "matrices" only (no biases, no norms' gains).
    """
    return torch.optim.SGD(
        parameter_groups(model, weight_decay, decayed), lr=lr, momentum=momentum, nesterov=nesterov, **fused(model)
    )


def adam(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    betas: tuple[float, float],
    eps: PositiveFloat,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015, algorithm 1).

    Args:
        model: whose parameters are optimized.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: strength of the pull toward 0, added to the gradient.
        decayed: "all" parameters, or "matrices" only (no biases, no norms' gains).
    """
    groups = parameter_groups(model, weight_decay, decayed)
    return torch.optim.Adam(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, **fused(model))


def adamw(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    betas: tuple[float, float],
    eps: PositiveFloat,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    Args:
        model: whose parameters are optimized.
        lr: learning rate.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: share of a weight, times lr, by which it shrinks at each step.
        decayed: "all" parameters, or "matrices" only (no biases, no norms' gains).
    """
    groups = parameter_groups(model, weight_decay, decayed)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, **fused(model))


def from_parameters(
    model: nn.Module,
    *,
    constructor: Callable[..., torch.optim.Optimizer],
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.Optimizer:
    """Any optimizer class of any library that takes parameter groups.

    Args:
        model: whose parameters are optimized.
        constructor: `constructor(groups)` returns the optimizer; a `_partial_` of its class in a configuration.
        weight_decay: given to the groups that decay.
        decayed: "all" parameters, or "matrices" only (no biases, no norms' gains).
    """
    return constructor(parameter_groups(model, weight_decay, decayed))


def parameter_groups(model: nn.Module, weight_decay: float, decayed: Decayed) -> list[dict[str, Any]]:
    """Returns the model's trainable parameters, those that decay in a group of their own."""
    return decay_groups([p for p in model.parameters() if p.requires_grad], weight_decay, decayed)


def decay_groups(parameters: Sequence[Tensor], weight_decay: float, decayed: Decayed) -> list[dict[str, Any]]:
    """Returns the parameters, those that decay in a group of their own."""
    if decayed == "all" or weight_decay == 0:
        return [{"params": list(parameters), "weight_decay": weight_decay}]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def fused(model: nn.Module) -> dict[str, bool]:
    """Returns the argument that lets one kernel update all parameters, where torch has such a kernel.

    A GPU without bfloat16 trains in float16 with a scaled loss, which fused optimizers undo too late for clipping.
    """
    devices = {parameter.device for parameter in model.parameters()}
    scaled = any(device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0) for device in devices)
    return {"fused": not scaled and {device.type for device in devices} <= {"cpu", "cuda", "mps"}}
