"""Check a composed configuration: every key is known, every value has the right type, every part can be built.

The constructors are the schema. Checks that need no imports run first, then those of the parts that need only torch
(the model and the data, for example), then those that need Lightning, so each mistake is reported as early as possible.
"""

from __future__ import annotations

import os
import re
import tempfile
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from pydantic import FiniteFloat

from charlab.configuration.build import INSTRUCTIONS, KNOWN_AT_RUN_TIME, Signature, signature
from charlab.configuration.messages import all_keys, find_user_error, one_sentence, similar, unknown_key
from charlab.configuration.overrides import SWEEP_KEYS
from charlab.configuration.sources import hydra_config
from charlab.errors import UserError
from charlab.quantities import joined
from charlab.types import NonNegativeOrInfinite, display, fits, requirement

if TYPE_CHECKING:
    from charlab.configuration.sources import Composition

LIGHTNING_FREE = ("model", "optimizer", "scheduler")
"""Parts checked before Lightning is imported."""
OWN_VALUES = (("trainer.precision", "auto"),)
"""Values that charlab accepts in addition to those that another library's parameter allows."""
FINITE_FLOAT_TARGETS = ("torch.", "lightning.pytorch.Trainer")
"""Prefixes of targets whose parameters are declared as any float, but mean nothing when infinite or NaN."""
UNLIMITED_WHEN_INFINITE: dict[str, Any] = {"trainer.gradient_clip_val": NonNegativeOrInfinite | None}
"""Types of those of their parameters for which infinity means no limit."""
PARTS = (*LIGHTNING_FREE, "data", "objective", "averaging", "trainer")
"""Parts that consist of one object each."""
COMPONENTS = ("callbacks", "logger")
"""Groups of parts under names that users choose."""
OVERLAYS = ("experiment", "local")
"""Groups whose files set keys of the whole configuration."""
_LONGEST_NAME = 200  # bytes; file systems allow 255
_DEEPEST = 100  # levels of a configuration


def resolved(config: DictConfig, composition: Composition, *, complete: bool) -> dict[str, Any]:
    """Return a configuration as plain dictionaries and lists, resolved and without Hydra's own node.

    A missing value (`???`) is an error if the configuration is to be `complete`, else `KNOWN_AT_RUN_TIME`.
    """
    whole = OmegaConf.to_container(config, resolve=False)

    def value(node: Any, key: Any, raw: Any, path: str) -> Any:
        if raw == "???":
            if complete:
                raise UserError(f"{path} is missing: give {path}=….")
            return KNOWN_AT_RUN_TIME
        if not isinstance(raw, dict | list) and not (isinstance(raw, str) and "${" in raw):
            return raw
        try:
            found = node[key]
        except InterpolationToMissingValueError:
            return KNOWN_AT_RUN_TIME
        except InterpolationKeyError:
            raise UserError(
                f"{path}{composition.place(path)} refers to {raw}, which does not exist"
                f"{similar(str(raw).strip('${}'), all_keys(whole))}"
            ) from None
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            mistake = find_user_error(error)  # of a resolver
            raise (mistake or UserError(f"{path}{composition.place(path)} cannot be resolved: {reason}.")) from None
        if isinstance(found, Container):
            return content(found, raw if isinstance(raw, dict | list) else OmegaConf.to_container(found), path)
        return KNOWN_AT_RUN_TIME if found is None and "${hydra:" in str(raw) else found

    def content(node: Any, raw: Any, path: str) -> Any:
        if len(re.findall(r"[.\[]", path)) > _DEEPEST:
            raise UserError("An interpolation refers to the mapping or list that it is in: let it refer to a value.")
        if isinstance(raw, list):
            return [value(node, index, part, f"{path}[{index}]") for index, part in enumerate(raw)]
        kept = {key: part for key, part in raw.items() if path or key != "hydra"} if isinstance(raw, dict) else {}
        if len({isinstance(key, str) for key in kept}) > 1:  # JSON sorts them
            raise UserError(f"{path}{composition.place(path)} has keys of several types: put all of them in quotes.")
        return {key: value(node, key, part, _join(path, key)) for key, part in kept.items()}

    tree: dict[str, Any] = content(config, whole, "")
    return tree


def check_values(tree: dict[str, Any], composition: Composition, values: Mapping[str, Any]) -> None:
    """Check the keys and values that are not constructor arguments, without importing anything.

    Args:
        tree: the resolved configuration.
        composition: the composition that produced it.
        values: types by dotted key.
    """
    for path, annotation in values.items():
        parent, _, key = path.rpartition(".")
        node: Any = tree
        for part in parent.split(".") if parent else ():
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or key not in node:
            raise UserError(f"The configuration has no {path}: do not delete it.")
        _check_value(node[key], path, annotation, composition)
    _check_keys(tree, "", composition, values)
    for part in PARTS:
        if part in values and isinstance(tree[part], dict) and "_target_" not in tree[part]:
            raise UserError(f"{part} has no _target_: let its file name what to build, _target_: MODULE.CLASS.")
    _check_folders(tree, names_folder=values.get("name") is str)
    for group in COMPONENTS:
        for key, component in (tree.get(group) or {}).items():
            if component is not None and not (isinstance(component, dict) and "_target_" in component):
                raise UserError(
                    f"{group}.{key} must be a mapping with a _target_, or null, which leaves it out; "
                    f"change what is in it with {group}.{key}.KEY=…."
                )


