"""The base classes of language models, on which everything else in charlab relies.

A model is a probability distribution over the characters that follow a given one. Training minimizes `loss`,
evaluation reports `nll`, and generation calls `sample`; no other code depends on how a model works.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.decoding import check_not_negative, check_prompt, stream
from charlab.models.side_effects import device_of

State = Any  # whatever a model needs to remember between two calls of `extend`


class LanguageModel(nn.Module, ABC):
    """A distribution over sequences of `vocab_size` characters, given their first one.

    Attributes:
        vocab_size: number of distinct characters; ids are 0 … vocab_size − 1.
        context_length: maximum number of characters a prediction may look at; None if unbounded (recurrent models).
        likelihood: "exact" if `nll` is −log p itself, "bound" if it is an unbiased estimate of an upper bound on it.
    """

    vocab_size: int
    context_length: int | None
    likelihood: Literal["exact", "bound"] = "exact"

    @abstractmethod
    def nll(
        self,
        window: Int[Tensor, "B T+1"],
        *,
        scored_from: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T"]:
        """Return the negative log-likelihood of each character of `window` but the first, in nats.

        `nll(window).sum(1)` is −log p(x₁ … x_T | x₀), or an unbiased estimate of an upper bound on it.

        Args:
            window: (B, T+1) character ids.
            scored_from: the first position to score, in 1 … T. Earlier characters serve as context only; their
                entries are 0.
            generator: source of randomness for models that estimate their bound by sampling.

        Raises:
            ValueError: if T exceeds `context_length`.
        """

    def loss(self, window: Int[Tensor, "B T+1"], *, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the training loss: by default the mean of `nll`, in nats per character."""
        return self.nll(window, generator=generator).mean()

    @abstractmethod
    def sample(
        self,
        prompt: Int[Tensor, "B P"],
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B P+length"]:
        """Return `prompt` followed by `length` characters sampled from the model.

        Args:
            prompt: (B, P) character ids, P ≥ 1.
            temperature: divides the logits; 0 takes the most probable character.
            top_k: sample from the k most probable characters only.
            top_p: sample from the fewest characters whose probabilities sum to at least p (nucleus sampling,
                Holtzman et al. 2020).
            generator: source of randomness, on the prompt's device.
        """

    def check_length(self, length: int) -> None:
        """Raise `UserError` if a sequence of `length` characters does not fit the context."""
        if self.context_length is not None and length > self.context_length:
            raise UserError(
                f"{length} characters do not fit the model's context_length={self.context_length}: give fewer, or "
                "train a model with a longer context."
            )


@runtime_checkable
class CountedModel(Protocol):
    """A language model that is fitted, as a whole or in part, by one pass over the training text."""

    def fit(self, train_ids: Int[Tensor, " N"]) -> None:
        """Count a text of (N,) character ids, discarding earlier counts."""


def checked_ids(text: Int[Tensor, " N"], vocab_size: int) -> Int[Tensor, " N"]:
    """Check the ids of a text, and return them on the CPU.

    Raises:
        UserError: if the text is empty or has an id outside 0 … `vocab_size` − 1.
    """
    ids = text.detach().cpu()
    if len(ids) == 0:
        raise UserError("The text to count n-grams in is empty: give at least one character.")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise UserError(
            f"The text to count n-grams in has the ids {ids.min()} to {ids.max()}, but model.vocab_size is "
            f"{vocab_size}: encode it with the model's own vocabulary."
        )
    return ids


@runtime_checkable
class TokenAware(Protocol):
    """A part of a language model that depends on how its tokens are spelled, for example to find words and lines."""

    def know_tokens(self, pieces: list[bytes]) -> None:
        """Receive the UTF-8 bytes of the V tokens, before `fit`; the model saves what it needs of them."""


class InfillingModel(LanguageModel):
    """A language model that can also fill in characters in the middle of a text, given both sides."""

    @abstractmethod
    def infill(
        self,
        tokens: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Return `tokens` with characters sampled from the model wherever `mask` is true.

        Args:
            tokens: (B, L) character ids; those where `mask` is true are ignored.
            mask: (B, L), true where a character is to be filled in.
            temperature: divides the logits; 0 takes the most probable character.
            top_k: sample from the k most probable characters only.
            top_p: sample from the fewest characters whose probabilities sum to at least p.
            generator: source of randomness, on the device of `tokens`.
        """

    @torch.no_grad()
    def sample(
        self,
        prompt: Int[Tensor, "B P"],
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B P+length"]:
        """Fill in a blank of `length` characters at the end of the prompt."""
        check_prompt(prompt)
        check_not_negative(length)
        tokens = F.pad(prompt, (0, length))
        mask = (torch.arange(tokens.shape[1], device=prompt.device) >= prompt.shape[1]).expand_as(tokens)
        return self.infill(tokens, mask, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)


class AutoregressiveModel(LanguageModel):
    """A language model that gives p(next character | characters so far) in closed form.

    A subclass implements `forward`. If it can continue a sequence without recomputing it (with a cache or a recurrent
    state), it also overrides `init_state` and `extend`, which must agree with `forward`.
    """

    @abstractmethod
    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits of the character after each position, computed from that position and earlier ones only.

        Raises:
            ValueError: if T exceeds `context_length`.
        """

    def predict_next(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """Return the logits of the character that follows `tokens`: the last position of `forward`.

        A subclass may skip work that only the other positions need.

        Raises:
            ValueError: if T exceeds `context_length`.
        """
        return self(tokens)[:, -1]

    def nll(
        self,
        window: Int[Tensor, "B T+1"],
        *,
        scored_from: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T"]:
        targets = window[:, scored_from:].long()  # (B, T+1−scored_from)
        logits = self(window[:, :-1])[:, scored_from - 1 :]  # (B, T+1−scored_from, V)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        # One row per character: on a CPU twice as fast as cross entropy over (B, V, T).
        scored = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
        return F.pad(scored, (scored_from - 1, 0))

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first character.

        By default, a state is the characters read so far, on which `extend` runs `forward` again. States are never
        modified: several continuations of the same state do not affect one another.
        """
        return torch.empty(batch_size, 0, dtype=torch.long, device=device_of(self))

    def extend(self, tokens: Int[Tensor, "B n"], state: State) -> tuple[Float[Tensor, "B n V"], State]:
        """Read n more characters; return the logits after each of them, and the new state.

        The logits equal the last n positions of `forward` on the whole sequence, up to 1e-5 of their scale.

        Raises:
            ValueError: if the sequence would grow longer than `context_length`.
        """
        state = torch.cat([state, tokens], dim=1)
        return self(state)[:, -tokens.shape[1] :], state

    def read_prompt(self, tokens: Int[Tensor, "B n"], state: State) -> tuple[Float[Tensor, "B V"], State]:
        """Read n more characters; return the logits of the next one only, and the new state.

        A subclass may skip work that only the logits of other positions need.

        Raises:
            ValueError: if the sequence would grow longer than `context_length`.
        """
        logits, state = self.extend(tokens, state)
        return logits[:, -1], state

    def advance(self, token: Int[Tensor, " B"], state: State) -> tuple[Float[Tensor, "B V"], State]:
        """Read one character; return the logits of the next one, and the new state."""
        logits, state = self.extend(token[:, None], state)
        return logits[:, -1], state

    @torch.no_grad()
    def sample(
        self,
        prompt: Int[Tensor, "B P"],
        length: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B P+length"]:
        drawn = stream(self, prompt, length, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        return torch.cat([prompt, *(token[:, None] for token in drawn)], dim=1)
