"""Read and check the definition of a study from its YAML file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from hydra.core.override_parser.types import ChoiceSweep, Override, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from charlab.configuration.messages import nearest, one_sentence, similar
from charlab.configuration.overrides import LONGEST_NAME, key_of, label, parse, short_keys, shortened
from charlab.errors import UserError
from charlab.studies.parameters import Tune, Tuned, check_settings, read_parameters, read_seeds, read_tune
from charlab.types import PositiveFloat, PositiveInt, describe, display, fits

FEWEST_AT_A_LOOK = 6  # seeds
FEWEST_SIZES = 4  # in the fit of a law, which has three parameters
FIRST_SEED = 305  # the first seed of a study that gives only the number of seeds
FOLDER = re.compile(r"\w[\w.+=-]*")
SHORTENED = re.compile(r"~[0-9a-f]{8}$")

Expectation = Literal["improve", "worsen", "no difference"]
EXPECTATIONS: tuple[str, ...] = get_args(Expectation)
EXPECTED_TO: Mapping[Expectation, str] = {
    "improve": "improve",
    "worsen": "worsen",
    "no difference": "make no difference",
}
Budget = Literal["steps", "characters", "flops", "seconds", "parameters"]
Rerun = Literal["older", "edited", "diverged", "timed out", "all"]
_ARM_KEYS = ("overrides", "expect", "tune")


@dataclass(frozen=True)
class Arm:
    """One setting of a study.

    Attributes:
        expect: the effect that the hypothesis predicts, compared with the baseline.
        factors: the varied values by name, for tables; empty if the arms are listed explicitly.
        paired: whether each seed gives it the same windows in the same order as the baseline.
        tuned: the values that tuning chose, which are among the overrides; None if it was not tuned.
    """

    name: str
    overrides: tuple[str, ...]
    expect: Expectation = "improve"
    factors: Mapping[str, str] = field(default_factory=dict)
    paired: bool = True
    tuned: Tuned | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that a study's plan takes from its file as they are; see `conf/study/_base.yaml`."""

    hypothesis: str = ""
    kind: Literal["comparison", "scaling"] = "comparison"
    held_out: str | None = None
    against: Literal["parameters", "flops"] = "parameters"
    metric: Literal["nll", "steps_to", "seconds_to"] = "nll"
    target: PositiveFloat | None = None
    protocol: Literal["blocks", "sliding", "estimate"] = "blocks"
    margin: PositiveFloat = 0.01
    budget: Budget = "steps"
    time_limit: PositiveFloat | None = None
    fail_fast: bool = False
    records: str = "records"


TYPES: dict[str, Any] = {
    "name": str | None,
    "baseline": str | None,
    "overrides": list[str],
    "arms": dict,
    "grid": dict | None,
    "sizes": dict,
    "seeds": PositiveInt | list[int],
    "looks": list[PositiveInt] | None,
    "tune": dict | None,
    "rerun": list[Rerun],
    **get_type_hints(Settings, include_extras=True),
}
"""Types of the values in `conf/study/_base.yaml`, by key."""


@dataclass(frozen=True, kw_only=True)
class Definition(Settings):
    """A study as its file describes it.

    Attributes:
        arms: the arms listed in the file or expanded from its grid or sizes, baseline first; empty for a sweep.
        seeds: empty if an ordinary sweep determines them.
        looks: number of seeds at each planned look; empty for a study that is tested once.
        tune: the search of each tuned arm, by name, all with the same budget of trials; empty if no arm is tuned.
    """

    name: str | None
    overrides: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    tune: Mapping[str, Tune]
    rerun: tuple[Rerun, ...]


def define(node: DictConfig, choice: str | None) -> Definition:
    """Return the study that the node `study` of a configuration describes.

    Args:
        choice: name of the study's file; None for an ordinary sweep, whose arms follow from its overrides.
    """
    values, where = settings(node, "study", choice, TYPES), in_file("study", choice)
    name = values["name"] or (choice.replace("/", "-") if choice else None)
    if name is not None:
        check_folder_name(name, f"study.name={name!r} is not")
    arms = () if choice is None else _arms(values, where)
    looks = _looks(values["looks"], where)
    _check_target(values, where)
    _check_scaling(values, where)
    seeds = () if choice is None else _seeds(values["seeds"], looks, where)
    return Definition(
        name=name,
        overrides=tuple(values["overrides"]),
        arms=arms,
        seeds=seeds,
        looks=looks,
        tune=_tune(values, arms, seeds, where),
        rerun=tuple(values["rerun"]),
        **{setting.name: values[setting.name] for setting in fields(Settings)},
    )


def in_file(group: str, choice: str | None) -> str:
    """Return where the settings of a study or search are, for messages; "" for an ordinary sweep."""
    return f" (in {group}/{choice}.yaml)" if choice else ""