def _check_keys(node: dict[str, Any], path: str, composition: Composition, values: Mapping[str, Any]) -> None:
    """Check the keys of a mapping that has no `_target_`."""
    for key, value in node.items():
        inner = _join(path, key)
        _check_misplaced(key, node, path, composition)
        constructed = isinstance(value, dict) and "_target_" in value
        further = bool(path) and constructed  # for example, a callback that the user added
        known = any(name == inner or name.startswith(f"{inner}.") for name in values)
        if not known and not further and inner not in composition.declared:
            names = {name[len(path) + 1 if path else 0 :].partition(".")[0] for name in composition.declared}
            siblings = {name for name in names if _join(path, name) in composition.declared} - {"hydra"}
            raise unknown_key(inner, siblings, composition.declared, composition.place(inner))
        if isinstance(value, dict) and not constructed and inner not in SWEEP_KEYS:
            _check_keys(value, inner, composition, values)


def _check_misplaced(key: Any, node: dict[str, Any], path: str, composition: Composition) -> None:
    """Check that a file means the key that it sets: not one with dots, or one below its group, which nothing reads."""
    inner = _join(path, key)
    outer, dot, rest = str(key).partition(".")
    if dot and outer in (*node, "hydra"):
        nested = rest.replace(".", ": {")
        raise UserError(
            f"{inner}{composition.place(inner)} is one key with a dot in its name, which sets nothing: write "
            f"{outer}: {{{nested}: …{'}' * (rest.count('.') + 1)}."
        )
    if path or key not in OVERLAYS or key not in composition.declared or not isinstance(node[key], dict):
        return
    for name, value in node[key].items():
        if name in node and isinstance(value, dict) == isinstance(node[name], dict):
            own = f"{inner}.{name}"
            raise UserError(
                f"{own}{composition.place(own)} sets nothing: begin the file with the line # @package _global_, so "
                f"that it sets {name}."
            )


def _check_folders(tree: dict[str, Any], *, names_folder: bool) -> None:
    """Check the values that folders are named after, and the seed."""
    name, seed = tree.get("name"), tree.get("seed")
    if isinstance(name, str) and names_folder and not re.fullmatch(r"\w[\w.+-]*", name):
        raise UserError(f"name={name!r} is not a valid folder name: use letters, digits and the signs _ . + - only.")
    if isinstance(name, str) and len(name.encode()) > _LONGEST_NAME:
        raise UserError(f"name has {len(name.encode())} bytes, too many for a folder: use {_LONGEST_NAME} at most.")
    for key, value in tree.items() if names_folder else ():
        text = " ".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else ""
        if (shown := text.encode(errors="backslashreplace").decode()) != text:
            raise UserError(f"{key}={shown} is not UTF-8, so it cannot be recorded: write it in UTF-8.")
    for key in ("output_dir", "output"):
        if tree.get(key) == "":  # an unset variable of the shell, and what is written would be among the user's files
            raise UserError(f"{key} is empty: name a folder, or {key}=. for the one you are in.")
    data = tree.get("data")
    if isinstance(data, dict) and data.get("path") == "":  # all files in the working folder would be the text
        raise UserError("data.path is empty: name a file, or data.path=. for all files in the folder that you are in.")
    if isinstance(seed, int) and not -(2**63) <= seed < 2**63:
        raise UserError(f"seed={seed} is too large for a random-number generator: give at most 18 digits.")


def output_folder(config: DictConfig, *, sweep: bool) -> Path | None:
    """Return a job's output folder; None if only the job of a sweep will know it.

    The folder's name depends on the training text, so this reads the text.

    Raises:
        UserError: if it cannot be resolved.
    """
    node = config.hydra
    try:
        with hydra_config(config):
            named = [node.sweep.dir, node.sweep.subdir] if sweep else [node.run.dir]
    except (InterpolationToMissingValueError, MissingMandatoryValue):
        if sweep:
            return None  # a pattern that the user has set, perhaps with the job's number
        raise UserError(
            "hydra.run.dir needs a value that a single run lacks, such as hydra.job.num: name a folder without it."
        ) from None
    except OmegaConfBaseException as error:
        raise (find_user_error(error) or UserError(one_sentence(error))) from None
    if named == [""]:  # all files of the run would be among the user's
        raise UserError("hydra.run.dir is empty: name a folder, or hydra.run.dir=. for the one you are in.")
    return Path(*named)


