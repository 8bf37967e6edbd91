"""Read and check the definition of a study from its YAML file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from hydra.core.override_parser.types import ChoiceSweep, Override, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from charlab.configuration.messages import nearest, one_sentence, similar
from charlab.configuration.overrides import LONGEST_NAME, label, parse, short_keys, shortened
from charlab.errors import UserError
from charlab.studies.parameters import Parameter, Tune, Tuned, read_parameters, read_tune
from charlab.types import PositiveFloat, PositiveInt, describe, display, fits

FEWEST_AT_A_LOOK = 6  # seeds
FEWEST_SIZES = 4  # in the fit of a law, which has three parameters
FIRST_SEED = 305  # the first seed of a study that gives only the number of seeds
FOLDER = re.compile(r"\w[\w.+=-]*")
SHORTENED = re.compile(r"~[0-9a-f]{8}$")

Expectation = Literal["improve", "worsen", "no difference"]
Budget = Literal["steps", "characters", "flops", "seconds", "parameters"]
SHARED = ("hypothesis", "kind", "held_out", "against", "metric", "target", "protocol", "margin", "budget", "records")
_ARM_KEYS = ("overrides", "expect", "tune")
EXPECTATIONS: tuple[str, ...] = get_args(Expectation)
Kind = Literal["comparison", "scaling"]
Rerun = Literal["older", "edited", "diverged", "timed out", "all"]

TYPES: dict[str, Any] = {
    "name": str | None,
    "hypothesis": str,
    "baseline": str | None,
    "overrides": list[str],
    "arms": dict,
    "grid": dict | None,
    "kind": Literal["comparison", "scaling"],
    "sizes": dict,
    "held_out": str | None,
    "against": Literal["parameters", "flops"],
    "seeds": PositiveInt | list[int],
    "looks": list[PositiveInt] | None,
    "tune": dict | None,
    "metric": Literal["nll", "steps_to", "seconds_to"],
    "target": PositiveFloat | None,
    "protocol": Literal["blocks", "sliding", "estimate"],
    "margin": PositiveFloat,
    "budget": Budget,
    "time_limit": PositiveFloat | None,
    "fail_fast": bool,
    "rerun": list[Rerun],
    "records": str,
}
"""Types of the values in `conf/study/_base.yaml`, by key."""


@dataclass(frozen=True)
class Arm:
    """One setting of a study.

    Attributes:
        name: name, unique within the study and usable for a folder.
        overrides: the overrides that define it, as on the command line.
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


@dataclass(frozen=True)
class Definition:
    """The settings of a study; see `conf/study/_base.yaml`.

    Attributes:
        arms: the arms listed in the file or expanded from its grid, baseline first; empty for an ordinary sweep.
        seeds: empty if an ordinary sweep determines them.
        looks: number of seeds at each planned look; empty for a study that is tested once.
        kind: "comparison", or "scaling" for a law over sizes, whose arms are those of the file at each of its sizes.
        held_out: the size of a scaling study that takes no part in the fit.
        against: what a size is measured by.
        tune: what to seek for each arm that is tuned, by name, within the same budget of trials; empty for none.
    """

    name: str | None
    hypothesis: str
    baseline: str | None
    overrides: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    tune: Mapping[str, Tune]
    kind: Kind
    held_out: str | None
    against: Literal["parameters", "flops"]
    metric: str
    target: float | None
    protocol: str
    margin: float
    budget: Budget
    time_limit: float | None
    fail_fast: bool
    rerun: tuple[Rerun, ...]
    records: str


