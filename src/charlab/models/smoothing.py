"""Smoothing of n-gram counts: how much probability to reserve for unseen n-grams.

Both methods interpolate: with c a context and c⁻ the same context without its oldest character,

    p(w | c) = mass(cw) + backoff(c) · p(w | c⁻),

where `backoff(c)` is 1 minus the masses of the characters seen after c. Below the empty context, the recursion ends
at the uniform distribution. A smoothing is a function from the `Counts` of one length to the masses of its n-grams and
the backoffs of their contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Counts(NamedTuple):
    """The training text's n-grams of one length: M different ones, in C different contexts.

    Attributes:
        occurrences: (M,) how often each occurs.
        predecessors: (M,) how many different characters come right before each; None for the longest n-grams.
        context: (M,) each one's context, all its characters but the last, as an index in 0 … C − 1.
        num_contexts: the number C; a context at the end of the text may have no n-gram.
    """

    occurrences: Int[Tensor, " M"]
    predecessors: Int[Tensor, " M"] | None
    context: Int[Tensor, " M"]
    num_contexts: int

    def per_context(self, values: Tensor) -> Float[Tensor, " C"]:
        """Return the sums of `values` (M,) over each context's n-grams, in float64."""
        sums = torch.zeros(self.num_contexts, dtype=torch.float64)
        return sums.index_add_(0, self.context, values.double())


def witten_bell(counts: Counts) -> tuple[Float[Tensor, " M"], Float[Tensor, " C"]]:
    """Back off in proportion to the number of different characters seen after a context.

    Witten and Bell 1991, method C; interpolated as in Chen and Goodman 1998, equations (15) to (17):
    p(w | c) = (count(cw) + N₁₊(c•) p(w | c⁻)) / (count(c) + N₁₊(c•)).

    Returns:
        The masses of the n-grams (M,) and the backoffs of the contexts (C,), in float64.
    """
    followers = counts.per_context(torch.ones_like(counts.occurrences))  # N₁₊(c•)
    total = followers + counts.per_context(counts.occurrences)
    mass = counts.occurrences / total[counts.context]
    return mass, torch.where(total > 0, followers / total.clamp(min=1), 1.0)


def kneser_ney(counts: Counts) -> tuple[Float[Tensor, " M"], Float[Tensor, " C"]]:
    """Subtract a discount from each count: of occurrences for the longest n-grams, of predecessors for shorter ones.

    Interpolated modified Kneser–Ney smoothing, Chen and Goodman 1998, section 4.1.6, equations (25) to (27), with one
    discount each for counts of 1, of 2, and of 3 or more. So a character that is frequent after only one context gets
    little probability after others (Kneser and Ney 1995).

    Returns:
        The masses of the n-grams (M,) and the backoffs of the contexts (C,), in float64.
    """
    # The n-gram at the beginning of the text may have no predecessor: then it counts as unseen.
    count = counts.occurrences if counts.predecessors is None else counts.predecessors
    frequencies = torch.bincount(count.clamp(max=5), minlength=6).tolist()
    discount = torch.tensor(discounts(frequencies), dtype=torch.float64)[count.clamp(max=3)]  # (M,)
    total = counts.per_context(count)
    mass = (count - discount) / total[counts.context].clamp(min=1)
    return mass, torch.where(total > 0, counts.per_context(discount) / total.clamp(min=1), 1.0)


def discounts(frequencies: Sequence[int]) -> list[float]:
    """Return the discounts of counts 0, 1, 2 and ≥ 3: the estimates of Chen and Goodman 1998, equation (26).

    With n_r the number of n-grams that occur r times and Y = n₁ / (n₁ + 2n₂), D_r = r − (r + 1) Y n_{r+1} / n_r.
    If there are too few n-grams for estimates in (0, r], the discounts are ½, 1 and 1½, as in KenLM (Heafield et al.
    2013, `--discount_fallback`).

    Args:
        frequencies: n₀ … n₄; n₀ and any further entries are ignored.
    """
    n = frequencies
    if min(n[1:4]) > 0:
        y = n[1] / (n[1] + 2 * n[2])
        estimates = [r - (r + 1) * y * n[r + 1] / n[r] for r in (1, 2, 3)]
        if all(0 < estimate <= r for r, estimate in enumerate(estimates, start=1)):
            return [0.0, *estimates]
    return [0.0, 0.5, 1.0, 1.5]
