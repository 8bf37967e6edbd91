"""From logits to characters: sampling one, and streaming a continuation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from charlab.errors import UserError

Overflow = Literal["slide", "rebase"]
TINY = torch.finfo(torch.float32).tiny  # smaller float32 numbers lose digits or become 0


class Streamable(Protocol):
    """What `stream` needs of a model; see `charlab.models.contract.AutoregressiveModel`."""

    context_length: int | None

    def predict_next(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]: ...

    def init_state(self, batch_size: int) -> Any: ...

    def read_prompt(self, tokens: Int[Tensor, "B n"], state: Any) -> tuple[Float[Tensor, "B V"], Any]: ...

    def advance(self, token: Int[Tensor, " B"], state: Any) -> tuple[Float[Tensor, "B V"], Any]: ...


def check_choice(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise `UserError` if a sampling option is out of range."""
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise UserError(f"temperature={temperature} is not a number ≥ 0; 0 takes the most probable character.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k={top_k} leaves no character to choose from; give an integer ≥ 1, or null for all.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} is not a probability; give a number above 0 and at most 1, or null.")


def check_not_negative(length: int) -> None:
    """Raise `UserError` if `length` is negative."""
    if length < 0:
        raise UserError(f"length={length} is negative; give the number of characters to sample, 0 or more.")


def check_prompt(prompt: Int[Tensor, "B P"]) -> None:
    """Raise `UserError` if the prompt is empty."""
    if prompt.shape[1] == 0:
        raise UserError("The prompt is empty; give at least one character to start from.")


def check_predictions(logits: Float[Tensor, "*B V"]) -> None:
    """Raise `UserError` with the reason if the logits are not a distribution to sample from."""
    best = logits.amax(dim=-1)
    if best.isneginf().any():
        raise UserError(
            "The model finds this text impossible, so it cannot continue it: give another prompt. For a model trained "
            "by EM, optimizer.smoothing above 0 keeps every character possible."
        )
    if not best.isfinite().all():
        raise UserError("The model predicts nan: its training has diverged; train it again, at a lower learning rate.")


