"""The metric behind every figure, nats per character, and the result of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

from charlab.data.tokenizers import Vocabulary
from charlab.models.contract import LanguageModel

Setting = int | float | str | None


class NegativeLogLikelihood(Metric):
    """Mean nats per character over all updates.

    Nats (float64) and characters (int64) are summed and divided once, at the end, so that the figure does not depend
    on the sizes and order of batches or the number of processes, as a mean of batch means would. On a device without
    float64 (mps) the two sums stay on the CPU.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    nats: Tensor
    characters: Tensor
    counted: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("characters", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nll: Float[Tensor, " ..."], characters: Int[Tensor, ""] | int | None = None) -> None:
        """Add scored tokens.

        Args:
            nll: of each token, in nats; any shape, any device. Leave out positions that were not scored.
            characters: number of characters in the tokens; None for one in each.
        """
        # Not in place: after a reset under inference mode, which Trainer.validate uses, that would be an error.
        self.nats = self.nats + nll.detach().to(self.nats.device).double().sum()
        number = nll.numel() if characters is None else characters
        self.characters = self.characters + (
            number.to(self.characters.device) if isinstance(number, Tensor) else number
        )

    def compute(self) -> Float[Tensor, ""]:
        """Return nats per character, float64, and keep the number of characters, over all processes, as `counted`."""
        self.counted = self.characters
        return self.nats / self.characters

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        # Follow the model to another device, but not to another precision or a device without float64.
        device = fn(torch.zeros(1, device=self.nats.device)).device
        if device.type == "mps":
            device = torch.device("cpu")
        return super()._apply(lambda tensor: tensor.to(device), exclude_state)


def count_characters(tokens: Int[Tensor, "*shape"], vocabulary: Vocabulary | None) -> Int[Tensor, "*shape"] | None:
    """Return how many characters begin in each token; None if each token is a character."""
    if vocabulary is None or vocabulary.lengths is None:
        return None
    return torch.as_tensor(vocabulary.lengths, device=tokens.device)[tokens.long()]


def likelihood_of(model: LanguageModel, vocabulary: Vocabulary | None) -> Literal["exact", "bound"]:
    """Return whether a model's figures are exact: neither the model nor its tokens make them upper bounds."""
    parts = (model.likelihood, "exact" if vocabulary is None else vocabulary.likelihood)
    return "bound" if "bound" in parts else "exact"


def per_character_nll(per_token: np.ndarray, lengths: Iterable[np.ndarray], characters: int) -> np.ndarray:
    """Return the nll of each character, from that of each token.

    A token's nll is shared equally by the characters that begin in it; where none does, it is added to the character
    that it continues, or to the first.

    Args:
        per_token: (N,) nll of each token.
        lengths: number of characters that begin in each token, in parts of any size.
        characters: sum of all lengths.
    """
    shared = np.zeros(characters)
    read = end = 0  # tokens and characters so far
    for part in lengths:
        nll, begun, continues = per_token[read : read + len(part)], end + np.cumsum(part), part == 0
        shared[end : begun[-1]] += np.repeat(nll / np.maximum(part, 1), part)
        np.add.at(shared, np.maximum(begun[continues] - 1, 0), nll[continues])
        read, end = read + len(part), begun[-1]
    return shared


@dataclass(frozen=True)
class Score:
    """How well a model predicts a text, and how it was measured.

    Attributes:
        protocol: "estimate", "blocks", "sliding" or "online".
        nll: mean negative log-likelihood, in nats per character.
        characters: number of characters scored.
        likelihood: "exact", or "bound" if `nll` is an upper bound, or an estimate of one.
        settings: what else determines the figure: context length, stride, number of batches, learning rate …
        standard_error: of `nll`, over the draws by which a bound is estimated; None for exact models and for a single
            draw. It does not account for the choice of the text.
        per_character: the nll of every character of the text but those of the first token; None for `estimate`, which
            does not cover the text. For bounds only the sum is meaningful.
        per_token: (N−1,) float32, the nll of every token but the first; None for `estimate`.
    """

    protocol: str
    nll: float
    characters: int
    likelihood: Literal["exact", "bound"] = "exact"
    settings: Mapping[str, Setting] = field(default_factory=dict)
    standard_error: float | None = None
    per_character: np.ndarray | None = field(default=None, repr=False, compare=False)
    per_token: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def bpc(self) -> float:
        """Bits per character."""
        return self.nll / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp(nll); infinite where that is too large for a float."""
        try:
            return math.exp(self.nll)
        except OverflowError:
            return math.inf

    @property
    def reason(self) -> str | None:
        """Why the figure is not finite; None if it is."""
        if math.isfinite(self.nll):
            return None
        if math.isnan(self.nll):
            return "The model predicts nan: its training has diverged."
        return (
            "The model finds this text impossible: one of its characters has probability 0. For a model trained by EM, "
            "optimizer.smoothing above 0 prevents that."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all fields but the arrays, ready for JSON: figures that are not finite are None."""
        figures = {
            "nll": self.nll,
            "bpc": self.bpc,
            "perplexity": self.perplexity,
            "standard_error": self.standard_error,
        }
        return {
            "protocol": self.protocol,
            **{name: None if value is None or not math.isfinite(value) else value for name, value in figures.items()},
            "characters": self.characters,
            "likelihood": self.likelihood,
            **self.settings,
            **({} if self.reason is None else {"reason": self.reason}),
        }

    def __str__(self) -> str:
        relation = "≤" if self.likelihood == "bound" else "="
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        settings = "".join(f", {name}={value}" for name, value in self.settings.items() if value is not None)
        return (
            f"nll {relation} {self.nll:.4f}{error}, bpc {relation} {self.bpc:.4f}, "
            f"perplexity {relation} {self.perplexity:.4f} "
            f"({self.protocol}{settings}, {self.characters:,} characters)"
            + ("" if self.reason is None else f". {self.reason}")
        )