def define(node: DictConfig, choice: str | None) -> Definition:
    """Return the study that the node `study` of a configuration describes.

    Args:
        node: the composed node.
        choice: name of the study's file; None for an ordinary sweep, whose arms follow from its overrides.

    Raises:
        UserError: for the first mistake found.
    """
    values = settings(node, "study", choice, TYPES)
    name = values["name"] or (choice.replace("/", "-") if choice else None)
    if name is not None:
        check_folder_name(name, f"study.name={name!r} is")
    arms = _arms(values, choice) if choice is not None else ()
    looks = _looks(values["looks"], choice)
    _check_target(values, choice)
    _check_scaling(values, choice)
    seeds = _seeds(values["seeds"], looks, choice) if choice is not None else ()
    shared = {key: values[key] for key in SHARED}
    return Definition(
        **shared,
        name=name,
        baseline=values["baseline"],
        overrides=tuple(values["overrides"]),
        arms=arms,
        seeds=seeds,
        looks=looks,
        tune=_tune(values, arms, seeds, choice),
        time_limit=values["time_limit"],
        fail_fast=values["fail_fast"],
        rerun=tuple(values["rerun"]),
    )


def settings(node: DictConfig, group: str, choice: str | None, types: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a node of the configuration by key, after checking their types.

    Args:
        node: the composed node.
        group: the node's key and group: study or search.
        choice: name of the file; None if none was chosen.
        types: type of each setting.

    Raises:
        UserError: for the first mistake found.
    """
    place = _place(choice, group)
    try:
        plain = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{group}{place} cannot be resolved: {one_sentence(error)}") from None
    if not isinstance(plain, dict):
        raise UserError(f"{group}{place} must have settings by their names, not {display(plain)}.")
    values = {str(key): value for key, value in plain.items()}
    for key in values:
        if key not in types:
            raise UserError(f"There is no key {group}.{key}{place}{nearest(key, types, f'{group}.')}")
    if isinstance(values.get("rerun"), str):
        values["rerun"] = [values["rerun"]]
    for key, annotation in types.items():
        if key not in values:
            raise UserError(f"{group}.{key}{place} is missing: begin the file with defaults: [_base, _self_].")
        if not fits(values[key], annotation):
            raise UserError(f"{group}.{key}{place} must be {describe(annotation)}, not {display(values[key])}.")
    return values


def check_folder_name(name: str, subject: str) -> None:
    """Check that a name can be that of a folder on every file system.

    Raises:
        UserError: if it cannot; the sentence begins with `subject`.
    """
    if not FOLDER.fullmatch(name) or shortened(name) != name:
        allowed = f"letters, digits and the signs _ . + = - only, {LONGEST_NAME} at most"
        raise UserError(f"{subject} no name for a folder: use {allowed}.")


def _arms(values: Mapping[str, Any], choice: str) -> tuple[Arm, ...]:
    if values["arms"] and values["grid"]:
        raise UserError(f"study.arms and study.grid{_place(choice)} exclude each other: keep one of them.")
    if values["grid"]:
        arms = grid_arms(_grid(values["grid"], choice))
    else:
        arms = [_arm(str(name), arm, choice) for name, arm in values["arms"].items()]
    baseline = values["baseline"]
    if values["kind"] == "scaling" and arms and isinstance(values["sizes"], Mapping):
        arms = [
            replace(
                sized := _arm(f"{arm.name}+{size}", list(overrides or ()), choice),
                overrides=(*arm.overrides, *sized.overrides),
                factors={"family": arm.name, "size": str(size)},
            )
            for arm in arms
            for size, overrides in values["sizes"].items()
        ]
        baseline = baseline if baseline is None or not values["sizes"] else f"{baseline}+{next(iter(values['sizes']))}"
    check_names(arms)
    names = [arm.name for arm in arms]
    if len(arms) < 2:
        raise UserError(f"study.arms{_place(choice)} must be a baseline and at least one more, not {len(arms)}.")
    if baseline is None:
        raise UserError(f"study.baseline{_place(choice)} is missing{nearest('', names)}")
    if baseline not in names:
        raise UserError(f"study.baseline={baseline}{_place(choice)} is none of the arms{nearest(baseline, names)}")
    return tuple(sorted(arms, key=lambda arm: arm.name != baseline))


def _arm(name: str, value: Any, choice: str) -> Arm:
    where = f"The arm {name}{_place(choice)}"
    expect: Expectation = "improve"
    check_folder_name(name, f"{where} has")
    if isinstance(value, Mapping):
        for key in map(str, value):
            if key not in _ARM_KEYS:
                raise UserError(f"{where} has no key {key}{nearest(key, _ARM_KEYS)}")
        expect = value.get("expect", "improve")
        if not fits(expect, Expectation):
            hint = similar(expect, ("improve", "worsen", "no difference")) if isinstance(expect, str) else "."
            raise UserError(f"{where} has expect={display(expect)}; it must be {describe(Expectation)}{hint}")
        value = value.get("overrides")
    if value is None:  # an arm without overrides, such as a baseline
        value = []
    if not fits(value, list[str]):
        raise UserError(f"{where} must be a list of overrides, each as on the command line, not {display(value)}.")
    return Arm(name, tuple(value), expect)


def _tune(values: Mapping[str, Any], arms: Sequence[Arm], seeds: Sequence[int], choice: str | None) -> dict[str, Tune]:
    """Return how each arm is tuned, by name; without those that are not."""
    where = _place(choice)
    own = {
        arm.name: value["tune"]
        for arm in arms
        if isinstance(value := values["arms"].get(arm.name), Mapping) and "tune" in value
    }
    if values["tune"] is None:
        for name in own:
            raise UserError(
                f"The arm {name}{where} has the key tune, which needs study.tune: give it, or leave it out."
            )
        return {}
    if choice is None:
        raise UserError("study.tune needs a study with arms, and an ordinary sweep has none: use a search instead.")
    if values["metric"] != "nll":
        raise UserError(
            f"study.tune{where} chooses by the loss on dev text at the end, and study.metric={values['metric']} asks "
            "for something else: keep one of them."
        )
    shared, tunes = read_tune(values["tune"], seeds, where), {}
    for arm in arms:
        wanted = own.get(arm.name, True)
        if wanted is False:
            continue
        parameters: Mapping[str, Parameter] = shared.parameters
        if wanted is not True:
            if not isinstance(wanted, Mapping):
                raise UserError(
                    f"The arm {arm.name}{where} has tune={display(wanted)}; it must be parameters, or false."
                )
            parameters = read_parameters(wanted, f"study.arms.{arm.name}.tune", where)
        for override in arm.overrides:
            if override.lstrip("+~").partition("=")[0] in parameters:
                raise UserError(f"The arm {arm.name}{where} sets {override}, which is tuned: leave it out there.")
        tunes[arm.name] = Tune(parameters, shared.trials, shared.seeds)
    return tunes


def _grid(grid: Mapping[str, Any], choice: str) -> dict[str, list[str]]:
    listed = {}
    for key, options in grid.items():
        if not isinstance(options, list) or not options:
            raise UserError(f"study.grid.{key}{_place(choice)} must be a list of values, not {display(options)}.")
        listed[str(key)] = [typed(option) for option in options]
    if all(len(options) == 1 for options in listed.values()):
        raise UserError(f"study.grid{_place(choice)} has one value of each key: give a key two or more to compare.")
    return listed


def grid_arms(grid: Mapping[str, list[str]]) -> list[Arm]:
    """Return an arm for each combination of values, named after the values.

    Args:
        grid: values by key, as on the command line.
    """
    keys = list(grid)
    short = short_keys(keys)
    arms = []
    for combination in itertools.product(*grid.values()):
        factors = dict(zip(short, (text.strip("\"'") for text in combination), strict=True))
        overrides = tuple(f"{key}={value}" for key, value in zip(keys, combination, strict=True))
        name = shortened("+".join(itertools.starmap(label, factors.items())))
        arms.append(Arm(name, overrides, factors=factors))
    return arms


def read(override: str) -> Override:
    """Return the parsed override.

    Raises:
        UserError: if Hydra cannot read it.
    """
    try:
        parsed = parse(override)
        value = parsed.value()
    except HydraException:
        raise UserError(
            f"{override} cannot be read: give one value, or several with commas between them; quote a value that has "
            "signs of its own, and close what you open."
        ) from None
    if isinstance(value, ChoiceSweep) and any(isinstance(part, Sweep) for part in value.list):
        raise UserError(f"{override} has several values within several: list them all in one choice.")
    return parsed


def check_names(arms: list[Arm]) -> None:
    """Check that arm names are unique, also on file systems that ignore case.

    Raises:
        UserError: if two arms have the same name.
    """
    seen: dict[str, str] = {}
    for arm in arms:
        former = seen.setdefault(arm.name.lower(), arm.name)
        if former is not arm.name:
            names = former if former == arm.name else f"{former} and {arm.name}, which file systems may take for one"
            raise UserError(f"Two arms of the study are named {names}: give each a name of its own.")


def _check_scaling(values: Mapping[str, Any], choice: str | None) -> None:
    sizes, held_out, where = list(map(str, values["sizes"])), values["held_out"], _place(choice)
    if values["kind"] != "scaling":
        if sizes or held_out is not None:
            raise UserError(f"study.sizes and study.held_out{where} need study.kind=scaling.")
        return
    for key, absent in (("metric", "nll"), ("looks", None), ("tune", None), ("grid", None)):
        if values[key] != absent:
            raise UserError(f"study.{key}{where} has no place in a scaling study: leave it out.")
    if held_out not in sizes:
        raise UserError(f"study.held_out{where} must be one of study.sizes{nearest(str(held_out or ''), sizes)}")
    if len(sizes) <= FEWEST_SIZES:
        raise UserError(
            f"study.sizes{where} must be {FEWEST_SIZES} to fit and a larger one to test the law, not {len(sizes)}."
        )


def _check_target(values: Mapping[str, Any], choice: str | None) -> None:
    metric, target, margin = values["metric"], values["target"], values["margin"]
    where = f"study.metric={metric}{_place(choice)}"
    if metric == "nll":
        if target is not None:
            raise UserError(f"study.target={target:g}{_place(choice)} needs study.metric=steps_to or seconds_to.")
        return
    if target is None:
        raise UserError(f"{where} needs the loss to reach: give study.target=1.60, for instance.")
    if margin <= 1:
        raise UserError(f"{where} has a ratio as its margin, so study.margin={margin:g} must be above 1: 1.1 is 10%.")
    if values["looks"] is not None:
        raise UserError(f"{where} cannot be tested at planned looks: leave out study.looks, and give study.seeds.")


def _looks(looks: list[int] | None, choice: str | None) -> tuple[int, ...]:
    if looks is None:
        return ()
    where = f"study.looks={display(looks)}{_place(choice)}"
    if choice is None:
        raise UserError(f"{where} needs a study with a hypothesis, and an ordinary sweep has none: leave it out.")
    if not looks or any(after <= before for before, after in itertools.pairwise(looks)):
        raise UserError(f"{where} must increase: give the numbers of seeds at which to look, as [6, 9, 12, 16].")
    if looks[0] < FEWEST_AT_A_LOOK:
        raise UserError(f"{where} begins with too few seeds for the test: use {FEWEST_AT_A_LOOK} or more.")
    return tuple(looks)


def _seeds(seeds: int | list[int], looks: tuple[int, ...], choice: str) -> tuple[int, ...]:
    if looks and isinstance(seeds, int):
        seeds = looks[-1]
    listed = tuple(range(FIRST_SEED, FIRST_SEED + seeds)) if isinstance(seeds, int) else tuple(seeds)
    if looks and len(listed) != looks[-1]:
        raise UserError(
            f"study.seeds{_place(choice)} lists {len(listed)} seeds, but the last of study.looks is at {looks[-1]}: "
            "make them equal, or leave out the seeds."
        )
    for seed in listed:
        if listed.count(seed) > 1:
            raise UserError(f"study.seeds has {seed} twice: give each seed once.")
    if len(listed) < 2:
        raise UserError(f"study.seeds={display(seeds)} is one seed, by which nothing can be told: give at least six.")
    return listed


def typed(value: Any) -> str:
    """Return a YAML value as typed on the command line."""
    return display(value) if value is None or isinstance(value, bool) else str(value)


def _place(choice: str | None, group: str = "study") -> str:
    return f" (in {group}/{choice}.yaml)" if choice else ""
