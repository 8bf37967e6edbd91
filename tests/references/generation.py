"""Generation the slow way: probabilities in a loop, and one run of `forward` for each character."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from charlab.models.contract import AutoregressiveModel
from charlab.models.decoding import choose


def choice_probabilities(
    logits: list[float], *, temperature: float, top_k: int | None, top_p: float | None
) -> list[float]:
    """Return the probability with which each character is to be chosen; temperature > 0."""
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    ranking = sorted(range(len(logits)), key=lambda character: (-logits[character], character))
    if top_k is not None:
        ranking = ranking[:top_k]
    if top_p is not None:
        total = sum(weights[character] for character in ranking)
        kept, mass = [], 0.0
        while mass < top_p and len(kept) < len(ranking):
            kept.append(ranking[len(kept)])
            mass += weights[kept[-1]] / total
        ranking = kept
    total = sum(weights[character] for character in ranking)
    return [weights[character] / total if character in ranking else 0.0 for character in range(len(logits))]


@torch.no_grad()
def continue_slowly(
    model: AutoregressiveModel, prompt: Tensor, length: int, *, rebase: bool = False, **choice: object
) -> Tensor:
    """Return (B, length) characters, each drawn after `forward` on the last T characters.

    With `rebase`, the context starts again from its last T // 2 characters whenever it would outgrow T.
    """
    text = prompt
    context = prompt[:, -(model.context_length or prompt.shape[1]) :]
    for _ in range(length):
        token = choose(model(context)[:, -1], **choice)[:, None]
        text, context = torch.cat([text, token], dim=1), torch.cat([context, token], dim=1)
        if model.context_length is not None and context.shape[1] > model.context_length:
            context = context[:, -max(1, model.context_length // 2) if rebase else -model.context_length :]
    return text[:, prompt.shape[1] :]
