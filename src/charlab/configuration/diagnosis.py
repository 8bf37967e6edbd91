"""From Hydra's composition errors to one sentence that names what is wrong and what is nearest to it."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MappingNode, MarkedYAMLError, Node, YAMLError

from charlab.configuration.check import all_keys, unknown_key
from charlab.configuration.extras import missing_extra
from charlab.configuration.loader import Loader
from charlab.configuration.nearest import nearest
from charlab.configuration.overrides import parse
from charlab.errors import UserError

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError)
"""What Hydra raises while it composes what a user has written."""
_DUPLICATE = "found duplicate key "
_PLACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG)
_INTERNAL = ("See https://", "full_key:", "object_type=", "reference_type=")


def diagnose(error: Exception, loader: Loader, config_name: str, overrides: list[str], *, multirun: bool) -> UserError:
    """Returns the error to show for one that Hydra raised while composing `overrides`."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MarkedYAMLError) and str(error.problem).startswith(_DUPLICATE):
        return _duplicate_key(error)
    if "Cannot merge DictConfig with ListConfig" in str(error):
        return UserError(
            "A list is laid over a mapping, or a mapping over a list: leave the part that is laid over out of the "
            "defaults list, as conf/model/hybrid.yaml does."
        )
    parsed = []
    for typed in overrides:
        try:
            parsed.append(parse(typed))
        except HydraException as failure:
            return _unreadable(typed, failure)
    for override in parsed:
        mistake = _mistaken_choice(override, loader, multirun=multirun)
        if mistake is not None:
            return mistake
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing_file(error.missing_cfg_file, loader, parsed)
    choices = [o for o in parsed if loader.is_group(o.key_or_group) and not isinstance(o.value(), Sweep | dict)]
    try:
        base = loader.load(config_name, [o.input_line or "" for o in choices], multirun=multirun)
    except COMPOSITION_ERRORS as failure:
        return _mistaken_group(failure, choices) or UserError(one_sentence(failure))
    for override in parsed:
        if override not in choices and not override.is_sweep_override():
            for key in _keys_set(override.key_or_group, override.value()):
                mistake = _mistaken_key(key, override, base)
                if mistake is not None:
                    return mistake
    return UserError(one_sentence(error))


def _duplicate_key(error: MarkedYAMLError) -> UserError:
    """Returns the error for a key that a file has twice; OmegaConf takes none of the two."""
    key, file, line = (
        str(error.problem).removeprefix(_DUPLICATE),
        Path(error.problem_mark.name),
        error.problem_mark.line,
    )
    place = f"{file.parent.name}/{file.name}, line {line + 1}"
    path = _path_to(yaml.compose(file.read_text(encoding="utf-8")), line, key) or key
    if path == f"arms.{key}":
        return UserError(f"Two arms are named {key} (in {place}): give each a name of its own.")
    return UserError(f"The key {path} stands twice (in {place}): keep one of them.")


def _path_to(node: Node, line: int, key: str) -> str | None:
    """Returns the dotted path of a key that stands on that line of a YAML file."""
    for name, value in node.value if isinstance(node, MappingNode) else ():
        if name.value == key and name.start_mark.line == line:
            return key
        inner = _path_to(value, line, key)
        if inner is not None:
            return f"{name.value}.{inner}"
    return None


def _unreadable(override: str, failure: HydraException) -> UserError:
    key, equals, _ = override.partition("=")
    if not equals:
        return UserError(f"{override!r} is not of the form key=value.")
    if not re.fullmatch(r"[+~]{0,2}[\w./@:$-]+", key):
        return UserError(f"{override!r} has no key that could be meant: write key=value.")
    evaluated = re.search(r"while evaluating '.*': (.*)", str(failure))
    if evaluated is not None:
        return UserError(f"The value of {override!r} cannot be read: {evaluated[1]}.")
    return UserError(
        f"The value of {override!r} cannot be read: close its brackets and quotes, "
        f"or put quotes within quotes to have it taken as text, '{key}=\"…\"'."
    )


