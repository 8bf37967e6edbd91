"""A hidden Markov model: a chain of hidden states that each emit one character.

Filtering, smoothing and the most probable path (Rabiner 1989) are computed from likelihoods p(xₜ | zₜ = k) of shape
(T, B, K), time first. Filtering and smoothing work with probabilities, scaled to sum to 1 at each position (Rabiner
1989, section V.A), so that each position costs one matrix product.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel
from charlab.models.precision import full_precision, promoted
from charlab.types import PositiveInt, checked


class HiddenMarkovModel(AutoregressiveModel):
    """p(x) = Σ_z p(z₀) Πₜ p(zₜ | zₜ₋₁) Πₜ p(xₜ | zₜ), with K hidden states (Rabiner 1989).

    The past affects the future only through a distribution over the K states, so the model is recurrent: the scaled
    forward algorithm gives exact likelihoods at K² operations per character, whatever the length.

    It can be fitted in two ways, with different parameters:

    - "logits", for gradients: probabilities are softmaxes of the parameters, and `loss` is the mean `nll`.
    - "log_probabilities", for EM (`charlab.training.em.ExpectationMaximization`): the parameters are logarithms of
      probabilities, and `loss` is the mean of −log p(x₀ … x_T) per character, including the first, with their
      exponentials in place of probabilities, not normalized. Its gradient is minus the expected counts per character of
      Baum–Welch's E-step (Eisner 2016); a softmax would cancel what the entries of a row have in common.

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
        probabilities = map(_probabilities, (self.initial, self.transition, self.emission))
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
        return _probabilities(self.initial).expand(batch_size, -1)

    def extend(
        self, tokens: Int[Tensor, "B n"], state: Float[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B n V"], Float[Tensor, "B K"]]:
        emission = _probabilities(self.emission)
        predicted = predict_states(state, _probabilities(self.transition), _look_up(tokens, emission))  # (n+1, B, K)
        return predict_characters(predicted[1:], emission).transpose(0, 1), predicted[-1]

    def read_prompt(
        self, tokens: Int[Tensor, "B n"], state: Float[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B K"]]:
        emission = _probabilities(self.emission)
        predicted = predict_states(state, _probabilities(self.transition), _look_up(tokens, emission))  # (n+1, B, K)
        return predict_characters(predicted[-1:], emission)[0], predicted[-1]

    @torch.no_grad()
    def posterior(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T K"]:
        """Return the probabilities of the hidden states at each position, given all characters: p(zₜ | x)."""
        likelihood = _look_up(tokens, _probabilities(self.emission))
        smoothed = smooth_states(self.init_state(tokens.shape[0]), _probabilities(self.transition), likelihood)
        return smoothed.transpose(0, 1)

    @torch.no_grad()
    def viterbi(self, tokens: Int[Tensor, "B T"]) -> tuple[Int[Tensor, "B T"], Float[Tensor, " B"]]:
        """Return the most probable hidden states z, and log p(z, x)."""
        initial, transition, emission = (
            promoted(leaf).log_softmax(dim=-1) for leaf in (self.initial, self.transition, self.emission)
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


def _probabilities(parameter: Float[Tensor, "*A K"]) -> Float[Tensor, "*A K"]:
    """Return the softmax of a parameter, in full precision: rounded probabilities would not add up to one."""
    return promoted(parameter).softmax(dim=-1)


def _look_up(tokens: Int[Tensor, "B T"], emission: Float[Tensor, "K V"]) -> Float[Tensor, "T B K"]:
    """Return each state's entry for each character, time first."""
    return F.embedding(tokens.t().long(), emission.t())


def _log_likelihood(
    tokens: Int[Tensor, "B T"],
    initial: Float[Tensor, " K"],
    transition: Float[Tensor, "K K"],
    emission: Float[Tensor, "K V"],
) -> Float[Tensor, "B T"]:
    """Return log p(xₜ | x₀ … xₜ₋₁) for every character, including the first."""
    likelihood = _look_up(tokens, emission)  # (T, B, K)
    predicted = predict_states(initial.expand(tokens.shape[0], -1), transition, likelihood[:-1])  # (T, B, K)
    return (predicted * likelihood).sum(dim=-1).log().t()


@full_precision
def predict_states(
    initial: Float[Tensor, "B K"], transition: Float[Tensor, "K K"], likelihood: Float[Tensor, "T B K"]
) -> Float[Tensor, "T+1 B K"]:
    """Return the distribution of each hidden state given the characters before it, p(zₜ | x₀ … xₜ₋₁), t = 0 … T.

    The scaled forward algorithm: filter, fₜ ∝ pₜ ⊙ likelihoodₜ, then predict, pₜ₊₁ = fₜ · transition. The probability
    of a character given those before it is Σₖ pₜ(k) likelihoodₜ(k). Differentiable in all three arguments.

    Args:
        initial: (B, K) distribution of the first hidden state.
        transition: (K, K) row = from, column = to; rows sum to 1.
        likelihood: (T, B, K) p(xₜ | zₜ = k).
    """
    return _PredictStates.apply(initial, transition, likelihood)


class _PredictStates(torch.autograd.Function):
    """The forward algorithm, whose gradient is the backward algorithm (Eisner 2016).

    Autograd would add a (K, K) gradient at every position. Here these T small matrix products are one large product,
    which makes training with 1,024 states 1.6 times as fast.
    """

    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, likelihood: Tensor) -> Tensor:
        predicted = likelihood.new_empty(likelihood.shape[0] + 1, *likelihood.shape[1:])
        predicted[0] = initial
        for t in range(likelihood.shape[0]):
            filtered, _ = _filter(predicted[t], likelihood[t])
            torch.mm(filtered, transition, out=predicted[t + 1])
        ctx.save_for_backward(transition, likelihood, predicted)
        return predicted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        transition, likelihood, predicted = ctx.saved_tensors
        filtered, normalizer = _filter(predicted[:-1], likelihood)  # (T, B, K), (T, B, 1)
        grad_predicted = grad_output.clone()  # (T+1, B, K)
        grad_likelihood = torch.empty_like(likelihood)
        for t in reversed(range(likelihood.shape[0])):
            grad_filtered = grad_predicted[t + 1] @ transition.t()  # (B, K)
            # The derivative of a / Σa is (I − a / Σa) / Σa.
            grad_joint = grad_filtered - (grad_filtered * filtered[t]).sum(dim=-1, keepdim=True)
            grad_joint /= normalizer[t]
            grad_likelihood[t] = grad_joint * predicted[t]
            grad_predicted[t] += grad_joint * likelihood[t]
        grad_transition = filtered.flatten(0, 1).t() @ grad_predicted[1:].flatten(0, 1)  # (K, K)
        return grad_predicted[0], grad_transition, grad_likelihood


def _filter(predicted: Tensor, likelihood: Tensor) -> tuple[Tensor, Tensor]:
    """Return p(zₜ | x₀ … xₜ) and p(xₜ | x₀ … xₜ₋₁), from p(zₜ | x₀ … xₜ₋₁) and p(xₜ | zₜ)."""
    joint = predicted * likelihood
    # After a character that no state emits there is no distribution: 0 rather than nan makes its nll infinite.
    normalizer = joint.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(joint.dtype).tiny)
    return joint / normalizer, normalizer


@full_precision
def predict_characters(predicted: Float[Tensor, "T B K"], emission: Float[Tensor, "K V"]) -> Float[Tensor, "T B V"]:
    """Return the log-probabilities of all characters under the hidden states' distribution `predicted`."""
    probabilities = predicted @ emission
    impossible = probabilities == 0  # the gradient of log 0 would turn all others into nan
    return probabilities.masked_fill(impossible, 1.0).log().masked_fill(impossible, -torch.inf)


@torch.no_grad()
@full_precision
def smooth_states(
    initial: Float[Tensor, "B K"], transition: Float[Tensor, "K K"], likelihood: Float[Tensor, "T B K"]
) -> Float[Tensor, "T B K"]:
    """Return the posterior of each hidden state given the whole sequence, p(zₜ | x₀ … x_{T−1}).

    The forward–backward algorithm, Rabiner 1989, equation (27). Arguments as for `predict_states`.
    """
    predicted = predict_states(initial, transition, likelihood[:-1])  # (T, B, K)
    smoothed, normalizer = _filter(predicted, likelihood)  # without later characters so far
    message = torch.ones_like(smoothed[-1])  # p(xₜ₊₁ … | zₜ) / p(xₜ₊₁ … | x₀ … xₜ)
    for t in reversed(range(likelihood.shape[0] - 1)):
        message = (message * likelihood[t + 1] / normalizer[t + 1]) @ transition.t()
        smoothed[t] *= message
    return smoothed


@torch.no_grad()
def most_probable_path(
    log_initial: Float[Tensor, "B K"], log_transition: Float[Tensor, "K K"], log_likelihood: Float[Tensor, "T B K"]
) -> tuple[Int[Tensor, "T B"], Float[Tensor, " B"]]:
    """Return the most probable sequence of hidden states, and its joint log-probability with the characters.

    The Viterbi algorithm, Rabiner 1989, equations (32) to (35). Arguments are the logarithms of those of
    `predict_states`. Time T·B·K², memory T·B·K.
    """
    arriving = log_transition.t().contiguous()  # row = to, column = from
    scores = torch.empty_like(log_likelihood)  # of the best path that ends in each state
    scores[0] = log_initial + log_likelihood[0]
    for t in range(1, len(scores)):
        scores[t] = (scores[t - 1, :, None, :] + arriving).amax(dim=-1) + log_likelihood[t]  # over (B, to, from)
    log_probability, state = scores[-1].max(dim=-1)  # (B,)
    path = [state]
    for t in reversed(range(len(scores) - 1)):
        state = (scores[t] + arriving[state]).argmax(dim=-1)
        path.append(state)
    return torch.stack(path[::-1]), log_probability
