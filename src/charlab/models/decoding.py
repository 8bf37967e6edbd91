"""From logits to characters: choosing one, and drawing a continuation one character after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from charlab.errors import UserError

if TYPE_CHECKING:
    from charlab.models.contract import AutoregressiveModel

Overflow = Literal["slide", "rebase"]


def check_choice(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises a `UserError` unless `choose` can work with these values."""
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise UserError(f"temperature={temperature} is not a number ≥ 0; 0 takes the most probable character.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k} leaves no character to choose from; give an integer ≥ 1, or null for all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} is not a probability; give a number above 0 and at most 1, or null.")


def check_length(length: int) -> None:
    """Raises a `UserError` unless `length` is a number of characters to draw."""
    if length < 0:
        raise UserError(f"length={length} is negative; give the number of characters to draw, 0 or more.")


def check_prompt(prompt: Int[Tensor, "B P"]) -> None:
    """Raises a `UserError` unless there is a character to start from."""
    if prompt.shape[1] == 0:
        raise UserError("The prompt is empty; give at least one character to start from.")


def check_predictions(logits: Float[Tensor, "*B V"]) -> None:
    """Raises a `UserError` if there is nothing to draw from: the model's weights have diverged."""
    if not logits.amax(dim=-1).isfinite().all():  # nan, ∞, or −∞ alone
        raise UserError("The model predicts nan: its training has diverged; train it again, at a lower learning rate.")


def choose(
    logits: Float[Tensor, "B V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " B"]:
    """Draws one character per row. Temperature acts first, then top-k, then top-p on what top-k has left.

    Args:
        logits: (B, V) unnormalised log-probabilities.
        temperature: divides the logits; 0 takes the most probable character.
        top_k: draw among the k most probable characters only.
        top_p: draw among the fewest characters whose probabilities sum to at least p (nucleus sampling,
            Holtzman et al. 2020).
        generator: source of randomness, on the device of `logits`.

    Returns:
        (B,) character ids.

    Raises:
        UserError: if temperature < 0, top_k < 1, or top_p is outside (0, 1].
    """
    check_choice(temperature, top_k, top_p)
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float()
    # The largest becomes 0, so that no temperature, however small, can overflow it.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    is_restricted = top_k is not None or (top_p is not None and top_p < 1)
    probabilities = _restricted(scaled, top_k, top_p) if is_restricted else scaled.softmax(dim=-1)  # (B, V)
    # What `torch.multinomial` does, without its checks, which take as long again: of exponential clocks, each ticking
    # at the rate of its probability, any one is the first to ring with just that probability.
    return (probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax(dim=-1)


def _restricted(logits: Float[Tensor, "B V"], top_k: int | None, top_p: float | None) -> Float[Tensor, "B V"]:
    """Returns probabilities up to a factor, 0 for what top-k and top-p leave out."""
    ranked, ids = logits.sort(dim=-1, descending=True, stable=True)  # both (B, V)
    probabilities = ranked[:, :top_k].softmax(dim=-1)  # (B, k)
    if top_p is not None and top_p < 1:
        enough = probabilities.cumsum(dim=-1)[:, :-1] >= top_p  # for those ranked below; the first one always stays
        probabilities = torch.cat((probabilities[:, :1], probabilities[:, 1:].masked_fill(enough, 0.0)), dim=-1)
    return torch.zeros_like(logits).scatter(1, ids[:, :top_k], probabilities)


def stream(
    model: AutoregressiveModel,
    prompt: Int[Tensor, "B P"],
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    overflow: Overflow = "slide",
    generator: torch.Generator | None = None,
) -> Iterator[Int[Tensor, " B"]]:
    """Draws `length` characters after `prompt`, and yields each as soon as it is drawn.

    A model looks at its last `context_length` characters. Until these are all in use, each character costs one
    `advance`. From then on there is a choice. A cached key was computed from everything before it, so dropping the
    oldest one is not the same as never having seen it:

    - "slide" runs `predict_next` on the last `context_length` characters for every new one: what the model was trained
      to do, and slow.
    - "rebase" starts a new state from the last half of the context whenever it is full: fast, but predictions then
      have between half and all of the context, so it draws from another distribution.

    Args:
        model: any autoregressive model, in the mode (train or eval) that it is to be used in.
        prompt: (B, P) character ids, P ≥ 1, on the model's device.
        length: number of characters to draw, ≥ 0.
        temperature: see `choose`.
        top_k: see `choose`.
        top_p: see `choose`.
        overflow: what to do once the context is full; of no effect if `model.context_length` is None.
        generator: source of randomness, on the model's device.

    Yields:
        (B,) character ids, `length` times.

    Raises:
        UserError: at the call itself, if the prompt is empty, `length` is negative, or an option is out of range; when
            drawing, if the model predicts nan (on a GPU it is the first and the last character that are checked).
    """
    check_prompt(prompt)
    check_length(length)
    if overflow not in ("slide", "rebase"):
        raise UserError(f"overflow={overflow} is unknown; the choices are slide and rebase.")
    check_choice(temperature, top_k, top_p)
    return _stream(model, prompt.long(), length, temperature, top_k, top_p, overflow, generator)


@torch.no_grad()
def _stream(
    model: AutoregressiveModel,
    prompt: Int[Tensor, "B P"],
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    overflow: Overflow,
    generator: torch.Generator | None,
) -> Iterator[Int[Tensor, " B"]]:
    """Does the work of `stream`, whose arguments have been checked."""
    if length == 0:
        return
    batch_size, limit = prompt.shape[0], model.context_length
    context = prompt if limit is None else prompt[:, -limit:]
    logits, state = model.extend(context, model.init_state(batch_size))  # (B, P, V)
    logits = logits[:, -1]  # (B, V)
    for drawn in range(1, length + 1):
        if drawn in (1, length) or logits.device.type == "cpu":  # on others, each look would wait for the device
            check_predictions(logits)
        token = choose(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)  # (B,)
        yield token
        if drawn == length:
            return
        if limit is None:
            logits, state = model.advance(token, state)
            continue
        context = torch.cat([context, token[:, None]], dim=1)
        if context.shape[1] <= limit:
            logits, state = model.advance(token, state)
        elif overflow == "slide":
            context = context[:, -limit:]
            logits = model.predict_next(context)
        else:
            context = context[:, -max(1, limit // 2) :]
            logits, state = model.extend(context, model.init_state(batch_size))
            logits = logits[:, -1]
