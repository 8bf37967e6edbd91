"""Online evaluation: a model scores each block of a text first, then learns from it.

With gradients this is dynamic evaluation (Mikolov et al. 2010; Krause et al., "Dynamic Evaluation of Neural Sequence
Models", arXiv 1709.07432; for transformers, arXiv 1904.08378). The figure is the likelihood of a model whose weights
are a function of what it has read: a compressor can reach it if its decoder learns as it decodes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from charlab.data.windows import Windows
from charlab.errors import UserError
from charlab.evaluation.metric import Setting
from charlab.evaluation.protocols import EvaluationProtocol, Share, Sizes, check_covered, check_positive
from charlab.evaluation.scoring import Scored, has_unbounded_context, nll_of_next
from charlab.models.contract import LanguageModel
from charlab.models.mixture import Mixture
from charlab.types import PositiveFloat, PositiveInt


@runtime_checkable
class LearnsByCounting(Protocol):
    """A model that counts as it reads, without gradients."""

    def nll_while_counting(self, text: Int[Tensor, " N"]) -> Float[Tensor, " N-1"]:
        """Return the nll of each character of a text but the first, on any device, counting each once it is scored."""


@dataclass(frozen=True)
class Online(EvaluationProtocol):
    """Every character but the first, in blocks; the model learns from each block after scoring it.

    A copy of the model learns. A counting model updates its counts after every character. Any other model minimizes
    the mean nll of the block's characters, with earlier ones as context, by Adam without momentum, so that the latest
    block counts at once; Adam's running mean of squared gradients replaces the statistics of the training text by
    which Krause et al. scale their updates. Dropout is off.

    The last character of a block has T characters of context, the first of a block of n has T − n + 1, or as many as
    precede it. Models of unbounded context keep their state from block to block; gradients stay within the block.

    The members of a mixture learn separately, by counts or by gradients; the weights are fixed.

    A block with an impossible character costs ∞, and the model does not learn from it.

    The figure measures model and learning together, so do not compare it with those of other protocols.

    Attributes:
        block_length: characters in a block, in 1 … T; None for T / 4. Counting models ignore it.
        learning_rate: of Adam.
        steps_per_block: gradient steps on each block.
    """

    block_length: PositiveInt | None = None
    learning_rate: PositiveFloat = 2e-4
    steps_per_block: PositiveInt = 1

    name: ClassVar[str] = "online"
    covers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.block_length is not None:
            check_positive("block_length", self.block_length)
        check_positive("steps_per_block", self.steps_per_block)
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate={self.learning_rate} must be > 0.")

    def windows(self, sizes: Sizes) -> list[Windows]:
        """Return the blocks in order, each a window with a single start."""
        check_covered(sizes.num_characters)
        length, last = self._block_length(sizes), sizes.num_characters - 1
        if length > sizes.context_length:
            raise UserError(
                f"block_length={length} is more than the {sizes.context_length} characters that a window scores: "
                "give at most that."
            )
        blocks = []
        for first in range(1, last + 1, length):
            end = min(first + length - 1, last)
            start = max(0, end - sizes.context_length)
            blocks.append(Windows(np.array([start]), end - start, scored_from=first - start))
        return blocks

    def settings(self, sizes: Sizes) -> dict[str, Setting]:
        return {
            "context_length": sizes.context_length,
            "block_length": self._block_length(sizes),
            "optimizer": "Adam without momentum",
            "learning_rate": self.learning_rate,
            "steps_per_block": self.steps_per_block,
        }

    def score(
        self, model: LanguageModel, ids: Int[Tensor, " N"], sizes: Sizes, share: Share, num_draws: int
    ) -> tuple[Iterator[Scored], Mapping[str, Setting]]:
        scores, settings = self._score_alone(model, ids, sizes)
        # Blocks depend on one another, so one process scores them all.
        return scores if share.rank == 0 else iter(()), settings

    def _score_alone(
        self, model: LanguageModel, ids: Int[Tensor, " N"], sizes: Sizes
    ) -> tuple[Iterator[Scored], dict[str, Setting]]:
        name, blocks, settings = type(model).__name__, self.windows(sizes), self.settings(sizes)
        if model.likelihood == "bound":
            raise UserError(
                f"protocol=online needs exact likelihoods, which {name} does not have: use protocol=blocks."
            )
        if isinstance(model, Mixture):
            members = [self._score_alone(member, ids, sizes) for member in model.members.values()]
            scores = _mix(model, [member_scores for member_scores, _ in members], len(ids))
            # The settings of the first member that learns by gradients: counting ones have fewer.
            return scores, max((member_settings for _, member_settings in members), key=_has_learning_rate)
        if isinstance(model, LearnsByCounting):
            return _score_and_count(model, ids), dict.fromkeys(settings) | {"block_length": 1}
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UserError(
                f"protocol=online has nothing to teach {name}, which has no parameters: use another protocol."
            )
        if has_unbounded_context(model):
            settings["context_length"] = None
        return self._score_and_learn(model, ids, blocks), settings

    def _block_length(self, sizes: Sizes) -> int:
        return self.block_length or max(1, sizes.context_length // 4)

    def _score_and_learn(self, model: LanguageModel, ids: Int[Tensor, " N"], blocks: list[Windows]) -> Iterator[Scored]:
        untaught, model = model, _learning_copy(model)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.0, 0.999))
        state = model.init_state(1) if has_unbounded_context(model) else None
        excluded = False  # whether the text has a character that the model excludes
        for (start,), length, scored_from in blocks:
            window = ids[None, start : start + length + 1].long()
            for step in range(self.steps_per_block):
                with torch.enable_grad():
                    if has_unbounded_context(model):
                        logits, _ = model.extend(window[:, scored_from - 1 : -1], state)  # (1, n, V)
                        nll = nll_of_next(logits, window[:, scored_from:])  # (1, n)
                    else:
                        nll = model.nll(window, scored_from=scored_from)[:, scored_from - 1 :]  # (1, n)
                    loss = nll.mean()
                is_impossible = step == 0 and bool(nll.isposinf().any()) and not nll.isnan().any()
                if is_impossible and not excluded:  # is it the model, or what it has learned?
                    excluded = is_impossible = _excludes(untaught, window, scored_from)
                if not torch.isfinite(loss) and not is_impossible:
                    raise UserError(
                        f"The nll of characters {start + scored_from} to {start + length} is {loss.item()}: "
                        f"lower learning_rate={self.learning_rate:g}, or use another protocol."
                    )
                if step == 0:
                    positions = torch.arange(start + scored_from, start + length + 1, device=ids.device)
                    yield Scored(positions[None], nll.detach(), variance=0.0)
                if is_impossible:  # it has no gradient
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if has_unbounded_context(model):  # again, with the new weights
                _, state = model.extend(window[:, scored_from - 1 : -1], state)


@torch.no_grad()
def _excludes(model: LanguageModel, window: Int[Tensor, "B T+1"], scored_from: int) -> bool:
    """Return whether the model gives a character of the window probability 0."""
    return bool(model.nll(window, scored_from=scored_from).isposinf().any())


def _has_learning_rate(settings: Mapping[str, Setting]) -> bool:
    return settings["learning_rate"] is not None


def _learning_copy(model: LanguageModel) -> LanguageModel:
    """Return a copy of a model in evaluation mode that can be trained, still without dropout."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if isinstance(part, nn.RNNBase):  # cuDNN has gradients in training mode only
            part.train()
            part.dropout = 0.0
    return model


def _score_and_count(model: LearnsByCounting, ids: Int[Tensor, " N"]) -> Iterator[Scored]:
    positions = torch.arange(1, len(ids), device=ids.device)
    yield Scored(positions[None], model.nll_while_counting(ids)[None], variance=0.0)


def _mix(mixture: Mixture, members: list[Iterator[Scored]], num_characters: int) -> Iterator[Scored]:
    """Mix the probabilities of members that learn separately."""
    device = mixture.weights.device
    nll = torch.empty(len(members), num_characters - 1, dtype=torch.float64)  # on the CPU, as mps has no float64
    for row, scores in zip(nll, members, strict=True):
        for positions, scored, _ in scores:
            row[positions.cpu() - 1] = scored.cpu().double()
    mixed = torch.logsumexp(mixture.weights.cpu().double().log()[:, None] - nll, dim=0)
    yield Scored(torch.arange(1, num_characters, device=device)[None], -mixed[None], variance=0.0)
