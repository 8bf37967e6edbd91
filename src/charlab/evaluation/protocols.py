"""Evaluation protocols: which characters of a text to score, and with how much context."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.distributed
from jaxtyping import Int
from torch import Tensor

from charlab.data.tokenizers import Vocabulary
from charlab.data.windows import Windows, adjacent_windows, gather_windows, in_batches, sampled_windows
from charlab.errors import UserError
from charlab.evaluation.metric import (
    NegativeLogLikelihood,
    Score,
    Setting,
    count_characters,
    likelihood_of,
    per_character_nll,
)
from charlab.evaluation.scoring import Scored, has_unbounded_context, score_in_one_pass, score_windows
from charlab.models.contract import LanguageModel
from charlab.models.side_effects import device_of, evaluation_mode, untouched_randomness
from charlab.types import PositiveInt

__all__ = ["Blocks", "Estimate", "EvaluationProtocol", "Score", "Sliding", "evaluate"]


PART = 2**18  # tokens whose characters are counted at a time


class Sizes(NamedTuple):
    """The sizes a protocol depends on: the text's length N, the context length T, and windows per batch."""

    num_characters: int
    context_length: int
    batch_size: int


class Share(NamedTuple):
    """One process's share of the work: part `rank` of `world_size`."""

    rank: int
    world_size: int


class EvaluationProtocol(ABC):
    """A way of scoring a text."""

    name: ClassVar[str]
    covers: ClassVar[bool]  # whether every character but the first is scored, exactly once

    @abstractmethod
    def windows(self, sizes: Sizes) -> list[Windows]:
        """Return the windows to score.

        Raises:
            UserError: if the text is too short, or the protocol's settings do not fit the context.
        """

    @abstractmethod
    def settings(self, sizes: Sizes) -> dict[str, Setting]:
        """Return what determines the figure, besides model and text."""

    def score(
        self, model: LanguageModel, ids: Int[Tensor, " N"], sizes: Sizes, share: Share, num_draws: int
    ) -> tuple[Iterator[Scored], Mapping[str, Setting]]:
        """Return an iterator over this process's share of the scores, and the settings.

        By default each window is scored separately, `num_draws` times.
        """
        batches = in_batches(self.windows(sizes), sizes.batch_size)
        numbered = list(enumerate(batches))[share.rank :: share.world_size]
        return score_windows(model, ids, numbered, num_draws), self.settings(sizes)

    def result(
        self,
        model: LanguageModel,
        ids: Int[Tensor, " N"],
        sizes: Sizes,
        nll: float,
        variance: float,
        num_draws: int,
        *,
        vocabulary: Vocabulary | None,
        settings: Mapping[str, Setting] | None = None,
        per_token: np.ndarray | None = None,
    ) -> Score:
        """Return the result of an evaluation.

        Args:
            model: the model that was evaluated.
            ids: (N,) the text.
            sizes: the sizes of the evaluation.
            nll: mean over all characters, in nats.
            variance: of the sum over all characters, if the model estimates a bound.
            num_draws: number of draws by which a bound was estimated.
            vocabulary: what the tokens are; None for characters.
            settings: what `score` returned; the protocol's own by default.
            per_token: nll of each token but the first.

        Raises:
            UserError: if no character begins in the scored tokens, such as the other bytes of a text's only character.
        """
        bound = model.likelihood == "bound"
        if vocabulary is None or vocabulary.lengths is None:
            windows = self.windows(sizes)
            characters = sum(len(starts) * (length - scored_from + 1) for starts, length, scored_from in windows)
            per_character = per_token
        else:
            characters = sum(int(lengths.sum()) for lengths in self._lengths(ids, sizes, vocabulary))
            if not characters:
                raise UserError(
                    f"No character begins in the {vocabulary.unit} that were scored, so there is no figure per "
                    "character: give a longer text."
                )
            if per_token is None:
                per_character = None
            else:
                per_character = per_character_nll(per_token, self._lengths(ids, sizes, vocabulary), characters)
        return Score(
            protocol=self.name,
            nll=nll,
            characters=characters,
            likelihood=likelihood_of(model, vocabulary),
            settings={**(settings or self.settings(sizes)), **({"num_draws": num_draws} if bound else {})},
            standard_error=math.sqrt(variance) / characters if bound and num_draws > 1 else None,
            per_character=per_character,
            per_token=per_token,
        )

    def _lengths(self, ids: Int[Tensor, " N"], sizes: Sizes, vocabulary: Vocabulary) -> Iterator[np.ndarray]:
        """Yield the number of characters in each scored token, part by part, since a text may be larger than memory."""
        if self.covers:
            parts: Iterable[Tensor] = ids[1:].split(PART)
        else:
            batches = in_batches(self.windows(sizes), sizes.batch_size)
            parts = (
                gather_windows(ids, torch.from_numpy(starts).to(ids.device), length)[:, first:]
                for starts, length, first in batches
            )
        for part in parts:
            counts = count_characters(part, vocabulary)
            if counts is not None:
                yield counts.flatten().cpu().numpy()


