"""Optimizers: functions from a model to a torch optimizer over its parameters.

Keyword-only arguments come from the configuration. The functions share these arguments, and document only deviations:

    model: the model to optimize.
    lr: learning rate.
    betas: decay rates for the running means of the gradient and its square.
    eps: term added to the denominator.
    weight_decay: each step multiplies decayed weights by 1 − lr · weight_decay.
    decayed: parameters that decay: "all", or "matrices" only (no biases, no norms' gains). Decay rates, steps,
        frequencies and readouts of state-space layers never decay.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from charlab.configuration.build import build, first_parameter
from charlab.errors import UserError
from charlab.models.initialization import UNDECAYED
from charlab.types import NonNegativeFloat, PositiveFloat, Probability

Decayed = Literal["all", "matrices"]
Betas = tuple[Probability, Probability]


def sgd(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    momentum: NonNegativeFloat,
    nesterov: bool,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.SGD:
    """Stochastic gradient descent, with or without momentum.

    Args:
        momentum: decay rate of the running sum of gradients; 0 disables momentum.
        nesterov: whether to use Nesterov's momentum (Sutskever et al. 2013).
        weight_decay: L2 penalty; weight_decay times the weights is added to the gradient.
    """
    return torch.optim.SGD(
        parameter_groups(model, weight_decay, decayed), lr=lr, momentum=momentum, nesterov=nesterov, **fused(model)
    )


def adam(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    betas: Betas,
    eps: PositiveFloat,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.Adam:
    """Adam (Kingma & Ba 2015, algorithm 1).

    Args:
        weight_decay: L2 penalty; weight_decay times the weights is added to the gradient.
    """
    groups = parameter_groups(model, weight_decay, decayed)
    return torch.optim.Adam(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, **fused(model))


def adamw(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    betas: Betas,
    eps: PositiveFloat,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2)."""
    groups = parameter_groups(model, weight_decay, decayed)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, **fused(model))


