"""Read and check the definition of a search from its YAML file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from charlab.configuration.messages import nearest, one_sentence
from charlab.errors import UserError
from charlab.types import PositiveFloat, PositiveInt, describe, display, fits

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FOLDER = re.compile(r"[A-Za-z0-9][\w.+-]*")
TYPES: dict[str, Any] = {
    "name": str | None,
    "overrides": list[str],
    "parameters": dict,
    "trials": PositiveInt,
    "at_once": PositiveInt | None,
    "split": str,
    "dev_fraction": PositiveFloat,
    "seed": int,
    "time_limit": PositiveFloat | None,
}
"""Types of the values in `conf/search/_base.yaml`, by key."""
FIXED = (
    *("seed", "data.seed", "data.dev_fraction", "output_dir", "force"),
    *("dry_run", "study", "search", "hydra", "launcher"),
)
"""Keys and groups that a search may not vary."""
PARAMETER_KEYS = ("low", "high", "log", "step", "choices")


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


@dataclass(frozen=True)
class SearchDefinition:
    """The settings of a search; see `conf/search/_base.yaml`."""

    name: str
    overrides: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    trials: int
    at_once: int | None
    split: str
    dev_fraction: float
    seed: int
    time_limit: float | None


def define_search(node: DictConfig, choice: str) -> SearchDefinition:
    """Return the search that the node `search` of a configuration describes.

    Args:
        node: the composed node.
        choice: name of the search's file.

    Raises:
        UserError: for the first mistake found.
    """
    where = f" (in search/{choice}.yaml)"
    try:
        values: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"search{where} cannot be resolved: {one_sentence(error)}") from None
    for key in map(str, values):
        if key not in TYPES:
            raise UserError(f"There is no key search.{key}{where}{nearest(key, TYPES, 'search.')}")
    for key, annotation in TYPES.items():
        if key not in values:
            raise UserError(f"search.{key}{where} is missing: begin the file with defaults: [_base, _self_].")
        if not fits(values[key], annotation):
            raise UserError(f"search.{key}{where} must be {describe(annotation)}, not {display(values[key])}.")
    if values["split"] != "dev":
        raise UserError(
            f"search.split={values['split']}{where} is not to be chosen on: what chooses never reports, so choose "
            "on dev, the first part of the train text."
        )
    name = values["name"] or choice.replace("/", "-")
    if not FOLDER.fullmatch(name):
        raise UserError(f"search.name={name!r} is no name for a folder: use letters, digits and the signs _ . + -.")
    if not values["parameters"]:
        raise UserError(f"search.parameters{where} is empty: name what is sought, optimizer.lr for instance.")
    parameters = {str(key): _parameter(str(key), value, where) for key, value in values["parameters"].items()}
    for key in parameters:
        if key in FIXED or key.partition(".")[0] in FIXED or key.partition("/")[0] in FIXED:
            raise UserError(f"search.parameters{where} has {key}, which all trials of a search share: leave it out.")
    for override in values["overrides"]:
        if override.lstrip("+~").partition("=")[0] in parameters:
            raise UserError(f"search.overrides{where} has {override}, which is sought: leave it out there.")
    return SearchDefinition(
        **{**values, "name": name, "overrides": tuple(values["overrides"]), "parameters": parameters}
    )


def _parameter(key: str, value: Any, where: str) -> Parameter:
    given = f"search.parameters.{key}{where}"
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
    low: Any = value.get("low")
    high: Any = value.get("high")
    step: Any = value.get("step")
    if not (fits(low, float) and fits(high, float) and low < high and math.isfinite(high - low)):
        raise UserError(f"{given} must have a low below its high, each a finite number such as 1.0e-3.")
    if not fits(value.get("log", False), bool) or not fits(step, PositiveFloat | None):
        raise UserError(f"{given} must have true or false for log, and a number above 0 for step.")
    log = value.get("log", False)
    if log and (low <= 0 or step is not None):
        raise UserError(f"{given} is logarithmic, so low must be above 0, and there is no step.")
    whole = isinstance(low, int) and isinstance(high, int)
    if step is not None and ((whole and not isinstance(step, int)) or not _divides(step, high - low)):
        raise UserError(f"{given} must have a step that leads from low to high.")
    return Parameter(low, high, log, step)


def _divides(step: float, length: float) -> bool:
    """Return whether the length is a whole number of steps, up to rounding."""
    count = length / step
    return abs(count - round(count)) < 1e-9 * max(1.0, count)