def choose(
    logits: Float[Tensor, "B V"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " B"]:
    """Sample one character per row: temperature first, then top-k, then top-p on what is left.

    Args:
        logits: (B, V) unnormalized log-probabilities.
        temperature: divides the logits; 0 takes the most probable character.
        top_k: sample from the k most probable characters only.
        top_p: sample from the fewest characters whose probabilities sum to at least p (nucleus sampling,
            Holtzman et al. 2020).
        generator: source of randomness, on the device of `logits`.

    Returns:
        (B,) character ids.

    Raises:
        UserError: if temperature < 0, top_k < 1, or top_p is outside (0, 1].
    """
    check_choice(temperature, top_k, top_p)
    if temperature < TINY:
        return logits.argmax(dim=-1)
    logits = logits.float()
    # With the largest logit at 0, no temperature overflows it; a finite temperature keeps −∞ from becoming nan.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / min(temperature, torch.finfo(torch.float32).max)
    is_restricted = top_k is not None or (top_p is not None and top_p < 1)
    probabilities = _restricted(scaled, top_k, top_p) if is_restricted else scaled.softmax(dim=-1)  # (B, V)
    # The exponential race that `torch.multinomial` runs, without its checks, which double the time: of independent
    # exponential clocks with the probabilities as rates, each rings first with its own probability. A device may round
    # a clock's time to 0, and 0/0 would be nan, which argmax treats as the largest.
    clocks = torch.empty_like(probabilities).exponential_(generator=generator).clamp_(min=TINY)
    return (probabilities / clocks).argmax(dim=-1)


def _restricted(logits: Float[Tensor, "B V"], top_k: int | None, top_p: float | None) -> Float[Tensor, "B V"]:
    """Return probabilities up to a factor per row; 0 for the characters that top-k and top-p exclude."""
    ranked, ids = logits.sort(dim=-1, descending=True, stable=True)  # both (B, V)
    probabilities = ranked[:, :top_k].softmax(dim=-1)  # (B, k)
    if top_p is not None and top_p < 1:
        enough = probabilities.cumsum(dim=-1)[:, :-1] >= top_p  # excludes lower ranks; the first always stays
        probabilities = torch.cat((probabilities[:, :1], probabilities[:, 1:].masked_fill(enough, 0.0)), dim=-1)
    return torch.zeros_like(logits).scatter(1, ids[:, :top_k], probabilities)


def stream(
    model: Streamable,
    prompt: Int[Tensor, "B P"],
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    overflow: Overflow = "slide",
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Int[Tensor, " B"]]:
    """Sample `length` characters after `prompt`, and yield each as soon as it is sampled.

    A model looks at the last `context_length` characters. Until the context is full, each character costs one
    `advance`. After that there is a choice, since a cached key depends on everything before it, and dropping the
    oldest key is not the same as never having seen it:

    - "slide" runs `predict_next` on the last `context_length` characters for every new one: slow, but what the model
      was trained for.
    - "rebase" starts a new state from the last half of the context whenever it is full: fast, but predictions see
      between half and all of the context, so the distribution differs.

    Args:
        model: any autoregressive model, in the mode (train or eval) to sample in.
        prompt: (B, P) character ids, P ≥ 1, on the model's device.
        length: number of characters to sample, ≥ 0.
        temperature: see `choose`.
        top_k: see `choose`.
        top_p: see `choose`.
        overflow: what to do once the context is full; no effect if `model.context_length` is None.
        num_samples: number of texts to sample after a single prompt (B = 1), which is read once; None for one per row.
        generator: source of randomness, on the model's device.

    Yields:
        (B,) character ids, or (num_samples,), `length` times.

    Raises:
        UserError: at the call itself, if the prompt is empty, `length` is negative, or an option is out of range;
            later, if the model predicts nan or finds the text impossible (on a GPU, this is checked at the first and
            last characters only).
    """
    check_prompt(prompt)
    check_not_negative(length)
    if overflow not in ("slide", "rebase"):
        raise UserError(f"overflow={overflow} is unknown; the choices are slide and rebase.")
    check_choice(temperature, top_k, top_p)
    return _stream(model, prompt.long(), length, temperature, top_k, top_p, overflow, num_samples, generator)


@torch.no_grad()
def _stream(
    model: Streamable,
    prompt: Int[Tensor, "B P"],
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    overflow: Overflow,
    num_samples: int | None,
    generator: torch.Generator | None,
) -> Iterator[Int[Tensor, " B"]]:
    """Run `stream` on checked arguments."""
    if length == 0:
        return
    limit = model.context_length
    context = prompt if limit is None else prompt[:, -limit:]
    logits, state = model.read_prompt(context, model.init_state(prompt.shape[0]))  # (B, V)
    if num_samples is not None and num_samples > 1:
        context = context.expand(num_samples, -1)
        try:
            state = _repeated(state, model.init_state(1), model.init_state(2), num_samples)
            logits = logits.expand(num_samples, -1)
        except _UnknownLayoutError:
            logits, state = model.read_prompt(context, model.init_state(num_samples))
    batch_size = len(context)
    for drawn in range(1, length + 1):
        if drawn in (1, length) or logits.device.type == "cpu":  # on a GPU each check would wait for the device
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
            logits, state = model.read_prompt(context, model.init_state(batch_size))


class _UnknownLayoutError(Exception):
    """Raised if the batch axis of a state's tensors is ambiguous."""


def _repeated(state: Any, one: Any, two: Any, times: int) -> Any:
    """Repeat the state of one sequence for `times` equal sequences.

    Args:
        state: the state of one sequence.
        one: the initial state of one sequence.
        two: the initial state of two; its tensors differ from those of `one` along the batch axis.
        times: number of sequences.

    Raises:
        _UnknownLayoutError: if a state holds anything but tensors, plain values and containers of them, or the three
            differ in structure.
    """
    if type(state) is not type(one) or type(one) is not type(two):
        raise _UnknownLayoutError
    if isinstance(state, Tensor):
        batch = [axis for axis, sizes in enumerate(zip(one.shape, two.shape, strict=False)) if sizes == (1, 2)]
        if len(batch) != 1 or state.ndim != one.ndim or state.shape[batch[0]] != 1:
            raise _UnknownLayoutError
        return state.repeat_interleave(times, dim=batch[0])
    if isinstance(state, dict) and state.keys() == one.keys() == two.keys():
        return {key: _repeated(state[key], one[key], two[key], times) for key in state}
    if isinstance(state, list | tuple) and len(state) == len(one) == len(two):
        parts = [_repeated(*part, times) for part in zip(state, one, two, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise _UnknownLayoutError
