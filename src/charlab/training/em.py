"""Expectation–maximization as a torch optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from charlab.models.hmm import check_log_probabilities
from charlab.training.optimizers import GradientOptimizer
from charlab.types import Fraction, NonNegativeFloat, Probability


class ExpectationMaximization(GradientOptimizer):
    """EM for models whose parameters are log-probabilities, one distribution per row (Dempster et al. 1977).

    The loss is a negative marginal log-likelihood, so its gradient is the negative expected counts and the backward
    pass is the E-step (Eisner 2016). The M-step normalizes each row of the counts. The scale of the counts does not
    matter: the loss may be a mean, a sum, or accumulated over micro-batches of equal size, and the gradient may be
    clipped by norm.

    With `lr` 1 and `decay` 0, and the whole text in every step (as one window, or as all windows accumulated), this is
    Baum–Welch, and the likelihood never decreases. On random windows it is *stochastic EM* (Cappé and Moulines 2009;
    stepwise EM in Liang and Klein 2009): the counts are a running mean,

        sₜ = (1 − ρₜ) sₜ₋₁ + ρₜ (counts of batch t, scaled to sum to 1),    ρₜ = lr · (t + 1)^(−decay),  t = 1, 2, …,

    initialized from the initial parameters as if all rows were used equally often. A step may then decrease the
    likelihood. It converges for a decay in (0.5, 1].

    Args:
        model: a model whose `loss` is the negative mean marginal log-likelihood and whose parameters are
            log-probabilities.
        lr: factor of ρ, in (0, 1]. Schedulers change it.
        decay: exponent of ρ, ≥ 0.
        smoothing: weight of the uniform distribution that is mixed into each row after the M-step, so that a
            character missing from a batch does not become impossible. In [0, 1); with 0, EM is exact.

    Raises:
        UserError: if the model's parameters are not log-probabilities.
    """

    def __init__(self, model: nn.Module, *, lr: Fraction, decay: NonNegativeFloat, smoothing: Probability) -> None:
        check_log_probabilities(model)
        super().__init__(model.parameters(), {"lr": lr, "decay": decay, "smoothing": smoothing})

    def update(self, group: dict[str, Any]) -> None:
        """Update the running mean of the expected counts (the negative gradients) and normalize it."""
        for leaf in group["params"]:
            if leaf.grad is not None:
                counts = -leaf.grad.clamp(max=0.0)  # rounding can make a gradient positive
                self._maximize(leaf, counts, group["lr"], group["decay"], group["smoothing"])

    def _maximize(self, leaf: Tensor, counts: Tensor, lr: float, decay: float, smoothing: float) -> None:
        """Set a parameter to the log of the normalized running mean of its expected counts."""
        state = self.state[leaf]
        if not state:
            state["step"] = 0
            state["statistics"] = leaf.exp() / (leaf.numel() // leaf.shape[-1])
        state["step"] += 1
        rate = lr * (state["step"] + 1) ** -decay
        statistics = state["statistics"].lerp_(counts / counts.sum(), rate)
        total = statistics.sum(dim=-1, keepdim=True)
        probabilities = (1 - smoothing) * statistics / total + smoothing / leaf.shape[-1]
        leaf.copy_(torch.where(total > 0, probabilities.log(), leaf))  # keep a row that was never used