def _mistaken_choice(override: Override, loader: Loader, *, multirun: bool) -> UserError | None:
    """Returns the error for an override that chooses something unknown, or more than may be chosen."""
    key, typed = override.key_or_group, override.input_line or ""
    if not key:
        return UserError(f"{typed!r} has no key before its =: write key=value.")
    if override.is_sweep_override() and not multirun:
        values = typed.partition("=")[2]
        return UserError(f"{typed} has several values: sweep over them with -m, or make them a list, {key}=[{values}].")
    if not loader.is_group(key):
        return UserError(f"There is no group {key}{nearest(key, loader.groups())}") if "/" in key else None
    if override.is_delete() or override.is_sweep_override():
        return None
    value = override.value()
    for choice in value if isinstance(value, list) else [value]:
        if not (isinstance(choice, dict) or (isinstance(choice, str) and loader.exists(key, choice))):
            named = str(choice) if choice is not None else "null"
            return UserError(f"There is no {key}={named}{nearest(named, loader.options(key))}")
    return None


def _missing_file(missing: str, loader: Loader, parsed: list[Override]) -> UserError:
    """Returns the error for an option that a file names and that does not exist."""
    group, _, option = missing.rpartition("/")
    absent = missing_extra(f"launcher={option}") if group == "hydra/launcher" else None
    if absent is not None:
        return absent
    if not group:
        return UserError(f"There is no configuration {missing}.yaml{nearest(option, loader.options(''))}")
    chosen = [f"{o.key_or_group}/{o.value()}" for o in parsed if loader.is_group(o.key_or_group)]
    naming = [name for name in [*chosen, "local/default"] if missing in loader.overrides_within(name)]
    place = f" (in {naming[0]}.yaml)" if naming else ""
    return UserError(f"There is no {group}={option}{place}{nearest(option, loader.options(group))}")


def _mistaken_group(error: Exception, choices: list[Override]) -> UserError | None:
    """Returns the error for a group that cannot be chosen the way it was."""
    message = str(error)
    for override in choices:
        key, typed = override.get_key_element(), override.input_line or ""
        if f"Could not override '{key}'" in message or f"Could not delete '{key.lstrip('~')}" in message:
            return UserError(f"{typed} has nothing to change: what else was chosen has no {override.key_or_group}.")
        if override.is_add() and f"{override.key_or_group}" in message:
            return UserError(f"{typed} chooses again what is chosen already: leave out the +.")
        if override.is_force_add():
            return UserError(f"{typed} chooses an option of a group: leave out the ++.")
    return None


def _keys_set(key: str, value: object) -> list[str]:
    """Returns the dotted keys that an override sets: one, or those of the mapping that it gives."""
    if not isinstance(value, dict) or not value:
        return [key]
    return [inner for name, part in value.items() for inner in _keys_set(f"{key}.{name}", part)]


def _mistaken_key(key: str, override: Override, base: DictConfig) -> UserError | None:
    """Returns the error for an override of a key that the chosen configuration does not have."""
    parts = key.split(".")
    node = base
    for depth, part in enumerate(parts):
        path = ".".join(parts[: depth + 1])
        if not isinstance(node, DictConfig):
            return UserError(f"There is no key {path}: {'.'.join(parts[:depth])} is a single value.")
        if node._get_node(part, validate_access=False) is None:
            if override.is_add() or override.is_force_add():
                return None
            siblings = {str(sibling) for sibling in node}
            if depth == 0:
                groups = {str(group) for group in base.hydra.runtime.choices}
                siblings = siblings - {"hydra"} | {group for group in groups if "/" not in group}
            return unknown_key(path, siblings, all_keys(base))
        node = OmegaConf.select(node, part)
    if override.is_add():
        return UserError(f"{override.input_line} adds what is there already: leave out the +.")
    return None


def find_user_error(error: BaseException | None) -> UserError | None:
    """Returns the user's error that caused this one, or None if there is none. A full disk is one."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.errno in _PLACE_ERRORS:
            return UserError(f"{error.strerror}: {error.filename or 'choose another output_dir'}.")
        error = error.__cause__ or error.__context__
    return error


def one_sentence(error: BaseException) -> str:
    """Returns the error's message on one line, with its cause's."""
    messages = [str(part) for part in (error, error.__cause__) if part is not None and str(part)]
    text = ": ".join(messages) or type(error).__name__
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(_INTERNAL)]
    return " ".join(told).rstrip(".") + "."
