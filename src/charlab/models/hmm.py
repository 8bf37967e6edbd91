"""A hidden Markov model: a chain of hidden states that each emit one character."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel
from charlab.models.hmm_inference import most_probable_path, predict_characters, predict_states, smooth_states
from charlab.types import PositiveInt, checked


class HiddenMarkovModel(AutoregressiveModel):
    """p(x) = Σ_z p(z₀) Πₜ p(zₜ | zₜ₋₁) Πₜ p(xₜ | zₜ), with K hidden states (Rabiner 1989).

    The past affects the future only through a distribution over the K states, so the model is recurrent: the scaled
    forward algorithm gives exact likelihoods at K² operations per character, whatever the length.

    There are two ways of fitting it, with different parameters:

    - "logits", for gradients: probabilities are softmaxes of the parameters, and `loss` is the mean `nll`.
    - "log_probabilities", for EM (`charlab.training.em.ExpectationMaximization`): the parameters are logarithms of
      probabilities, and `loss` is the mean of −log p(x₀ … x_T) per character, the first included, of their
      exponentials without normalizing. Its gradient is minus the expected counts of Baum–Welch's E-step (Eisner
      2016); a softmax would cancel what the entries of a row have in common.

    `nll` and `forward` normalize in both cases. Both ways start from softmaxes of N(0, 1).

    Args:
        vocab_size: number of distinct characters V; the model has K + K² + K·V parameters.
        num_states: number of hidden states K.
        parameterization: "logits" or "log_probabilities".
    """

    context_length = None

    @checked
    def __init__(
        self,
        vocab_size: int,
        *,
        num_states: PositiveInt,
        parameterization: Literal["logits", "log_probabilities"],
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.parameterization = parameterization
        # One distribution per row, in all three.
        self.initial = nn.Parameter(torch.randn(num_states))
        self.transition = nn.Parameter(torch.randn(num_states, num_states))
        self.emission = nn.Parameter(torch.randn(num_states, vocab_size))
        if parameterization == "log_probabilities":
            for leaf in self.parameters():
                leaf.data = leaf.data.log_softmax(dim=-1)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return log-probabilities."""
        return self.extend(tokens, self.init_state(tokens.shape[0]))[0]

    def nll(
        self,
        window: Int[Tensor, "B T+1"],
        *,
        scored_from: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T"]:
        # The forward algorithm's own normalizers: no distribution over V is needed.
        probabilities = (leaf.softmax(dim=-1) for leaf in (self.initial, self.transition, self.emission))
        log_likelihood = _log_likelihood(window, *probabilities)  # (B, T+1)
        return F.pad(-log_likelihood[:, scored_from:], (scored_from - 1, 0))

    def loss(self, window: Int[Tensor, "B T+1"], *, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the mean of `nll`, or for EM the mean of −log p(x₀ … x_T), in nats per character.

        Raises:
            UserError: if the parameters should be log-probabilities, but an optimizer other than EM has moved them.
        """
        if self.parameterization == "logits":
            return super().loss(window, generator=generator)
        check_log_probabilities(self)
        return -_log_likelihood(window, self.initial.exp(), self.transition.exp(), self.emission.exp()).mean()

    def init_state(self, batch_size: int) -> Float[Tensor, "B K"]:
        """Return the distribution of the hidden state that emits the next character."""
        return self.initial.softmax(dim=-1).expand(batch_size, -1)

    def extend(
        self, tokens: Int[Tensor, "B n"], state: Float[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B n V"], Float[Tensor, "B K"]]:
        emission = self.emission.softmax(dim=-1)
        predicted = predict_states(state, self.transition.softmax(dim=-1), _look_up(tokens, emission))  # (n+1, B, K)
        return predict_characters(predicted[1:], emission).transpose(0, 1), predicted[-1]

    def read_prompt(
        self, tokens: Int[Tensor, "B n"], state: Float[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B K"]]:
        emission = self.emission.softmax(dim=-1)
        predicted = predict_states(state, self.transition.softmax(dim=-1), _look_up(tokens, emission))  # (n+1, B, K)
        return predict_characters(predicted[-1:], emission)[0], predicted[-1]

    @torch.no_grad()
    def posterior(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T K"]:
        """Return the probabilities of the hidden states at each position, given all characters: p(zₜ | x)."""
        likelihood = _look_up(tokens, self.emission.softmax(dim=-1))
        smoothed = smooth_states(self.init_state(tokens.shape[0]), self.transition.softmax(dim=-1), likelihood)
        return smoothed.transpose(0, 1)

    @torch.no_grad()
    def viterbi(self, tokens: Int[Tensor, "B T"]) -> tuple[Int[Tensor, "B T"], Float[Tensor, "B"]]:
        """Return the most probable hidden states z, and log p(z, x)."""
        initial, transition, emission = (
            leaf.log_softmax(dim=-1) for leaf in (self.initial, self.transition, self.emission)
        )
        path, log_probability = most_probable_path(
            initial.expand(tokens.shape[0], -1), transition, _look_up(tokens, emission)
        )
        return path.t(), log_probability


def check_log_probabilities(model: nn.Module) -> None:
    """Raise `UserError` unless every row of every parameter of `model` holds log-probabilities."""
    for name, leaf in model.named_parameters():
        if leaf.detach().logsumexp(dim=-1).abs().max() > 1e-4:
            raise UserError(
                f"The rows of {name} are not log-probabilities: optimizer=em needs "
                "model.parameterization=log_probabilities, and such a model needs optimizer=em."
            )


def _look_up(tokens: Int[Tensor, "B T"], emission: Float[Tensor, "K V"]) -> Float[Tensor, "T B K"]:
    """Return each state's entry for each character, time first."""
    return F.embedding(tokens.t().long(), emission.t())


def _log_likelihood(
    tokens: Int[Tensor, "B T"],
    initial: Float[Tensor, "K"],
    transition: Float[Tensor, "K K"],
    emission: Float[Tensor, "K V"],
) -> Float[Tensor, "B T"]:
    """Return log p(xₜ | x₀ … xₜ₋₁) for every character, the first included."""
    likelihood = _look_up(tokens, emission)  # (T, B, K)
    predicted = predict_states(initial.expand(tokens.shape[0], -1), transition, likelihood[:-1])  # (T, B, K)
    return (predicted * likelihood).sum(dim=-1).log().t()
