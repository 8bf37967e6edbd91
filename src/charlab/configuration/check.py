"""Checking a composed configuration: every key is known, every value is of its type.

The schema is what is there anyway: the signatures of the `_target_`s, and the keys that the configuration's own files
declare where nothing is constructed.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
)

from charlab.configuration.constraints import check_constraints
from charlab.configuration.loader import Source, typed_overrides
from charlab.configuration.nearest import nearest, similar
from charlab.configuration.signatures import Signature, signature
from charlab.errors import UserError
from charlab.types import display, fits, requirement

_INSTRUCTIONS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}  # to hydra.utils.instantiate
_OWN_VALUES = [("trainer.precision", "auto")]  # what charlab adds to another library's argument
_LATER = object()  # a value that is known only once the program runs


def check(config: DictConfig, sources: Collection[Source], values: Mapping[str, Any], *, complete: bool = True) -> None:
    """Checks a composed configuration, Hydra's own node excepted.

    Args:
        config: with Hydra's node, which interpolations may refer to.
        sources: the files that it was composed of.
        values: types of the values that nothing is constructed with, by dotted name.
        complete: whether values may no longer be missing (`???`).

    Raises:
        UserError: for the first mistake found.
    """
    _Check(config, sources, complete).run(values)


class _Check:
    def __init__(self, config: DictConfig, sources: Collection[Source], complete: bool) -> None:
        self.config = config
        self.sources = sources
        self.complete = complete
        self.declared = frozenset().union(*(source.keys for source in sources if not source.overlay))
        typed = {override.lstrip("+~").partition("=")[0] for override in typed_overrides(config)}
        self.typed = typed - {str(group) for group in config.hydra.runtime.choices}

    def run(self, values: Mapping[str, Any]) -> None:
        for path, annotation in values.items():
            parent, _, key = path.rpartition(".")
            node = OmegaConf.select(self.config, parent) if parent else self.config
            if not isinstance(node, DictConfig) or node._get_node(key, validate_access=False) is None:
                raise UserError(f"The configuration has no {path}: do not delete it.")
            self.check_value(node, key, path, annotation)
        self.check_mapping(self.config, "")
        check_constraints(self.config)

    def check_mapping(self, node: DictConfig, path: str) -> None:
        """Checks a mapping of which nothing is constructed, and what is within it."""
        for key in map(str, node):
            inner = _join(path, key)
            if inner == "hydra":
                continue
            value = self.value(node, key, inner)
            added = bool(path) and isinstance(value, DictConfig) and "_target_" in value  # a further callback, say
            if inner not in self.declared and not added:
                raise self.unknown(inner, self.children(path))
            if isinstance(value, DictConfig) and "_target_" not in value:
                self.check_mapping(value, inner)
            else:
                self.check_constructions(value, inner)

    def check_constructions(self, value: Any, path: str) -> None:
        """Checks whatever is constructed within a value."""
        if isinstance(value, DictConfig) and "_target_" in value:
            self.check_construction(value, path)
        elif isinstance(value, DictConfig):
            for key in map(str, value):
                self.check_constructions(self.value(value, key, _join(path, key)), _join(path, key))
        elif isinstance(value, ListConfig):
            for index in range(len(value)):
                self.check_constructions(self.value(value, index, f"{path}[{index}]"), f"{path}[{index}]")

    def check_construction(self, node: DictConfig, path: str) -> None:
        """Checks a mapping with a `_target_` against the signature of that."""
        target = self.value(node, "_target_", f"{path}._target_")
        if not isinstance(target, str):
            raise UserError(f"{path}._target_ must be the dotted name of a class or function, not {display(target)}.")
        try:
            known = signature(target)
        except UserError as error:
            raise UserError(f"{path}._target_{self.place(f'{path}._target_')}: {error}") from None
        given = set(map(str, node)) - _INSTRUCTIONS
        for key in map(str, node):
            if key in given:
                self.check_argument(node, key, _join(path, key), known)
        if known is not None and (lacking := sorted(known.required - given)):
            raise UserError(f"{path}.{lacking[0]} is missing: {target} needs it.")

    def check_argument(self, node: DictConfig, key: str, path: str, known: Signature | None) -> None:
        if known is None or (known.open and key not in known.parameters):
            self.check_constructions(self.value(node, key, path), path)
        elif key in known.supplied:
            raise UserError(f"{path} cannot be configured{self.place(path)}: the program supplies it.")
        elif key not in known.parameters:
            raise self.unknown(path, set(known.parameters) - known.supplied)
        else:
            self.check_value(node, key, path, known.parameters[key].annotation)

    def check_value(self, node: DictConfig, key: str, path: str, annotation: Any) -> None:
        """Checks a value against its type, and what is constructed within it."""
        value = self.value(node, key, path)
        self.check_constructions(value, path)
        if (path, value) in _OWN_VALUES:
            return
        if value is _LATER or ("_target_" in node and _is_constructed(value)):
            return
        plain = OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value
        if not fits(plain, annotation):
            hint = similar(plain, _choices(annotation)) if isinstance(plain, str) else "."
            raise UserError(f"{path}{self.place(path)} must be {requirement(plain, annotation)}{hint}")

    def value(self, node: DictConfig | ListConfig, key: str | int, path: str) -> Any:
        """Returns a value with its interpolations resolved, or `_LATER` if it is known only once the program runs."""
        if OmegaConf.is_missing(node, key):
            if self.complete:
                raise UserError(f"{path} is missing: give {path}=….")
            return _LATER
        text = str(node._get_node(key)._value())  # type: ignore[arg-type, union-attr]
        try:
            value = node[key]  # type: ignore[index]
        except InterpolationToMissingValueError:
            return _LATER
        except InterpolationKeyError:
            raise UserError(
                f"{path}{self.place(path)} refers to {text}, which does not exist"
                f"{similar(text.strip('${}'), all_keys(self.config))}"
            ) from None
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"{path}{self.place(path)} cannot be resolved: {reason}.") from None
        return _LATER if value is None and "${hydra:" in text else value

    def unknown(self, path: str, siblings: Collection[str]) -> UserError:
        return unknown_key(path, siblings, all_keys(self.config), self.place(path))

    def children(self, path: str) -> set[str]:
        prefix = f"{path}." if path else ""
        return {key[len(prefix) :].partition(".")[0] for key in self.declared if key.startswith(prefix)} - {"hydra"}

    def place(self, path: str) -> str:
        """Returns the file in which `path` was set last, " (in a file)"; nothing if it was typed."""
        if any(path == key or path.startswith(f"{key}.") for key in self.typed):
            return ""
        files = [source.name for source in self.sources if path in source.keys]
        return f" (in {files[-1]}.yaml)" if files else ""


def unknown_key(path: str, siblings: Collection[str], everywhere: Collection[str], place: str = "") -> UserError:
    """Returns the error for a key that does not exist, with what may have been meant.

    Args:
        path: the key, dotted.
        siblings: names that are known in its stead.
        everywhere: all keys of the configuration, dotted, among which the same name may stand elsewhere.
        place: where it was set, " (in a file)".
    """
    parent, _, leaf = path.rpartition(".")
    elsewhere = [key for key in everywhere if key.rpartition(".")[2] == leaf and key != path]
    if elsewhere:
        hint = similar(elsewhere[0], elsewhere)
    else:
        prefix = f"{parent}." if parent else ""
        hint = nearest(leaf, siblings, prefix)
    return UserError(f"There is no key {path}{place}{hint}")


def all_keys(config: DictConfig) -> list[str]:
    """Returns the dotted paths of all keys, Hydra's own excepted."""
    return list(_keys(config, ""))


def _keys(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation()):
        for key, value in node.items_ex(resolve=False):
            if (path or key != "hydra") and key not in _INSTRUCTIONS:
                yield _join(path, key)
                yield from _keys(value, _join(path, key))


def _is_constructed(value: Any) -> bool:
    """Return whether a value, or one in its list, is built from a `_target_`: its type is known only then."""
    if isinstance(value, ListConfig):
        return any(map(_is_constructed, value))
    return isinstance(value, DictConfig) and "_target_" in value


def _choices(annotation: Any) -> list[str]:
    """Returns the texts that a type lists, `Literal["a", "b"] | None` included."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return [choice for choice in arguments if isinstance(choice, str)]
    return [choice for argument in arguments for choice in _choices(argument)]


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
