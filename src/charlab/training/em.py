"""Expectation–maximization as a torch optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from charlab.models.hmm import check_log_probabilities
from charlab.training.stepping import GradientOptimizer
from charlab.types import Fraction, NonNegativeFloat, Probability


class ExpectationMaximization(GradientOptimizer):
    """EM for models whose parameters are log-probabilities, one distribution per row (Dempster et al. 1977).

    If the loss is minus a marginal log-likelihood, its gradient is minus the expected counts, so the backward pass is
    the E-step (Eisner 2016). The M-step normalizes each row of the counts. Their scale does not matter, so the loss
    may be a mean, a sum, or accumulated over micro-batches of equal size, and the gradient may be clipped by norm.

    With `lr` 1 and `decay` 0 on batches that are the whole text (one window each, or all windows accumulated) this is
    Baum–Welch, and the likelihood never falls. On random windows it is *stochastic EM* (Cappé and Moulines 2009;
    Liang and Klein 2009, stepwise EM): the counts are a running mean,

        sₜ = (1 − ρₜ) sₜ₋₁ + ρₜ (counts of batch t, scaled to sum to 1),    ρₜ = lr · (t + 1)^(−decay),  t = 1, 2, …,

    which starts from the initial parameters, with all rows used equally often; a step may lower the likelihood. It
    converges for a decay in (0.5, 1].

    Args:
        model: its `loss` is minus the mean marginal log-likelihood, at raw log-probability leaves.
        lr: the factor of ρ, in (0, 1]; schedulers change it.
        decay: the power of ρ, ≥ 0.
        smoothing: weight of the uniform distribution that is mixed into each row after the M-step, so that a
            character missing from a batch does not become impossible. In [0, 1); with 0, EM is exact.

    Raises:
        UserError: if the model's parameters are not log-probabilities.
    """

    def __init__(self, model: nn.Module, *, lr: Fraction, decay: NonNegativeFloat, smoothing: Probability) -> None:
        check_log_probabilities(model)
        super().__init__(model.parameters(), {"lr": lr, "decay": decay, "smoothing": smoothing})

    def update(self, group: dict[str, Any]) -> None:
        """Update the running mean of the expected counts, minus the gradients, and normalize it."""
        for leaf in group["params"]:
            if leaf.grad is not None:
                counts = -leaf.grad.clamp(max=0.0)  # rounding can make a gradient positive
                self._maximize(leaf, counts, group["lr"], group["decay"], group["smoothing"])

    def _maximize(self, leaf: Tensor, counts: Tensor, lr: float, decay: float, smoothing: float) -> None:
        """Set a parameter to the logarithm of the normalized running mean of its expected counts."""
        state = self.state[leaf]
        if not state:
            state["step"] = 0
            state["statistics"] = leaf.exp() / (leaf.numel() // leaf.shape[-1])
        state["step"] += 1
        rate = lr * (state["step"] + 1) ** -decay
        statistics = state["statistics"].lerp_(counts / counts.sum(), rate)
        total = statistics.sum(dim=-1, keepdim=True)
        probabilities = (1 - smoothing) * statistics / total + smoothing / leaf.shape[-1]
        leaf.copy_(torch.where(total > 0, probabilities.log(), leaf))  # a row that was never used is kept
