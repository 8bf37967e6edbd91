"""Run a model over windows of a text, or over the whole text in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from charlab.data.windows import Windows, gather_windows
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.seeding import derive_seed

SEED_OF_DRAWS = 305  # for the draws that estimate bounds, the same at every evaluation


class Scored(NamedTuple):
    """The scores of one batch.

    Attributes:
        positions: (B, n), the scored characters' positions in the text.
        nll: (B, n), in nats; the mean over the draws.
        variance: of the sum of `nll`, estimated from the draws; 0 for a single draw.
    """

    positions: Int[Tensor, "B n"]
    nll: Float[Tensor, "B n"]
    variance: float


def has_unbounded_context(model: LanguageModel) -> TypeGuard[AutoregressiveModel]:
    """Return whether the model reads a text of any length in one pass."""
    return isinstance(model, AutoregressiveModel) and model.context_length is None


def nll_of_next(logits: Float[Tensor, "B n V"], characters: Int[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Return −log p of the actual characters, in nats; ∞ where all logits are −∞."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    nll = F.cross_entropy(logits.transpose(1, 2), characters.long(), reduction="none")
    return nll.masked_fill(logits.amax(dim=-1).isneginf(), torch.inf)


def score_windows(
    model: LanguageModel, ids: Int[Tensor, " N"], batches: list[tuple[int, Windows]], num_draws: int
) -> Iterator[Scored]:
    """Score numbered batches of windows, each `num_draws` times, with draws seeded by the batch's number."""
    for number, (starts, length, scored_from) in batches:
        first = torch.from_numpy(starts).to(ids.device)
        window = gather_windows(ids, first, length)  # (B, T+1)
        nll, variance = score_window(model, window, number=number, num_draws=num_draws, scored_from=scored_from)
        scored = torch.arange(scored_from, length + 1, device=ids.device)
        yield Scored(first[:, None] + scored, nll, variance)


def score_window(
    model: LanguageModel, window: Int[Tensor, "B T+1"], *, number: int, num_draws: int, scored_from: int = 1
) -> tuple[Float[Tensor, "B n"], float]:
    """Return the nll of a batch of windows, the mean over the draws, and the variance of its sum.

    Args:
        model: any language model.
        window: characters, the first of which is given.
        number: of the batch; the draws depend on it alone.
        num_draws: how often a bound is estimated; 1 for an exact model.
        scored_from: the first position that is scored, in 1 … T.
    """
    generator = torch.Generator(window.device)
    draws = []
    for draw in range(num_draws):
        generator.manual_seed(derive_seed(SEED_OF_DRAWS, f"draw {draw} of batch {number}"))
        draws.append(model.nll(window, scored_from=scored_from, generator=generator)[:, scored_from - 1 :])
    nll = torch.stack(draws)  # (num_draws, B, n)
    # The variance of whole batches, since a model may stratify its draws over the windows of a batch.
    variance = nll.sum((1, 2)).var().item() / num_draws if num_draws > 1 else 0.0
    return nll.mean(0), variance


def score_in_one_pass(model: AutoregressiveModel, ids: Int[Tensor, " N"], chunk: int) -> Iterator[Scored]:
    """Score every character but the first, given all earlier ones, reading `chunk` characters at a time."""
    state = model.init_state(1)
    for start in range(0, len(ids) - 1, chunk):
        end = min(start + chunk, len(ids) - 1)
        logits, state = model.extend(ids[None, start:end].long(), state)  # (1, n, V)
        nll = nll_of_next(logits, ids[None, start + 1 : end + 1])
        yield Scored(torch.arange(start + 1, end + 1, device=ids.device)[None], nll, variance=0.0)
