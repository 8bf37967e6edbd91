"""Mixtures: averages of several models' probabilities, with weights fitted to held-out text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from charlab.errors import UserError
from charlab.models.contract import AutoregressiveModel, CountedModel, LanguageModel
from charlab.models.precision import full_precision
from charlab.types import PositiveFloat

Part = Callable[..., LanguageModel]


class Mixture(AutoregressiveModel):
    """p(xₜ | x₀ … xₜ₋₁) = Σₖ wₖ pₖ(xₜ | x₀ … xₜ₋₁), linear interpolation (Jelinek and Mercer 1980).

    Probabilities are mixed, not logits. So no character costs more than −log wₖ nats above its cost under member k,
    and a member of weight 1 is the mixture.

    Members that count are fitted by `fit`, members with parameters by `loss`, each as if it were alone, and the
    weights, equal at first, by `fit_weights`. The weights need held-out text: on the members' own training text they
    would favor the one that has memorized it.

    Args:
        vocab_size: number of distinct characters.
        members: the constructor of each member by name, called with the vocabulary's size.
        weights: one number per member, proportional to its weight; None to start with equal weights and fit them.

    Attributes:
        context_length: the smallest of the members'; None if all are unbounded.
        frozen: whether the members keep their parameters.
        weights_are_given: whether the weights were given, so that they are not fitted.

    Raises:
        UserError: if there are no members, one is not autoregressive, or weights and members differ in number.
    """

    weights: Tensor  # (M,), none negative, summing to 1

    def __init__(self, vocab_size: int, members: Mapping[str, Part], weights: list[PositiveFloat] | None) -> None:
        super().__init__()
        if not members:
            raise UserError("The mixture has no members: give at least one.")
        for name, part in members.items():
            if not callable(part):
                raise UserError(
                    f"The mixture's member {name} is {part!r}: give a model's configuration with _partial_: true, or "
                    "name finished runs in model.runs of model=ensemble."
                )
        built = {name: part(vocab_size) for name, part in members.items()}
        for name, member in built.items():
            if not isinstance(member, AutoregressiveModel):
                raise UserError(
                    f"A mixture averages the probabilities of the next character, which its member {name}, a "
                    f"{type(member).__name__}, does not have: choose an autoregressive model."
                )
        if weights is not None and len(weights) != len(built):
            raise UserError(
                f"model.weights={weights} has {len(weights)} numbers for {len(built)} members: give one for each."
            )
        self.vocab_size = vocab_size
        self.members = cast("Mapping[str, AutoregressiveModel]", nn.ModuleDict(built))
        lengths = [member.context_length for member in built.values() if member.context_length is not None]
        self.context_length = min(lengths, default=None)
        self.frozen = False
        self.weights_are_given = weights is not None
        proportions = torch.tensor(weights or [1.0] * len(built), dtype=torch.float64)
        self.register_buffer("weights", (proportions / proportions.sum()).to(torch.get_default_dtype()))

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return log-probabilities."""
        self.check_length(tokens.shape[1])
        return self._mix([_normalize(member(tokens)) for member in self.members.values()])

    def nll(
        self,
        window: Int[Tensor, "B T+1"],
        *,
        scored_from: int = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T"]:
        # By the members' own `nll`, for which counts and HMMs need no distribution over V.
        self.check_length(window.shape[1] - 1)
        members = [member.nll(window, scored_from=scored_from) for member in self.members.values()]
        mixed = -self._mix([-nll[:, scored_from - 1 :] for nll in members])  # (B, T+1−scored_from)
        return F.pad(mixed, (scored_from - 1, 0))

    def loss(self, window: Int[Tensor, "B T+1"], *, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """Return the mean loss of the members trained by gradients, in nats per character.

        The mixture's own likelihood would teach them little, since counts memorize the training text. With an
        optimizer like Adam, which ignores the scale of gradients, each member learns as it would alone.
        """
        losses = [
            member.loss(window, generator=generator)
            for member in self.members.values()
            if any(parameter.requires_grad for parameter in member.parameters())
        ]
        return torch.stack(losses).mean() if losses else super().loss(window, generator=generator)

    def fit(self, train_ids: Int[Tensor, " N"]) -> None:
        """Fit the members that count, discarding their earlier counts."""
        for member in self.members.values():
            if isinstance(member, CountedModel):
                member.fit(train_ids)

    def freeze(self) -> None:
        """Exclude the members from training."""
        self.requires_grad_(False)
        self.frozen = True

    def fit_weights(self, nll: Float[Tensor, "M N"]) -> None:
        """Set the weights that maximize the likelihood of a text, see `most_likely_weights`.

        Args:
            nll: each member's nll of each character of a text that no member was trained on.
        """
        self.weights.copy_(most_likely_weights(nll))

    def init_state(self, batch_size: int) -> list[Any]:
        """Return the members' states."""
        return [member.init_state(batch_size) for member in self.members.values()]

    def extend(self, tokens: Int[Tensor, "B n"], state: list[Any]) -> tuple[Float[Tensor, "B n V"], list[Any]]:
        read = [member.extend(tokens, own) for member, own in zip(self.members.values(), state, strict=True)]
        return self._mix([_normalize(logits) for logits, _ in read]), [own for _, own in read]

    def read_prompt(self, tokens: Int[Tensor, "B n"], state: list[Any]) -> tuple[Float[Tensor, "B V"], list[Any]]:
        read = [member.read_prompt(tokens, own) for member, own in zip(self.members.values(), state, strict=True)]
        return self._mix([_normalize(logits) for logits, _ in read]), [own for _, own in read]

    def _mix(self, log_probabilities: Sequence[Float[Tensor, "*shape"]]) -> Float[Tensor, "*shape"]:
        return _log_sum_exp(*(p + w for p, w in zip(log_probabilities, self.weights.log(), strict=True)))


class Ensemble(Mixture):
    """Several models of any kind, finished or trained together.

    Args:
        vocab_size: number of distinct characters.
        members: the members' constructors.
        runs: folders of finished runs to use instead of `members`. `charlab.runs.setup` reads them and builds the
            ensemble with an empty list.
        weights: see `Mixture`.

    Raises:
        UserError: if `runs` is not empty; and as for `Mixture`.
    """

    def __init__(
        self, vocab_size: int, *, members: list[Part], runs: list[str], weights: list[PositiveFloat] | None
    ) -> None:
        if runs:
            raise UserError(
                "An ensemble within another model cannot name runs: name all runs in the one list of model=ensemble."
            )
        super().__init__(vocab_size, {str(number): member for number, member in enumerate(members, start=1)}, weights)


class NeuralNGram(Mixture):
    """A neural network, which generalizes, mixed with n-gram counts, which memorize.

    Args:
        vocab_size: number of distinct characters.
        neural: builds the member trained by gradients.
        ngram: builds the member that counts.
        weights: see `Mixture`.
    """

    def __init__(self, vocab_size: int, *, neural: Part, ngram: Part, weights: list[PositiveFloat] | None) -> None:
        super().__init__(vocab_size, {"neural": neural, "ngram": ngram}, weights)


@torch.no_grad()
def most_likely_weights(
    nll: Float[Tensor, "M N"], *, tolerance: float = 1e-6, max_iterations: int = 1000
) -> Float[Tensor, " M"]:
    """Return the weights w that maximize the mean of log Σₖ wₖ pₖ over N characters, by EM.

    From equal weights, each iteration sets wₖ to the mean posterior probability that member k drew a character,

        wₖ ← wₖ gₖ,    gₖ = mean over characters of pₖ / Σⱼ wⱼ pⱼ,

    which never lowers the likelihood (Jelinek and Mercer 1980; Dempster et al. 1977). The likelihood is concave in the
    weights, so this finds its maximum, which is at most log maxₖ gₖ nats per character away (Cover 1984, "An algorithm
    for maximizing expected log investment return"): the stopping rule. The mixture ends no worse than its best member,
    up to the tolerance; if `max_iterations` is too small for that, the best member alone is returned.

    If members are nearly alike, these updates are tiny. So they are lengthened to wₖ gₖ^η with η = 1, 2, 4, … as long
    as the likelihood rises, and η returns to 1 where it would fall (Salakhutdinov and Roweis 2003, "Adaptive
    overrelaxed bound optimization methods").

    Args:
        nll: of each character under each member, in nats. Characters that are impossible under all members, or nan
            under one, are left out.
        tolerance: nats per character below the maximum.
        max_iterations: largest number of iterations.
    """
    least = nll.double().amin(dim=0)
    told = least.isfinite()
    # Only ratios of probabilities matter: scaled so that the largest is 1, they do not all underflow.
    p = (least - nll)[:, told].exp()  # (M, n)
    weights = p.new_full((len(nll),), 1 / len(nll))
    mixed, rate = weights @ p, 1.0  # (n,)
    for _ in range(max_iterations if told.any() else 0):
        gain = (p @ mixed.reciprocal()) / len(mixed)  # (M,)
        if gain.max().log() <= tolerance:
            break
        longer = _normalized(weights * gain**rate)
        if (longer @ p).log().sum() >= mixed.log().sum():  # false if it is nan
            weights, rate = longer, 2 * rate
        else:
            weights, rate = _normalized(weights * gain), 1.0
        mixed = weights @ p
    alone = p.clamp(min=1e-300).log().sum(dim=1)  # (M,)
    if told.any() and alone.max() > mixed.log().sum() + tolerance * len(mixed):
        return F.one_hot(alone.argmax(), len(p)).to(weights.dtype)
    return weights


def _normalized(weights: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    """Return weights that sum to 1, none of them 0, since an iteration cannot leave 0."""
    weights = (weights / weights.sum()).clamp(min=1e-12)
    return weights / weights.sum()


@full_precision
def _normalize(logits: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape V"]:
    """Return log-probabilities; −∞ throughout after a text that the member finds impossible."""
    impossible = logits.amax(dim=-1, keepdim=True).isneginf()
    return logits.log_softmax(dim=-1).masked_fill(impossible, -torch.inf)


@full_precision
def _log_sum_exp(*terms: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.logsumexp(torch.stack(terms), dim=0)
