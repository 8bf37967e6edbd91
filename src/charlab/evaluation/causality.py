"""Does a model look at what it is to predict? A loss that comes from seeing the future means nothing."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from charlab.data.windows import gather_windows
from charlab.errors import UserError
from charlab.evaluation.scoring import nll_of_next
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.models.inference import device_of, untouched_randomness
from charlab.seeding import derive_seed

PROBE_LENGTH = 16  # characters in the sequence that is changed here and there
NUM_POSITIONS = 8  # characters of each window that are scored step by step
MOST_WINDOWS = 16
MOST_WORK = 1e10  # parameters × characters in scoring step by step, unless two windows take more
MORE_WINDOWS_IF_LEAKING = 4  # the honest figure then is what is reported, and worth the time
LONGEST_CONTEXT = 256  # of models without a context length, if none is asked for
# How far log-probabilities may move, relative to their spread, and nll, in nats. An FFT over the window moves what
# precedes a change by rounding errors; and a model may well do a part of its float64 work in float32.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
LEAST_LOG_PROBABILITY = -50.0  # keeps −∞ out of differences


@dataclass(frozen=True)
class Causality:
    """What the check has found.

    Attributes:
        leaks: whether the model's nll cannot be trusted.
        reason: a sentence that says why, or why there was nothing to check; empty if all is well.
        claimed_nll: mean nll, in nats per character, of some characters of the text as the model reports it.
        honest_nll: the same characters scored as they would be generated, the model given no more than what precedes.
        honest_error: standard error of `honest_nll`, for these characters are a small sample of the text.
        characters: how many there were.
    """

    leaks: bool
    reason: str = ""
    claimed_nll: float | None = None
    honest_nll: float | None = None
    honest_error: float | None = None
    characters: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON: a figure that is not finite is None."""
        return {
            "leaks": self.leaks,
            "reason": self.reason,
            "claimed_nll": _finite(self.claimed_nll),
            "honest_nll": _finite(self.honest_nll),
            "honest_error": _finite(self.honest_error),
            "characters": self.characters,
        }


@torch.no_grad()
def check_causality(
    model: LanguageModel, *, ids: Int[Tensor, " N"], context_length: int | None = None, seed: int = 305
) -> Causality:
    """Checks that a model predicts each character from those before it in the same row, and from nothing else.

    On a copy of the model, with its own weights and then with random ones (an output layer that starts at zero would
    hide everything), in float64 where the device and the model can:

    1. other rows of the batch must not change a row's predictions;
    2. what follows a position must not change the prediction there, for every position of a short sequence;
    3. windows of the text scored character by character, `forward` having been given what precedes and no more, must
       cost what `nll` says. This reaches as far as the context does.

    The model, its mode and the global random state stay as they are.

    Args:
        model: any language model; only an autoregressive one is checked.
        ids: (N,) character ids of the text to score, on any device.
        context_length: T of the windows scored; the model's own by default.
        seed: decides windows, changes and random weights.

    Raises:
        UserError: if the text has fewer than two characters, or the context is longer than the model's.
    """
    if not isinstance(model, AutoregressiveModel):
        return Causality(leaks=False, reason="Not checked: the model does not predict one character after the other.")
    length = context_length or model.context_length or LONGEST_CONTEXT
    if model.context_length is not None and length > model.context_length:
        raise UserError(
            f"context_length={length} is longer than the model's context of {model.context_length} characters: "
            "give at most that."
        )
    if len(ids) < 2:
        raise UserError("Checking a model takes a text of at least two characters: give a longer one.")
    device = device_of(model)
    generator = torch.Generator().manual_seed(derive_seed(seed, "causality"))
    length = min(length, len(ids) - 1)
    starts = torch.randint(len(ids) - length, (MOST_WINDOWS * MORE_WINDOWS_IF_LEAKING,), generator=generator)
    windows = gather_windows(ids.to(device), starts.to(device), length)  # (B, T+1)
    positions = _sample_positions(length, generator)
    num_windows = _affordable_windows(model, positions)

    with untouched_randomness(device), torch.autocast(device.type, enabled=False):
        probe, tolerance = _precise_copy(model, windows)
        scores = _score_both_ways(probe, windows[:num_windows], positions)
        fault = _fault(probe, scores, tolerance, generator)
        reason = f"Its {fault}" if fault else ""
        if fault:
            scores = _score_both_ways(probe, windows[: MORE_WINDOWS_IF_LEAKING * num_windows], positions)
        elif _randomize(probe, generator):
            random_scores = _score_both_ways(probe, windows[:1], positions)
            fault = _fault(probe, random_scores, tolerance, generator)
            reason = f"With random weights, its {fault}" if fault else ""
    claimed, honest = (score.mean().item() for score in scores)
    error = scores.honest.std().item() / math.sqrt(scores.honest.numel()) if scores.honest.numel() > 1 else None
    return Causality(bool(fault), reason, claimed, honest, error, scores.honest.numel())


