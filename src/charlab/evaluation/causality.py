"""Check that a model sees nothing of what it predicts, and that its initial weights and loss are sane."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from charlab.data.tokenizers import Vocabulary
from charlab.data.windows import gather_windows
from charlab.errors import UserError
from charlab.evaluation.metric import count_characters
from charlab.evaluation.scoring import has_unbounded_context, nll_of_next
from charlab.models.contract import AutoregressiveModel, LanguageModel
from charlab.models.side_effects import device_of, evaluation_mode, untouched_randomness
from charlab.seeding import derive_seed

PROBE_LENGTH = 16  # characters of the sequence that is perturbed
NUM_POSITIONS = 8  # characters scored one by one in each window
MOST_WINDOWS = 16
MOST_WORK = 1e10  # budget of scoring one by one, in parameters × characters; two windows are scored in any case
MORE_WINDOWS_IF_LEAKING = 4  # factor, since the honest figure is then reported
LONGEST_CONTEXT = 256  # default for models without a context length
# How far log-probabilities may move, relative to their spread, and nll, relative to 1 nat + nll. An FFT over the window
# carries rounding errors to earlier positions, and a model may do part of its float64 work in float32.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
LEAST_LOG_PROBABILITY = -50.0  # keeps −∞ out of differences
INITIAL_WINDOWS = 16
FAR = 3.0  # nats above ln V at which an untrained model is worth a warning


@dataclass(frozen=True)
class Causality:
    """The result of `check_causality`.

    Attributes:
        leaks: whether the model's nll cannot be trusted.
        reason: why, or why nothing was checked, as a sentence; empty if all is well.
        claimed_nll: mean nll of a sample of characters as the model reports it, in nats per character.
        honest_nll: the same, with the model given only what precedes each character, as in generation.
        honest_error: standard error of `honest_nll`.
        characters: size of the sample.
    """

    leaks: bool
    reason: str = ""
    claimed_nll: float | None = None
    honest_nll: float | None = None
    honest_error: float | None = None
    characters: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON: a figure that is not finite is None."""
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
    model: LanguageModel,
    *,
    ids: Int[Tensor, " N"],
    vocabulary: Vocabulary | None = None,
    context_length: int | None = None,
    seed: int = 305,
) -> Causality:
    """Check that a model predicts each character only from those before it in the same row.

    On a copy of the model, with its own weights and then with random ones (a readout that starts at zero hides all
    leaks), in float64 where the device and the model support it:

    1. other rows of the batch must not change a row's predictions;
    2. later characters must not change the prediction at any position of a short sequence;
    3. windows of the text, scored character by character with `forward` given only what precedes, must cost what
       `nll` says. This covers the whole context.
    4. they must cost the same when `nll` scores them again, and when they are read in parts, as `sliding` reads a text.

    The model, its mode and the global random state are not changed.

    Args:
        model: any language model; only autoregressive ones are checked.
        ids: (N,) token ids of the text to score, on any device.
        vocabulary: what the tokens are; None for characters.
        context_length: T of the windows; the model's own by default.
        seed: determines windows, perturbations and random weights.

    Raises:
        UserError: if the text has fewer than two characters, or the context is longer than the model's.
    """
    if not isinstance(model, AutoregressiveModel):
        return Causality(leaks=False, reason="Not checked: the model is not autoregressive.")
    length = context_length or model.context_length or LONGEST_CONTEXT
    if model.context_length is not None and length > model.context_length:
        raise UserError(
            f"context_length={length} is longer than the model's context of {model.context_length} characters: "
            "give at most that."
        )
    if len(ids) < 2:
        raise UserError("Checking a model needs a text of at least two characters: give a longer one.")
    device = device_of(model)
    generator = torch.Generator().manual_seed(derive_seed(seed, "causality"))
    length = min(length, len(ids) - 1)
    starts = torch.randint(len(ids) - length, (MOST_WINDOWS * MORE_WINDOWS_IF_LEAKING,), generator=generator)
    windows = gather_windows(ids.to(device), starts.to(device), length)  # (B, T+1)
    positions = _sample_positions(length, generator)
    num_windows = _affordable_windows(model, positions)

    with untouched_randomness(device), torch.autocast(device.type, enabled=False):
        probe, tolerance = _precise_copy(model, windows)
        scores = _score(probe, windows[:num_windows], positions)
        fault = _fault(probe, scores, tolerance, generator)
        reason = f"Its {fault}" if fault else ""
        if fault:
            scores = _score(probe, windows[: MORE_WINDOWS_IF_LEAKING * num_windows], positions)
        elif _randomize(probe, generator):
            random_scores = _score(probe, windows[:1], _sample_positions(length, generator))
            fault = _fault(probe, random_scores, tolerance, generator)
            reason = f"With random weights, its {fault}" if fault else ""
    number = scores.honest.numel()
    counts = count_characters(windows[: len(scores.honest), positions], vocabulary)
    characters = number if counts is None else max(1, int(counts.sum()))
    claimed, honest = (score.mean().item() * (number / characters) for score in (scores.claimed, scores.honest))
    error = scores.honest.std().item() / math.sqrt(number) * (number / characters) if number > 1 else None
    return Causality(bool(fault), reason, claimed, honest, error, characters)


