"""Running a model over windows of a text, or over the whole text at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from charlab.data.windows import gather_windows
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.seeding import derive_seed

SEED_OF_DRAWS = 305  # for the draws that estimate bounds, the same at every evaluation


class Windows(NamedTuple):
    """Windows of equal shape.

    Attributes:
        starts: (n,) int64, the position of each window's first character in the text.
        length: T for windows of T+1 characters.
        scored_from: the first position to score in each window, in 1 … T; earlier ones are context.
    """

    starts: np.ndarray
    length: int
    scored_from: int


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


def reads_on(model: LanguageModel) -> TypeGuard[AutoregressiveModel]:
    """Return whether the model reads a text of any length in one pass."""
    return isinstance(model, AutoregressiveModel) and model.context_length is None


def nll_of_next(logits: Float[Tensor, "B n V"], characters: Int[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Return −log p of the actual characters, in nats; ∞ where all logits are −∞."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    nll = F.cross_entropy(logits.transpose(1, 2), characters.long(), reduction="none")
    return nll.masked_fill(logits.amax(dim=-1).isneginf(), torch.inf)


def in_batches(windows: list[Windows], batch_size: int) -> list[tuple[int, Windows]]:
    """Return the windows in numbered batches of at most `batch_size`."""
    batches = [
        group._replace(starts=group.starts[first : first + batch_size])
        for group in windows
        for first in range(0, len(group.starts), batch_size)
    ]
    return list(enumerate(batches))


def score_windows(
    model: LanguageModel, ids: Int[Tensor, " N"], batches: list[tuple[int, Windows]], num_draws: int
) -> Iterator[Scored]:
    """Score numbered batches of windows, each `num_draws` times, with draws seeded by the batch's number."""
    generator = torch.Generator(ids.device)
    for number, (starts, length, scored_from) in batches:
        first = torch.from_numpy(starts).to(ids.device)
        window = gather_windows(ids, first, length)  # (B, T+1)
        draws = []
        for draw in range(num_draws):
            generator.manual_seed(derive_seed(SEED_OF_DRAWS, f"draw {draw} of batch {number}"))
            draws.append(model.nll(window, scored_from=scored_from, generator=generator)[:, scored_from - 1 :])
        scored = torch.arange(scored_from, length + 1, device=ids.device)
        nll = torch.stack(draws)  # (num_draws, B, n)
        # The variance of whole batches, since a model may stratify its draws over a batch's windows.
        variance = nll.sum((1, 2)).var().item() / num_draws if num_draws > 1 else 0.0
        yield Scored(first[:, None] + scored, nll.mean(0), variance)


def score_in_one_pass(model: AutoregressiveModel, ids: Int[Tensor, " N"], chunk: int) -> Iterator[Scored]:
    """Score every character but the first, given all earlier ones, reading `chunk` characters at a time."""
    state = model.init_state(1)
    for start in range(0, len(ids) - 1, chunk):
        end = min(start + chunk, len(ids) - 1)
        logits, state = model.extend(ids[None, start:end].long(), state)  # (1, n, V)
        nll = nll_of_next(logits, ids[None, start + 1 : end + 1])
        yield Scored(torch.arange(start + 1, end + 1, device=ids.device)[None], nll, variance=0.0)