def lion(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    betas: Betas,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.Optimizer:
    """Lion: updates along the sign of a running mean (Chen et al., arXiv 2302.06675, algorithm 2).

    Args:
        lr: learning rate, about a fifth of AdamW's.
        betas: weight of the running mean in the update, and the decay rate of the running mean.
        weight_decay: decoupled weight decay, about five times AdamW's.

    Raises:
        UserError: if pytorch-optimizer is not installed.
    """
    _require_library("lion")
    from pytorch_optimizer import Lion

    return Lion(parameter_groups(model, weight_decay, decayed), lr=lr, betas=(betas[0], betas[1]))


def schedule_free_adamw(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    betas: Betas,
    eps: PositiveFloat,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.Optimizer:
    """AdamW with averaged weights instead of a decaying learning rate (Defazio et al., arXiv 2405.15682).

    The average is evaluated and saved. The learning rate needs no decay, but warmup helps.

    Args:
        betas: weight of the average in the point where the gradient is taken, and the decay rate of the running mean
            of its square.

    Raises:
        UserError: if pytorch-optimizer is not installed.
    """
    _require_library("schedule_free_adamw")
    from pytorch_optimizer import ScheduleFreeAdamW

    class ScheduleFree(ScheduleFreeAdamW):
        """The library's optimizer without the 1e-15 it adds to the mean square, which acts like an `eps` of 3.2e-8."""

        apply_ams_bound = staticmethod(partial(ScheduleFreeAdamW.apply_ams_bound, exp_avg_sq_eps=0.0))
        apply_ams_bound_foreach = staticmethod(partial(ScheduleFreeAdamW.apply_ams_bound_foreach, exp_avg_sq_eps=0.0))

    groups = parameter_groups(model, weight_decay, decayed)
    return ScheduleFree(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps)


def sam(
    model: nn.Module,
    *,
    rho: PositiveFloat,
    adaptive: bool,
    lr: PositiveFloat,
    betas: Betas,
    eps: PositiveFloat,
    weight_decay: NonNegativeFloat,
    decayed: Decayed,
) -> torch.optim.Optimizer:
    """Sharpness-aware minimization (Foret et al., arXiv 2010.01412, algorithm 1) with AdamW's steps.

    The gradient is taken at the point within `rho` of the weights where the loss is highest, to first order. Each step
    computes two gradients, so it takes twice as long. Gradient accumulation and float16 are not supported.

    Args:
        rho: radius of the neighborhood.
        adaptive: whether the radius scales with the size of each weight (Kwon et al., arXiv 2102.11600).

    Raises:
        UserError: if pytorch-optimizer is not installed.
    """
    _require_library("sam")
    from pytorch_optimizer import SAM

    class SharpnessAwareMinimization(SAM):
        """The library's SAM, which expects the first gradient before `step`; Lightning computes it in the closure."""

        repeats_closure = True

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            if closure is None:
                raise UserError(
                    "optimizer=sam needs two gradients a step, which a scaled loss cannot give: set "
                    "trainer.precision=32-true or bf16-mixed."
                )
            with torch.enable_grad():
                loss = closure()
            super().step(closure)
            return loss

    groups = parameter_groups(model, weight_decay, decayed)
    return SharpnessAwareMinimization(
        groups, torch.optim.AdamW, rho=rho, adaptive=adaptive, lr=lr, betas=(betas[0], betas[1]), eps=eps
    )


def optimizer_from(node: Mapping[str, Any]) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Return a function from a model to the optimizer that `node` describes.

    A class or function whose first parameter is `params`, such as torch's own, gets the model's trainable parameters.

    Raises:
        UserError: if `node` does not describe an optimizer (raised when the function is called).
    """
    factory = build({**node, "_partial_": True})
    if first_parameter(node["_target_"]) == "params":
        return lambda model: factory([weight for weight in model.parameters() if weight.requires_grad])

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        result = factory(model)
        if not isinstance(result, torch.optim.Optimizer):
            raise UserError(
                f"optimizer._target_={node['_target_']} does not create a torch.optim.Optimizer: name one that does."
            )
        return result

    return optimizer


def repeats_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer may compute the gradient of a batch more than once."""
    return isinstance(optimizer, torch.optim.LBFGS) or bool(getattr(optimizer, "repeats_closure", False))


def parameter_groups(model: nn.Module, weight_decay: float, decayed: Decayed) -> list[dict[str, Any]]:
    """Return the model's trainable parameters, split into groups with and without weight decay."""
    return decay_groups([p for p in model.parameters() if p.requires_grad], weight_decay, decayed)


def decay_groups(parameters: Sequence[Tensor], weight_decay: float, decayed: Decayed) -> list[dict[str, Any]]:
    """Split parameters into groups with and without weight decay.

    A parameter marked by `charlab.models.initialization.undecayed` never decays.
    """
    if weight_decay == 0:
        return [{"params": list(parameters), "weight_decay": 0.0}]
    groups: dict[float, list[Tensor]] = {weight_decay: [], 0.0: []}
    for parameter in parameters:
        decays = (decayed == "all" or parameter.ndim >= 2) and not getattr(parameter, UNDECAYED, False)
        groups[weight_decay if decays else 0.0].append(parameter)
    return [{"params": members, "weight_decay": decay} for decay, members in groups.items() if members]


def fused(model: nn.Module) -> dict[str, bool]:
    """Return the argument `fused`: true if torch has fused kernels for the model's device.

    A GPU without bfloat16 trains in float16 with a scaled loss, and fused optimizers unscale the gradients only after
    they are clipped.
    """
    devices = {parameter.device for parameter in model.parameters()}
    scaled = any(device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0) for device in devices)
    return {"fused": not scaled and {device.type for device in devices} <= {"cpu", "cuda", "mps"}}


def _require_library(optimizer: str) -> None:
    """Raise `UserError` unless pytorch-optimizer is installed."""
    if importlib.util.find_spec("pytorch_optimizer") is None:
        raise UserError(
            f"optimizer={optimizer} needs the package pytorch-optimizer, which is not installed: "
            "pip install 'charlab[optimizers]'."
        )


class GradientOptimizer(torch.optim.Optimizer):
    """Base class for optimizers; a subclass implements `update` for a group of parameters."""

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient.

        Args:
            closure: reevaluates the model and returns the loss.
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
        """Update the parameters of one group in place. Called under `torch.no_grad`."""