def check_output_folder(folder: Path | None) -> None:
    """Check that a job's output folder, as `output_folder` returns it, can be created."""
    if folder is None:
        return
    existing = next(parent for parent in [folder, *folder.absolute().parents] if os.path.lexists(parent))
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".charlab-"):
            pass  # checking permissions is not enough: root has all of them but cannot create folders in /proc
    except OSError as error:
        reason = "is a file" if existing.is_file() else f"allows no new folder ({error.strerror})"
        raise UserError(
            f"{folder} cannot be created, because {existing} {reason}: choose another place with output_dir=…."
        ) from None


def check_parts(tree: dict[str, Any], composition: Composition) -> None:
    """Check every part against the signature of its `_target_`, then build the model and the parts that train it."""
    parts = {key: value for key, value in tree.items() if key not in SWEEP_KEYS and isinstance(value, dict)}
    first = {key: parts[key] for key in LIGHTNING_FREE if key in parts}
    for key, part in first.items():
        check_constructions(part, key, composition)
    if first.get("model", {}).get("_target_") and "data" in parts:
        from charlab.configuration.trial_build import build_data_and_objective, build_model

        model = build_model(tree)
        for key in ("data", "objective", "averaging"):
            check_constructions(parts.get(key), key, composition)
        build_data_and_objective(tree, model)
    for key, part in parts.items():
        if key not in first:
            check_constructions(part, key, composition)


def check_constructions(value: Any, path: str, composition: Composition) -> None:
    """Check every mapping with a `_target_` inside a value."""
    if isinstance(value, list):
        for index, part in enumerate(value):
            check_constructions(part, f"{path}[{index}]", composition)
    elif isinstance(value, dict) and "_target_" in value:
        _check_construction(value, path, composition)
    elif isinstance(value, dict):
        for key, part in value.items():
            check_constructions(part, _join(path, key), composition)


def _check_construction(node: dict[str, Any], path: str, composition: Composition) -> None:
    """Check a mapping with a `_target_` against the signature of its target."""
    target = node["_target_"]
    if not isinstance(target, str):
        raise UserError(f"{path}._target_ must be the dotted name of a class or function, not {display(target)}.")
    try:
        known = signature(target)
    except UserError as error:
        raise UserError(f"{path}._target_{composition.place(f'{path}._target_')}: {error}") from error.__cause__
    given = [key for key in node if key not in INSTRUCTIONS]
    if composition.is_typed(f"{path}._target_"):
        _check_left_over(given, path, target, known, composition)
    for key in given:
        inner, value = _join(path, key), node[key]
        if key in known.supplied:
            raise UserError(f"{inner} cannot be configured{composition.place(inner)}: the program supplies it.")
        if not known.takes(key):
            names = set(known.annotations) - known.supplied
            raise unknown_key(inner, names, composition.declared, composition.place(inner))
        check_constructions(value, inner, composition)
        if not _is_constructed(value):
            _check_value(value, inner, known.annotations.get(key, Any), composition)
        if type(value) in (int, float) and target.startswith(FINITE_FLOAT_TARGETS):
            _check_value(value, inner, UNLIMITED_WHEN_INFINITE.get(inner, FiniteFloat), composition)
    later = node.get("_partial_") and not target.startswith("charlab.")  # the call of a partial may have the rest
    if not later and (lacking := sorted(known.required - set(given))):
        raise UserError(f"{path}.{lacking[0]} is missing: {target} needs it.")


def _check_left_over(
    given: Collection[str], path: str, target: str, known: Signature, composition: Composition
) -> None:
    """Check that a `_target_` typed in place of a file's own takes the arguments that the file sets."""
    places = {_join(path, key): composition.place(_join(path, key)) for key in given if not known.takes(key)}
    if left_over := [key for key, place in places.items() if place]:
        them = "them" if len(left_over) > 1 else "it"
        raise UserError(
            f"{target} does not take {joined(left_over)}{places[left_over[0]]}: leave {them} out with "
            f"{' '.join(f'~{key}' for key in left_over)}."
        )


def _check_value(value: Any, path: str, annotation: Any, composition: Composition) -> None:
    if value is not KNOWN_AT_RUN_TIME and (path, value) not in OWN_VALUES and not fits(value, annotation):
        hint = similar(value, _choices(annotation)) if isinstance(value, str) else "."
        raise UserError(f"{path}{composition.place(path)} must be {requirement(value, annotation)}{hint}")


def _is_constructed(value: Any) -> bool:
    """Return whether a value, or an item of a list, has a `_target_`; its type is unknown until it is built."""
    if isinstance(value, list):
        return any(map(_is_constructed, value))
    return isinstance(value, dict) and "_target_" in value


def _choices(annotation: Any) -> Collection[str]:
    """Return the strings that a type allows, also inside a union such as `Literal["a", "b"] | None`."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return [choice for choice in arguments if isinstance(choice, str)]
    return [choice for argument in arguments for choice in _choices(argument)]


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
