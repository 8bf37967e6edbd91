"""Muon: orthogonalized momentum for hidden matrices, and Adam for all other parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

from charlab.errors import UserError
from charlab.models.linear import StackedLinear
from charlab.training.optimizers import Betas, Decayed, GradientOptimizer, decay_groups, fused
from charlab.types import NonNegativeFloat, PositiveFloat, PositiveInt, Probability

# Coefficients of the polynomial a·x + b·x³ + c·x⁵. Jordan chose them for the steepest slope at 0, so that small
# singular values grow fastest; the price is that the others end up near 1 rather than at 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(GradientOptimizer):
    """Orthogonalized momentum for the hidden matrices, Adam with decoupled weight decay for the rest.

    For a matrix W of A rows and B columns with gradient G,

        M ← μ·M + (1 − μ)·G
        O ← orthogonalize(μ·M + (1 − μ)·G)        (Nesterov's momentum)
        W ← (1 − lr·weight_decay)·W − lr · 0.2·√max(A, B) · O

    (K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024). The factor 0.2·√max(A, B)
    matches the root mean square of Adam's updates, so one `lr`, about the size of AdamW's, suits matrices of all shapes
    (arXiv 2502.16982, equation 4).

    Hidden matrices are the weights of linear and recurrent layers; matrices stacked in a `StackedLinear` or recurrent
    layer are updated separately. Adam updates everything else: modules named `readout`, embeddings, gains, biases. Both
    follow the same schedule, each with its own learning rate.

    Matrices of equal shape, transposed if needed, are orthogonalized together.

    Args:
        model: the model to optimize.
        lr: learning rate of the hidden matrices.
        momentum: μ, the decay rate of the running mean of gradients.
        iterations: Newton–Schulz iterations; the coefficients are tuned for 5.
        adam_lr: learning rate of all other parameters.
        betas: Adam's decay rates for the running means of the gradient and its square.
        eps: term added to the denominator of Adam's update.
        weight_decay: each step multiplies decayed weights by 1 − lr · weight_decay (adam_lr for Adam's parameters).
        decayed: parameters that decay: "all", or "matrices" only (no biases, no norms' gains).

    Raises:
        UserError: if the model has no hidden matrix.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: PositiveFloat,
        momentum: Probability,
        iterations: PositiveInt,
        adam_lr: PositiveFloat,
        betas: Betas,
        eps: PositiveFloat,
        weight_decay: NonNegativeFloat,
        decayed: Decayed,
    ) -> None:
        self._heights = hidden_matrices(model)
        if not self._heights:
            raise UserError(
                f"optimizer=muon orthogonalizes hidden matrices, and {type(model).__name__} has none: "
                "use optimizer=adamw."
            )
        rest = [p for p in model.parameters() if p.requires_grad and p not in self._heights]
        hidden = {"lr": lr, "hidden": True, "momentum": momentum, "iterations": iterations}
        others = {"lr": adam_lr, "hidden": False, "betas": (betas[0], betas[1]), "eps": eps, **fused(model)}
        groups = [group | hidden for group in decay_groups(list(self._heights), weight_decay, decayed)]
        super().__init__(groups + [group | others for group in decay_groups(rest, weight_decay, decayed)], {})

    def update(self, group: dict[str, Any]) -> None:
        """Update a group: hidden matrices by Muon, other parameters by Adam."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if parameters:
            (self._step_hidden if group["hidden"] else self._step_others)(parameters, group)

    def _step_hidden(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        batches = defaultdict(list)  # by shape
        for parameter in parameters:
            state, gradient = self.state[parameter], parameter.grad
            assert gradient is not None
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            mean = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            direction = gradient.lerp(mean, group["momentum"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            heights = self._heights[parameter]
            for weight, along in zip(parameter.split(heights), direction.split(heights), strict=True):
                if weight.shape[0] > weight.shape[1]:
                    weight, along = weight.mT, along.mT
                batches[weight.shape].append((weight, along))
        for shape, pairs in batches.items():
            updates = orthogonalize(torch.stack([along for _, along in pairs]), group["iterations"])
            rate = group["lr"] * 0.2 * math.sqrt(max(shape))
            for (weight, _), update in zip(pairs, updates, strict=True):
                weight.sub_(update, alpha=rate)

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device if group["fused"] else "cpu")
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=not group["fused"],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalize(matrices: Float[Tensor, "N m n"], iterations: int) -> Float[Tensor, "N m n"]:
    """Return matrices with the same singular vectors and with singular values near 1.

    Newton–Schulz iterations X ← a·X + b·(XXᵀ)X + c·(XXᵀ)²X change only the singular values (Jordan et al. 2024). Five
    iterations map those of at least 1/500 of the matrix's norm into [0.68, 1.21]; smaller ones grow 3.4-fold per
    iteration.

    Products are computed in bfloat16 on a GPU that supports it, else in the precision of `matrices`, because bfloat16
    is many times slower on most CPUs.

    Args:
        matrices: the matrices, preferably with m ≤ n, which is faster; transposing one transposes its result.
        iterations: number of iterations.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(_product_dtype(matrices))
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)  # as in Jordan's code; no singular value exceeds 1
    if x.shape[-1] >= 2 * x.shape[-2] and x.dtype != torch.bfloat16:
        x = _factor(x @ x.mT, iterations) @ x
    else:
        for _ in range(iterations):
            gram = x @ x.mT  # (N, m, m)
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


def _factor(gram: Float[Tensor, "N m m"], iterations: int) -> Float[Tensor, "N m m"]:
    """Return the polynomial P of XXᵀ such that P·X is the result of all iterations.

    All products are m × m, which halves the work for n = 4 m. But they square the smallest singular values, which
    bfloat16 is too coarse for.
    """
    factor = growth = _growth(gram)
    for _ in range(iterations - 1):
        gram = growth @ gram @ growth
        growth = _growth(gram)
        factor = growth @ factor
    return factor


def _growth(gram: Float[Tensor, "N m m"]) -> Float[Tensor, "N m m"]:
    """Return a + b·G + c·G², the factor of one iteration for G = XXᵀ."""
    a, b, c = COEFFICIENTS
    growth = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    growth.diagonal(dim1=-2, dim2=-1).add_(a)
    return growth


def hidden_matrices(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Return the weights to orthogonalize, each with the numbers of rows of its stacked matrices."""
    found: dict[Tensor, tuple[int, ...]] = {}
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, module in model.named_modules():
        if "readout" in name.split("."):
            continue
        if isinstance(module, StackedLinear):
            found[module.weight] = module.heights
        elif isinstance(module, nn.Linear):
            found[module.weight] = (module.out_features,)
        elif isinstance(module, nn.RNNBase):  # one matrix per gate
            weights = [weight for part, weight in module.named_parameters() if part.startswith("weight_")]
            found |= {weight: (module.hidden_size,) * (len(weight) // module.hidden_size) for weight in weights}
    return {p: heights for p, heights in found.items() if p.requires_grad and p not in embeddings}


def _product_dtype(matrices: Tensor) -> torch.dtype:
    if matrices.is_cuda and matrices.dtype == torch.float32 and torch.cuda.get_device_capability() >= (8, 0):
        return torch.bfloat16
    return matrices.dtype