def stepwise_nll(
    model: AutoregressiveModel, windows: Int[Tensor, "B T+1"], positions: list[int] | None = None
) -> Float[Tensor, "B n"]:
    """Score characters one by one, as in generation: `forward` sees only what precedes each.

    Args:
        model: in evaluation mode.
        windows: (B, T+1) character ids.
        positions: which characters of each window to score, from 1 … T; all by default.

    Returns:
        (B, n), in nats, a column per position. Equal to `nll` unless the model sees the future.
    """
    columns = []
    for position in range(1, windows.shape[1]) if positions is None else positions:
        logits = model(windows[:, :position])[:, -1]  # (B, V)
        columns.append(nll_of_next(logits[:, None], windows[:, position, None])[:, 0])
    return torch.stack(columns, dim=1)


class _Scores(NamedTuple):
    """The nll of the same characters, scored in several ways.

    Attributes:
        claimed: as `nll` reports it.
        honest: one by one.
        repeated: as `nll` reports it the second time.
        in_parts: see `_score_in_parts`.
    """

    claimed: Float[Tensor, "B n"]
    honest: Float[Tensor, "B n"]
    repeated: Float[Tensor, "B n"]
    in_parts: Float[Tensor, "B n"]


def _score(model: AutoregressiveModel, windows: Int[Tensor, "B T+1"], positions: list[int]) -> _Scores:
    columns = [position - 1 for position in positions]
    honest = stepwise_nll(model, windows, positions)  # first, and on another copy than `nll`, which may keep the labels
    model = copy.deepcopy(model)
    claimed, repeated = (model.nll(windows)[:, columns] for _ in range(2))
    return _Scores(claimed, honest, repeated, _score_in_parts(model, windows)[:, columns])


def _score_in_parts(model: AutoregressiveModel, windows: Int[Tensor, "B T+1"]) -> Float[Tensor, "B T"]:
    """Return the nll of windows that are read in two parts.

    That is how the protocol `sliding` reads a text: models of unbounded context go on from a state, all others score
    the end of a window.
    """
    length = windows.shape[1] - 1
    middle = (length + 1) // 2
    if has_unbounded_context(model):
        state, logits = model.init_state(len(windows)), []
        for part in windows[:, :-1].split(middle, dim=1):
            read, state = model.extend(part, state)
            logits.append(read)
        return nll_of_next(torch.cat(logits, dim=1), windows[:, 1:])
    nll = model.nll(windows[:, : middle + 1])  # (B, middle)
    later = model.nll(windows, scored_from=middle + 1)[:, middle:] if middle < length else nll[:, :0]
    return torch.cat([nll, later], dim=1)


def _fault(model: AutoregressiveModel, scores: _Scores, tolerance: float, generator: torch.Generator) -> str:
    """Return what is wrong with the model's predictions, or an empty string."""
    device = scores.honest.device
    length = min(PROBE_LENGTH, model.context_length or PROBE_LENGTH)
    sequence, before, after = torch.randint(model.vocab_size, (3, length), generator=generator).to(device)

    def change(tokens: Tensor) -> Tensor:
        """Return a different character at every position."""
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
    tolerated = tolerance * (1 + scores.honest.abs())
    if _differ(scores.claimed, scores.honest, tolerated).any():
        return "predictions within a window are not those that it makes from the window's beginning alone."
    if _differ(scores.repeated, scores.honest, tolerated).any():
        return "predictions of a text change once it has scored that text."
    if _differ(scores.in_parts, scores.honest, tolerated).any():
        return "predictions change when a text is read in parts, as protocol=sliding does."
    return ""


