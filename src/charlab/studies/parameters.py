"""Parameters to search: their ranges, how a study tunes its arms, and the result."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from charlab.configuration.messages import nearest
from charlab.errors import UserError
from charlab.types import PositiveFloat, PositiveInt, describe, display, fits

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

NOT_ON_REPORTED_TEXT = (
    "is reported, so nothing may be chosen on it: choose on dev, which is the first part of the train text."
)
MOST_SEEDS = 10_000
FIRST_TUNING_SEED = 105  # the first seed of an arm's trials, away from the seeds of cells
_RANGE: dict[str, Any] = {"low": None, "high": None, "step": None, "log": False}
PARAMETER_KEYS = (*_RANGE, "choices")
_TUNE_TYPES: dict[str, Any] = {
    "parameters": dict,
    "trials": PositiveInt,
    "seeds": PositiveInt | list[int],
    "split": str,
}
_FEWEST_TRIALS = 2
_NEAR_END = 0.05  # as a share of a range


@dataclass(frozen=True)
class Parameter:
    """The values that a parameter may take: an inclusive range or a list of choices.

    Attributes:
        low: lower end of the range; values are integers if both ends are.
        high: upper end of the range.
        log: whether to sample on a logarithmic scale.
        step: distance between values; None for a continuous range, or for integers with a distance of 1.
        choices: the values if there is no range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @property
    def example(self) -> Any:
        """One of the possible values."""
        return self.choices[0] if self.choices else self.low

    def distribution(self) -> BaseDistribution:
        """Return the corresponding Optuna distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


def check_settings(values: Mapping[str, Any], types: Mapping[str, Any], given: str, where: str) -> None:
    """Check that a mapping has values of these types, and no others."""
    for key in values:
        if key not in types:
            raise UserError(f"There is no key {given}.{key}{where}{nearest(str(key), types, f'{given}.')}")
    for key, annotation in types.items():
        if key not in values:
            raise UserError(f"{given}.{key}{where} is missing: begin the file with defaults: [_base, _self_].")
        if not fits(values[key], annotation):
            raise UserError(f"{given}.{key}{where} must be {describe(annotation)}, not {display(values[key])}.")


def read_parameters(values: Mapping[str, Any], given: str, where: str) -> dict[str, Parameter]:
    """Return the parameters that a file lists."""
    if not values:
        raise UserError(f"{given}{where} is empty: name what to search, such as optimizer.lr.")
    return {str(key): _parameter(f"{given}.{key}{where}", value) for key, value in values.items()}


def _parameter(given: str, value: Any) -> Parameter:
    if not isinstance(value, dict):
        raise UserError(f"{given} must be a range, {{low: …, high: …}}, or {{choices: […]}}, not {display(value)}.")
    for name in map(str, value):
        if name not in PARAMETER_KEYS:
            raise UserError(f"{given} has no key {name}{nearest(name, PARAMETER_KEYS)}")
    if "choices" in value:
        choices = value["choices"]
        if len(value) > 1 or not isinstance(choices, list) or len(choices) < 2:
            raise UserError(f"{given} must have either a range or a list of two choices at least, and nothing else.")
        if not all(choice is None or isinstance(choice, str | bool | int | float) for choice in choices):
            raise UserError(f"{given} must have choices that are single values: name a group's options.")
        return Parameter(choices=tuple(choices))
    low, high, step, log = (value.get(name, default) for name, default in _RANGE.items())
    if not (fits(low, float) and fits(high, float) and low < high and math.isfinite(high - low)):
        raise UserError(f"{given} must have a low below its high, each a finite number such as 1.0e-3.")
    if not fits(log, bool) or not fits(step, PositiveFloat | None):
        raise UserError(f"{given} must have true or false for log, and a number above 0 for step.")
    if log and (low <= 0 or step is not None):
        raise UserError(f"{given} is logarithmic, so low must be above 0, and there is no step.")
    whole = isinstance(low, int) and isinstance(high, int)
    steps = (high - low) / (step or high - low)
    if (whole and not isinstance(step, int | None)) or abs(steps - round(steps)) >= 1e-9 * max(1.0, steps):
        raise UserError(f"{given} must have a step that leads from low to high.")
    return Parameter(low, high, log, step)


def read_seeds(seeds: int | list[int], first: int, given: str) -> tuple[int, ...]:
    """Return the seeds that a file lists, or as many as it says, counted from `first`."""
    if isinstance(seeds, int):
        if seeds > MOST_SEEDS:
            raise UserError(f"{given} is {seeds:,}: no study has more than {MOST_SEEDS:,} seeds.")
        return tuple(range(first, first + seeds))
    for seed, times in Counter(seeds).items():
        if times > 1:
            raise UserError(f"{given} has {seed} twice: give each seed once.")
    return tuple(seeds)


@dataclass(frozen=True)
class Tune:
    """How a study tunes every arm before its cells run: `study.tune`.

    Attributes:
        parameters: the parameters to search, by key.
        seeds: seeds of each trial, over which its loss is averaged; none is a seed of the study.
    """

    parameters: Mapping[str, Parameter]
    trials: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Tuned:
    """The result of tuning an arm.

    Attributes:
        values: the chosen values by key.
        loss: their loss on dev text, the mean over the seeds of the trials, in nats per character.
        failed: number of trials without a result.
        near: number of trials whose loss is within the study's margin of the chosen one's, including the chosen one.
        ranges: smallest and largest value among these, by key; numeric parameters only.
        at_end: keys whose chosen value is at an end of the range, so that a better one may be outside.
        mixed: whether some of the trials' losses are upper bounds, and others exact.
    """

    values: Mapping[str, Any]
    loss: float
    trials: int
    seeds: tuple[int, ...]
    failed: int
    runs: int
    seconds: float
    near: int
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    at_end: tuple[str, ...] = ()
    mixed: bool = False


def read_tune(values: Mapping[str, Any], seeds: Sequence[int], where: str) -> Tune:
    """Return how a study tunes its arms."""
    values = dict[str, Any]({"parameters": None, "trials": 8, "seeds": 2, "split": "dev"} | dict(values))
    check_settings(values, _TUNE_TYPES, "study.tune", where)
    if values["split"] != "dev":
        raise UserError(f"study.tune.split={values['split']}{where} {NOT_ON_REPORTED_TEXT}")
    if values["trials"] < _FEWEST_TRIALS:
        raise UserError(f"study.tune.trials={values['trials']}{where} leaves nothing to choose: give at least two.")
    own = read_seeds(values["seeds"], FIRST_TUNING_SEED, f"study.tune.seeds{where}")
    if not own:
        raise UserError(f"study.tune.seeds{where} is empty: give one seed or more.")
    if shared := sorted(set(own) & set(seeds)):
        raise UserError(
            f"study.tune.seeds{where} has {shared[0]}, which is a seed of the study: tune with seeds that no cell has."
        )
    return Tune(read_parameters(values["parameters"], "study.tune.parameters", where), values["trials"], own)


def is_at_end(parameter: Parameter, value: Any) -> bool:
    """Return whether a value is within 5% of an end of its range, on the scale that is searched."""
    if parameter.low is None or parameter.high is None:
        return False
    scale = math.log if parameter.log else float
    share = (scale(value) - scale(parameter.low)) / (scale(parameter.high) - scale(parameter.low))
    return not _NEAR_END < share < 1 - _NEAR_END
