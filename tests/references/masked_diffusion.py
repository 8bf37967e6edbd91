"""Masked diffusion the slow way: by enumeration of all texts, all orders and all masks."""

from itertools import combinations, pairwise, permutations, product
from math import comb, log

import torch
from torch import Tensor, nn

from charlab.models.masked_diffusion import MaskedDiffusion


def chain_log_probability(transition: Tensor, text: list[int]) -> float:
    """Return log p(x₁ … x_T | x₀) of a Markov chain with probabilities (V, V)."""
    return sum(log(transition[before, after]) for before, after in pairwise(text))


class ExactPosterior(nn.Module):
    """A denoiser that knows: p(xᵢ | given characters) of a Markov chain whose first character is uniform.

    Returns logits (B, S, V+1) of tokens (B, S), where V is a masked character; the last logit means nothing.
    """

    def __init__(self, transition: Tensor, length: int) -> None:
        super().__init__()
        self.vocab_size = len(transition)
        texts = list(product(range(self.vocab_size), repeat=length))
        self.texts = torch.tensor(texts)  # (V^S, S)
        self.probabilities = torch.tensor(
            [chain_log_probability(transition, text) for text in texts], dtype=torch.double
        ).exp()

    def forward(self, tokens: Tensor) -> Tensor:
        assert tokens.shape[1] == self.texts.shape[1]
        tokens, row = tokens.unique(dim=0, return_inverse=True)
        agrees = ((tokens[:, None] == self.texts) | (tokens[:, None] == self.vocab_size)).all(dim=-1)  # (B, V^S)
        posterior = agrees * self.probabilities
        is_character = nn.functional.one_hot(self.texts, self.vocab_size + 1).double()  # (V^S, S, V+1)
        marginal = torch.einsum("bn,nsv->bsv", posterior / posterior.sum(dim=1, keepdim=True), is_character)
        marginal[..., -1] = 1000.0
        return marginal.log()[row]


def neighbors(x: Tensor, kernels: Tensor) -> Tensor:
    """Return each position's sum (B, S, D) of its neighbors times a matrix for each distance, (D, D, width)."""
    reach = kernels.shape[2] // 2
    rows = []
    for position in range(x.shape[1]):
        total = torch.zeros_like(x[:, 0])
        for distance in range(-reach, reach + 1):
            if 0 <= position + distance < x.shape[1]:
                total = total + x[:, position + distance] @ kernels[:, :, distance + reach].T
        rows.append(total)
    return torch.stack(rows, dim=1)


def masked_nll(model: MaskedDiffusion, window: Tensor, masked: set[int], scored_from: int = 1) -> Tensor:
    """Return the estimate (T,) that one window (T+1,) and one set of masked positions give, entry by entry."""
    tokens = window.clone()
    for position in masked:
        tokens[position] = model.mask_id
    logits = model(tokens[None])[0]
    entries = [torch.zeros((), dtype=logits.dtype) for _ in window[1:]]
    for position in masked:
        probabilities = logits[position].exp() / logits[position].exp().sum()
        entries[position - 1] = (len(window) - scored_from) / len(masked) * -probabilities[window[position]].log()
    return torch.stack(entries)


def log_probabilities_by_order(model: MaskedDiffusion, window: Tensor, scored_from: int = 1) -> list[float]:
    """Return, for each order of the scored positions, Σₖ log p(x_σ(k) | what is given, x_σ(1) … x_σ(k−1))."""
    totals = []
    for order in permutations(range(scored_from, len(window))):
        tokens = window.clone()
        tokens[scored_from:] = model.mask_id
        total = 0.0
        for position in order:
            total += model(tokens[None])[0, position].log_softmax(-1)[window[position]].item()
            tokens[position] = window[position]
        totals.append(total)
    return totals


def mask_probabilities(positions: range) -> dict[frozenset[int], float]:
    """Return how probable each set of masked positions is: its size is uniform, then the set is."""
    return {
        frozenset(masked): 1 / len(positions) / comb(len(positions), size)
        for size in range(1, len(positions) + 1)
        for masked in combinations(positions, size)
    }