@dataclass(frozen=True)
class Estimate(EvaluationProtocol):
    """The mean over random windows, which are the same at every evaluation.

    Attributes:
        num_batches: number of random batches.
        batch_size: windows per batch; None for the evaluation's batch size.
        seed: determines the windows.
    """

    num_batches: PositiveInt = 100
    batch_size: PositiveInt | None = None
    seed: int = 305

    name: ClassVar[str] = "estimate"
    covers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive("num_batches", self.num_batches)
        if self.batch_size is not None:
            check_positive("batch_size", self.batch_size)

    def windows(self, sizes: Sizes) -> list[Windows]:
        batch_size = self.batch_size or sizes.batch_size
        text = {"num_characters": sizes.num_characters, "length": sizes.context_length}
        return sampled_windows(self.seed, self.num_batches, batch_size=batch_size, **text)

    def settings(self, sizes: Sizes) -> dict[str, Setting]:
        return {
            "context_length": sizes.context_length,
            "num_batches": self.num_batches,
            "batch_size": self.batch_size or sizes.batch_size,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class Blocks(EvaluationProtocol):
    """Every character but the first, in adjacent blocks of T; the last block may be shorter.

    A character has 1 to T characters of context, (T + 1) / 2 on average.
    """

    name: ClassVar[str] = "blocks"
    covers: ClassVar[bool] = True

    def windows(self, sizes: Sizes) -> list[Windows]:
        check_covered(sizes.num_characters)
        return adjacent_windows(sizes.num_characters, sizes.context_length)

    def settings(self, sizes: Sizes) -> dict[str, Setting]:
        return {"context_length": sizes.context_length}


@dataclass(frozen=True)
class Sliding(EvaluationProtocol):
    """Every character but the first, each with more than T − stride characters of context, or as many as precede it.

    Attributes:
        stride: characters scored per window, in 1 … T; None for T / 2. Models of unbounded context ignore it: they
            read the text in one pass, with all the context there is.
        blocks: the same model's score of the same text by `Blocks`, with the same context length. For exact models,
            the scores of windows that are blocks (half of them if the stride is T / 2) are reused; this changes the
            result by rounding only.
    """

    stride: PositiveInt | None = None
    blocks: Score | None = field(default=None, repr=False, compare=False)

    name: ClassVar[str] = "sliding"
    covers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.stride is not None:
            check_positive("stride", self.stride)

    def windows(self, sizes: Sizes) -> list[Windows]:
        check_covered(sizes.num_characters)
        stride, last = self._stride(sizes), sizes.num_characters - 1
        if stride > sizes.context_length:
            raise UserError(
                f"stride={stride} would skip characters, since a window scores at most {sizes.context_length}: "
                "give a stride of at most that."
            )
        length = min(sizes.context_length, last)
        ends = np.arange(length + stride, last + 1, stride)  # the last position that each window scores
        windows = [
            Windows(np.array([0]), length, scored_from=1),
            Windows(ends - length, length, scored_from=length - stride + 1),
        ]
        rest = (last - length) % stride
        if rest:
            windows.append(Windows(np.array([last - length]), length, scored_from=length - rest + 1))
        return windows

    def settings(self, sizes: Sizes) -> dict[str, Setting]:
        return {"context_length": sizes.context_length, "stride": self._stride(sizes)}

    def score(
        self, model: LanguageModel, ids: Int[Tensor, " N"], sizes: Sizes, share: Share, num_draws: int
    ) -> tuple[Iterator[Scored], Mapping[str, Setting]]:
        if not has_unbounded_context(model):
            if self.blocks is None or model.likelihood == "bound":
                return super().score(model, ids, sizes, share, num_draws)
            return self._score_others(model, ids, sizes, share, self.blocks), self.settings(sizes)
        scores = score_in_one_pass(model, ids, chunk=sizes.batch_size * sizes.context_length)
        # Neither context length nor stride matters.
        return scores if share.rank == 0 else iter(()), dict.fromkeys(self.settings(sizes))

    def _score_others(
        self, model: LanguageModel, ids: Int[Tensor, " N"], sizes: Sizes, share: Share, blocks: Score
    ) -> Iterator[Scored]:
        """Yield the known scores of windows that are blocks, and compute those of all others."""
        if blocks.per_token is None or blocks.settings != Blocks().settings(sizes):
            raise ValueError(f"{blocks} is not a score by blocks of {sizes.context_length} characters")
        known = torch.from_numpy(blocks.per_token).to(ids.device)
        others = []
        for group in self.windows(sizes):
            starts, length, scored_from = group
            is_block = (starts % sizes.context_length == 0) & (length == sizes.context_length)
            others.append(group._replace(starts=starts[~is_block]))
            if share.rank == 0:
                scored = torch.from_numpy(starts[is_block])[:, None] + torch.arange(scored_from, length + 1)
                positions = scored.to(ids.device)
                yield Scored(positions, known[positions - 1], variance=0.0)
        batches = list(enumerate(in_batches(others, sizes.batch_size)))[share.rank :: share.world_size]
        yield from score_windows(model, ids, batches, num_draws=1)

    def _stride(self, sizes: Sizes) -> int:
        return self.stride or max(1, sizes.context_length // 2)


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    ids: Int[Tensor, " N"],
    protocol: EvaluationProtocol,
    *,
    vocabulary: Vocabulary | None = None,
    context_length: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    num_draws: int = 4,
) -> Score:
    """Score a text, without changing the model's mode or any global random state.

    Args:
        model: any language model; computes in the caller's precision (autocast).
        ids: (N,) token ids of any integer type, on any device.
        protocol: how to score the text.
        vocabulary: what the tokens are; None for characters.
        context_length: T; a window has T+1 tokens.
        batch_size: windows per batch; affects memory, and the figure by rounding only.
        rank: this process's rank. Processes share the batches; all of them return the whole score.
        world_size: number of processes; if more than one, they must form a `torch.distributed` group.
        num_draws: number of estimates of a bound, for its mean and standard error. The draws are the same at every
            evaluation with the same batch size. No effect on exact models.

    Raises:
        UserError: if the context is longer than the model's, the text too short, or a size not positive.
    """
    for name, size in {"context_length": context_length, "batch_size": batch_size, "num_draws": num_draws}.items():
        check_positive(name, size)
    if model.context_length is not None and context_length > model.context_length:
        raise UserError(
            f"context_length={context_length} is longer than the model's context of {model.context_length} "
            f"characters: give at most that, or train a model with a longer one."
        )
    device = device_of(model)
    ids = ids.to(device)
    sizes = Sizes(len(ids), context_length, batch_size)
    bound = model.likelihood == "bound"
    share, draws = Share(rank, world_size), num_draws if bound else 1
    batches, settings = protocol.score(model, ids, sizes, share, draws)

    mean = NegativeLogLikelihood(sync_on_compute=world_size > 1).to(device)
    mean.update(torch.empty(0))  # a rank may have no batch
    per_token = torch.zeros(len(ids) - 1 if protocol.covers else 0, dtype=_dtype(), device=device)
    variance = 0.0  # of the sum over all characters
    with evaluation_mode(model), untouched_randomness(device):
        for batch in batches:
            counts = count_characters(ids[batch.positions], vocabulary)
            mean.update(batch.nll, None if counts is None else counts.sum())
            variance += batch.variance
            if protocol.covers:
                per_token[batch.positions - 1] = batch.nll.to(per_token)
    if world_size > 1:
        torch.distributed.all_reduce(per_token)  # each rank has zeros where others scored
        variance = _sum_over_ranks(variance, device)
    kept = per_token.cpu().numpy() if protocol.covers else None
    return protocol.result(
        model,
        ids,
        sizes,
        mean.compute().item(),
        variance,
        num_draws,
        vocabulary=vocabulary,
        settings=settings,
        per_token=kept,
    )


def _dtype() -> torch.dtype:
    """Return float64 if that is torch's default, else float32: half precision would lose digits."""
    default = torch.get_default_dtype()
    return default if default == torch.float64 else torch.float32


def _sum_over_ranks(value: float, device: torch.device) -> float:
    total = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return total.item()


def check_positive(name: str, value: int) -> None:
    """Raise `UserError` unless a size is positive."""
    if value < 1:
        raise UserError(f"{name}={value} is too small: give an integer ≥ 1.")


def check_covered(num_characters: int) -> None:
    """Raise `UserError` unless a text has a second character."""
    if num_characters < 2:
        raise UserError(
            f"A text of {num_characters} character(s) has nothing to predict after the first: give a longer one."
        )