def _log_probabilities(model: AutoregressiveModel, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
    return model(tokens).log_softmax(-1).clamp(min=LEAST_LOG_PROBABILITY)


def _differ(a: Tensor, b: Tensor, tolerance: float | Tensor) -> Tensor:
    """Return where two tensors differ.

    nan and +∞ count as equal: a diverged model predicts nan, and after an impossible character (nll ∞) there is no
    distribution.
    """
    neither = ~(a < torch.inf) & ~(b < torch.inf)
    difference = (a - b).abs()
    close = (difference <= tolerance) & difference.isfinite()
    return ~((a == b) | neither | close)


def _sample_positions(length: int, generator: torch.Generator) -> list[int]:
    """Return some of the positions 1 … length in order, including the last two, where a leak may hide."""
    last = list(range(max(1, length - 1), length + 1))
    others = 1 + torch.randperm(max(0, length - 2), generator=generator)[: NUM_POSITIONS - len(last)]
    return sorted(others.tolist()) + last


def _affordable_windows(model: AutoregressiveModel, positions: list[int]) -> int:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return min(MOST_WINDOWS, max(2, int(MOST_WORK / ((1 + num_parameters) * sum(positions)))))


def _precise_copy(model: AutoregressiveModel, windows: Int[Tensor, "B T+1"]) -> tuple[AutoregressiveModel, float]:
    """Return a copy in evaluation mode, in float64 if possible, and the tolerance for its precision."""
    try:
        probe = copy.deepcopy(model).double().eval()
        probe(windows[:1, :-1])
        _score_in_parts(copy.deepcopy(probe), windows[:1])
    except (RuntimeError, TypeError):  # no float64 on this device, or float32 constants in the model
        return copy.deepcopy(model).float().eval(), TOLERANCE[torch.float32]
    return probe, TOLERANCE[torch.float64]


def _randomize(model: AutoregressiveModel, generator: torch.Generator) -> bool:
    """Replace all trained parameters with random values of a usual initial scale; return whether there are any."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) / math.sqrt(fan_in)
        parameter.copy_(noise)
    return bool(trained)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@torch.no_grad()
def check_initial(model: LanguageModel, *, ids: Int[Tensor, " N"], context_length: int) -> str | None:
    """Check a model's initial weights and loss.

    Args:
        model: about to be trained.
        ids: (N,) character ids of the train text.
        context_length: T of the windows that are scored.

    Returns:
        A warning if the loss starts far above ln V, with the cause if it is known; else None.

    Raises:
        UserError: if a weight is infinite or NaN, or the loss is NaN.
    """
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if weight.is_floating_point() and (weight.isnan() | weight.isposinf()).any():
            owner = type(model.get_submodule(name.rpartition(".")[0])).__name__
            raise UserError(
                f"The initial values of {name} are infinite or NaN, so training cannot start: the sizes of the model, "
                f"or the initialization of its {owner}, are wrong, not the learning rate."
            )
    device, length = device_of(model), min(context_length, len(ids) - 1)
    starts = torch.linspace(0, len(ids) - length - 1, INITIAL_WINDOWS, dtype=torch.float64).long()
    windows = gather_windows(ids.to(device), starts.to(device), length)
    generator = torch.Generator(device).manual_seed(0)
    with evaluation_mode(model), untouched_randomness(device):
        nll = model.nll(windows, generator=generator).cpu().double().mean().item()  # mps has no float64
    if math.isnan(nll):
        raise UserError(
            f"The loss of {type(model).__name__} is nan before the first step, although all its weights are numbers: "
            "its forward computes something undefined, which no learning rate can fix."
        )
    excess = nll - math.log(model.vocab_size)
    if excess <= FAR:
        return None
    return (
        f"The untrained model is at {nll:.1f} nats per prediction, {excess:.1f} above ln {model.vocab_size}, which "
        f"guessing costs.{_cause(model)}"
    )


def _cause(model: nn.Module) -> str:
    embeddings = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    readouts = {module.weight for module in model.modules() if isinstance(module, nn.Linear)}
    if not embeddings & readouts:
        return ""
    return (
        " Its readout shares the weights of its embedding, whose initial values are large: "
        "model/initialization=gpt2 starts with small ones."
    )