def stepwise_nll(
    model: AutoregressiveModel, windows: Int[Tensor, "B T+1"], positions: list[int] | None = None
) -> Float[Tensor, "B n"]:
    """Scores characters one by one, as generation would: `forward` sees what precedes each, and no more.

    Args:
        model: in evaluation mode.
        windows: (B, T+1) character ids.
        positions: which characters of each window to score, from 1 … T; all by default.

    Returns:
        (B, n), in nats: a column per position. Where no character is seen too early, it equals `nll`.
    """
    columns = []
    for position in range(1, windows.shape[1]) if positions is None else positions:
        logits = model(windows[:, :position])[:, -1]  # (B, V)
        columns.append(nll_of_next(logits[:, None], windows[:, position, None])[:, 0])
    return torch.stack(columns, dim=1)


class _Scores(NamedTuple):
    """The nll of the same characters as the model reports it, and as found step by step."""

    claimed: Float[Tensor, "B n"]
    honest: Float[Tensor, "B n"]


def _score_both_ways(model: AutoregressiveModel, windows: Int[Tensor, "B T+1"], positions: list[int]) -> _Scores:
    claimed = model.nll(windows)[:, [position - 1 for position in positions]]
    return _Scores(claimed, stepwise_nll(model, windows, positions))


def _fault(model: AutoregressiveModel, scores: _Scores, tolerance: float, generator: torch.Generator) -> str:
    """Return what is wrong with the model's predictions, or an empty string."""
    device = scores.honest.device
    length = min(PROBE_LENGTH, model.context_length or PROBE_LENGTH)
    sequence, before, after = torch.randint(model.vocab_size, (3, length), generator=generator).to(device)

    def change(tokens: Tensor) -> Tensor:
        """Returns other characters in every place."""
        shift = torch.randint(1, max(2, model.vocab_size), tokens.shape, generator=generator)
        return (tokens + shift.to(device)) % model.vocab_size

    reference = _log_probabilities(model, torch.stack([before, sequence, after]))
    finite = reference[reference.isfinite()]
    spread = max(1e-3, (finite.max() - finite.min()).item()) if len(finite) else 1e-3
    changed = _log_probabilities(model, torch.stack([change(before), sequence, change(after)]))
    if _differ(reference[1], changed[1], tolerance * spread).any():
        return "predictions for one row of a batch change with the other rows."

    expected = _log_probabilities(model, sequence[None])  # (1, T, V)
    if length > 1:
        seen = torch.ones(length - 1, length, dtype=torch.bool, device=device).tril()  # row c: up to position c
        tokens = torch.where(seen, sequence, change(sequence.expand(length - 1, -1)))
        moved = _differ(expected, _log_probabilities(model, tokens), tolerance * spread).any(-1) & seen
        if moved.any():
            row, position = moved.nonzero()[0].tolist()
            return (
                f"prediction after {position + 1} of {length} characters changes "
                f"when only the last {length - 1 - row} of them do."
            )
    if _differ(*scores, tolerance * (1 + scores.honest.abs())).any():
        return "predictions within a window are not those that it makes from the window's beginning alone."
    return ""


def _log_probabilities(model: AutoregressiveModel, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
    return model(tokens).log_softmax(-1).clamp(min=LEAST_LOG_PROBABILITY)


def _differ(a: Tensor, b: Tensor, tolerance: float | Tensor) -> Tensor:
    """Return where two tensors differ.

    Values that are nan or +∞ are equal: a diverged model predicts nan, and after a character that a model finds
    impossible (nll ∞) there is nothing to predict from.
    """
    neither = ~(a < torch.inf) & ~(b < torch.inf)
    difference = (a - b).abs()
    close = (difference <= tolerance) & difference.isfinite()
    return ~((a == b) | neither | close)


def _sample_positions(length: int, generator: torch.Generator) -> list[int]:
    """Returns some of the positions 1 … length in order, the last two among them, where a leak may hide."""
    last = list(range(max(1, length - 1), length + 1))
    others = 1 + torch.randperm(max(0, length - 2), generator=generator)[: NUM_POSITIONS - len(last)]
    return sorted(others.tolist()) + last


def _affordable_windows(model: AutoregressiveModel, positions: list[int]) -> int:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return min(MOST_WINDOWS, max(2, int(MOST_WORK / ((1 + num_parameters) * sum(positions)))))


def _precise_copy(model: AutoregressiveModel, windows: Int[Tensor, "B T+1"]) -> tuple[AutoregressiveModel, float]:
    """Returns a copy in evaluation mode, in float64 if that works, and the tolerance that goes with its precision."""
    try:
        probe = copy.deepcopy(model).double().eval()
        probe(windows[:1, :-1])
    except (RuntimeError, TypeError):  # no float64 on this device, or float32 constants in the model
        return copy.deepcopy(model).float().eval(), TOLERANCE[torch.float32]
    return probe, TOLERANCE[torch.float64]


def _randomize(model: AutoregressiveModel, generator: torch.Generator) -> bool:
    """Gives all that is trained random values, of the size that layers usually start with; returns if there is any."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) / math.sqrt(fan_in)
        parameter.copy_(noise)
    return bool(trained)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