def settings(node: DictConfig, group: str, choice: str | None, types: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a node of the configuration by key, after checking their types."""
    where = in_file(group, choice)
    try:
        plain = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{group}{where} cannot be resolved: {one_sentence(error)}") from None
    if not isinstance(plain, dict):
        raise UserError(f"{group}{where} must have settings by their names, not {display(plain)}.")
    values = {str(key): value for key, value in plain.items()}
    if isinstance(values.get("rerun"), str):
        values["rerun"] = [values["rerun"]]
    check_settings(values, types, group, where)
    return values


def check_folder_name(name: str, subject: str) -> None:
    """Check that a name is valid for a folder on every file system."""
    if not FOLDER.fullmatch(name) or shortened(name) != name:
        allowed = f"letters, digits and the signs _ . + = - only, {LONGEST_NAME} at most"
        raise UserError(f"{subject} a valid folder name: use {allowed}.")


def _arms(values: Mapping[str, Any], where: str) -> tuple[Arm, ...]:
    if values["arms"] and values["grid"]:
        raise UserError(f"study.arms and study.grid{where} exclude each other: keep one of them.")
    if values["grid"]:
        arms = grid_arms(_grid(values["grid"], where))
    else:
        arms = [_arm(str(name), arm, where) for name, arm in values["arms"].items()]
    baseline, sizes = values["baseline"], values["sizes"]
    if values["kind"] == "scaling" and arms and sizes:
        arms = [
            replace(
                sized := _arm(f"{arm.name}+{size}", overrides, where),
                overrides=(*arm.overrides, *sized.overrides),
                factors={"family": arm.name, "size": str(size)},
            )
            for arm in arms
            for size, overrides in sizes.items()
        ]
        baseline = baseline and f"{baseline}+{next(iter(sizes))}"
    check_names(arms)
    names = [arm.name for arm in arms]
    if len(arms) < 2:
        raise UserError(f"study.arms{where} must be a baseline and at least one more, not {len(arms)}.")
    if baseline is None:
        raise UserError(f"study.baseline{where} is missing{nearest('', names)}")
    if baseline not in names:
        raise UserError(f"study.baseline={baseline}{where} is none of the arms{nearest(baseline, names)}")
    return tuple(sorted(arms, key=lambda arm: arm.name != baseline))


def _arm(name: str, value: Any, where: str) -> Arm:
    what, expect = f"The arm {name}{where}", "improve"
    check_folder_name(name, f"{what} does not have")
    if isinstance(value, Mapping):
        for key in map(str, value):
            if key not in _ARM_KEYS:
                raise UserError(f"{what} has no key {key}{nearest(key, _ARM_KEYS)}")
        expect = value.get("expect", "improve")
        if not fits(expect, Expectation):
            hint = similar(expect, EXPECTATIONS) if isinstance(expect, str) else "."
            raise UserError(f"{what} has expect={display(expect)}; it must be {describe(Expectation)}{hint}")
        value = value.get("overrides")
    value = [] if value is None else value  # an arm without overrides, such as a baseline
    if not fits(value, list[str]):
        raise UserError(f"{what} must be a list of overrides, each as on the command line, not {display(value)}.")
    return Arm(name, tuple(value), expect)  # type: ignore[arg-type]


def _tune(values: Mapping[str, Any], arms: Sequence[Arm], seeds: Sequence[int], where: str) -> dict[str, Tune]:
    """Return the search of each tuned arm, by name."""
    arms_given = {str(name): value for name, value in values["arms"].items()}  # a name in YAML may be a number
    own = {name: value["tune"] for name, value in arms_given.items() if isinstance(value, dict) and "tune" in value}
    if values["tune"] is None:
        for name in own:
            raise UserError(
                f"The arm {name}{where} has the key tune, which needs study.tune: give it, or leave it out."
            )
        return {}
    if not where:
        raise UserError("study.tune needs a study with arms, and an ordinary sweep has none: use a search instead.")
    if values["metric"] != "nll":
        raise UserError(
            f"study.tune{where} chooses by the loss on dev text at the end, and study.metric={values['metric']} asks "
            "for something else: keep one of them."
        )
    shared, tunes = read_tune(values["tune"], seeds, where), {}
    for arm in arms:
        wanted, parameters = own.get(arm.name, True), shared.parameters
        if wanted is False:
            continue
        if isinstance(wanted, Mapping):
            parameters = read_parameters(wanted, f"study.arms.{arm.name}.tune", where)
        elif wanted is not True:
            given = display(wanted)
            raise UserError(f"The arm {arm.name}{where} has tune={given}; it must be parameters, or false.")
        for override in arm.overrides:
            if key_of(override) in parameters:
                raise UserError(f"The arm {arm.name}{where} sets {override}, which is tuned: leave it out there.")
        tunes[arm.name] = replace(shared, parameters=parameters)
    return tunes


def _grid(grid: Mapping[str, Any], where: str) -> dict[str, list[str]]:
    for key, options in grid.items():
        if not isinstance(options, list) or not options:
            raise UserError(f"study.grid.{key}{where} must be a list of values, not {display(options)}.")
    if all(len(options) == 1 for options in grid.values()):
        raise UserError(f"study.grid{where} has one value of each key: give a key two or more to compare.")
    return {str(key): list(map(typed, options)) for key, options in grid.items()}


def grid_arms(grid: Mapping[str, list[str]]) -> list[Arm]:
    """Return an arm for each combination of values, named after the values."""
    short, arms = short_keys(list(grid)), []
    for combination in itertools.product(*grid.values()):
        factors = dict(zip(short, (text.strip("\"'") for text in combination), strict=True))
        overrides = tuple(f"{key}={value}" for key, value in zip(grid, combination, strict=True))
        arms.append(Arm(shortened("+".join(itertools.starmap(label, factors.items()))), overrides, factors=factors))
    return arms


def read(override: str) -> Override:
    """Return the parsed override."""
    try:
        parsed = parse(override)
        value = parsed.value()
    except HydraException:
        raise UserError(
            f"{override} cannot be read: give one value, or several with commas between them; quote a value that has "
            "special characters, and close every bracket and quote."
        ) from None
    if isinstance(value, ChoiceSweep) and any(isinstance(part, Sweep) for part in value.list):
        raise UserError(f"{override} has several values within several: list them all in one choice.")
    return parsed


def check_names(arms: list[Arm]) -> None:
    """Check that arm names are unique, also on file systems that ignore case."""
    seen: dict[str, str] = {}
    for arm in arms:
        former = seen.setdefault(arm.name.lower(), arm.name)
        if former is not arm.name:
            names = former if former == arm.name else f"{former} and {arm.name}, which file systems may take for one"
            raise UserError(f"Two arms of the study are named {names}: give each a name of its own.")


def _check_scaling(values: Mapping[str, Any], where: str) -> None:
    sizes, held_out = list(map(str, values["sizes"])), values["held_out"]
    if values["kind"] != "scaling":
        if sizes or held_out is not None:
            raise UserError(f"study.sizes and study.held_out{where} need study.kind=scaling.")
        return
    if not where:
        raise UserError("study.kind=scaling needs a study with arms, and an ordinary sweep has none.")
    for key, absent in (("metric", "nll"), ("looks", None), ("tune", None), ("grid", None)):
        if values[key] != absent:
            raise UserError(f"study.{key}{where} has no place in a scaling study: leave it out.")
    if held_out not in sizes:
        raise UserError(f"study.held_out{where} must be one of study.sizes{nearest(str(held_out or ''), sizes)}")
    if len(sizes) <= FEWEST_SIZES:
        raise UserError(
            f"study.sizes{where} must be {FEWEST_SIZES} to fit and a larger one to test the law, not {len(sizes)}."
        )


def _check_target(values: Mapping[str, Any], where: str) -> None:
    metric, target, margin = values["metric"], values["target"], values["margin"]
    given = f"study.metric={metric}{where}"
    if metric == "nll":
        if target is not None:
            raise UserError(f"study.target={target:g}{where} needs study.metric=steps_to or seconds_to.")
    elif target is None:
        raise UserError(f"{given} needs the loss to reach: give study.target=1.60, for instance.")
    elif margin <= 1:
        raise UserError(f"{given} has a ratio as its margin, so study.margin={margin:g} must be above 1: 1.1 is 10%.")
    elif values["looks"] is not None:
        raise UserError(f"{given} cannot be tested at planned looks: leave out study.looks, and give study.seeds.")


def _looks(looks: list[int] | None, where: str) -> tuple[int, ...]:
    if looks is None:
        return ()
    given = f"study.looks={display(looks)}{where}"
    if not where:
        raise UserError(f"{given} needs a study with a hypothesis, and an ordinary sweep has none: leave it out.")
    if not looks or any(after <= before for before, after in itertools.pairwise(looks)):
        raise UserError(f"{given} must increase: give the numbers of seeds at which to look, such as [6, 9, 12, 16].")
    if looks[0] < FEWEST_AT_A_LOOK:
        raise UserError(f"{given} begins with too few seeds for the test: use {FEWEST_AT_A_LOOK} or more.")
    return tuple(looks)


def _seeds(seeds: int | list[int], looks: tuple[int, ...], where: str) -> tuple[int, ...]:
    if looks and isinstance(seeds, int):
        seeds = looks[-1]
    listed = read_seeds(seeds, FIRST_SEED, "study.seeds")
    if looks and len(listed) != looks[-1]:
        raise UserError(
            f"study.seeds{where} lists {len(listed)} seeds, but the last of study.looks is at {looks[-1]}: make them "
            "equal, or leave out the seeds."
        )
    if len(listed) < 2:
        raise UserError(f"study.seeds={display(seeds)} is one seed, too few for a verdict: give at least six.")
    return listed


def typed(value: Any) -> str:
    """Return a YAML value as typed on the command line."""
    return display(value) if value is None or isinstance(value, bool) else str(value)
