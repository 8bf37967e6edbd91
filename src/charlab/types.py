"""Numbers with a range, as constructors annotate them, and the check that a value is of an annotated type.

Two readers share this check: the configuration, which reads annotations from source files without importing them,
and `checked`, which applies them when a constructor is called.
"""

import functools
import inspect
import types
import typing
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from charlab.errors import UserError

_P = ParamSpec("_P")
_R = TypeVar("_R")

_SEQUENCES = (list, tuple, set, frozenset, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable, abc.Set)
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`, the ends included unless said otherwise; None is unbounded."""

    low: float | None = None
    high: float | None = None
    low_excluded: bool = False
    high_excluded: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low is None or (value > self.low if self.low_excluded else value >= self.low)
        below = self.high is None or (value < self.high if self.high_excluded else value <= self.high)
        return above and below

    def __str__(self) -> str:
        above = "" if self.low is None else f"{'>' if self.low_excluded else '≥'} {self.low:g}"
        below = "" if self.high is None else f"{'<' if self.high_excluded else '≤'} {self.high:g}"
        return " and ".join(filter(None, [above, below]))


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, low_excluded=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Probability = Annotated[float, Range(0, 1, high_excluded=True)]
Fraction = Annotated[float, Range(0, 1)]


def fits(value: Any, annotation: Any) -> bool:
    """Returns whether `value` is of the annotated type; always true for types that are not plain data.

    Unlike Python, it takes true and false for no numbers. A list fits a tuple, as YAML has lists only, and an
    integer fits a float.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        ranges = [part for part in arguments[1:] if isinstance(part, Range)]
        return fits(value, arguments[0]) and all(value in part for part in ranges)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    kind = origin or annotation
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    if isinstance(kind, type) and issubclass(kind, PathLike):
        return isinstance(value, str | PathLike)
    if kind in _MAPPINGS:
        return isinstance(value, abc.Mapping) and all(fits(item, arguments[1]) for item in value.values() if arguments)
    if kind in _SEQUENCES:
        return _items_fit(value, kind, arguments)
    return True


def _items_fit(value: Any, kind: type, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, abc.Sequence | abc.Set) or isinstance(value, str | bytes):  # a list of YAML is a Sequence
        return False
    if not arguments:
        return True
    if kind is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return all(fits(item, arguments[0]) for item in value)


def describe(annotation: Any) -> str:
    """Returns in words what `annotation` asks for: "an integer ≥ 1 or none"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([describe(arguments[0]), *(str(part) for part in arguments[1:] if isinstance(part, Range))])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        choices = [display(choice) for choice in arguments]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    kind = origin or annotation
    words = {None: "none", types.NoneType: "none", bool: "true or false", int: "an integer", float: "a number"}
    if kind in words:
        return words[kind]
    if kind is str:
        return "text"
    if isinstance(kind, type) and issubclass(kind, PathLike):
        return "a path"
    if kind in _MAPPINGS:
        return "a mapping"
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values ({', '.join(map(describe, arguments))})"
    if kind in _SEQUENCES:
        return f"a list of values, each {describe(arguments[0])}" if arguments else "a list"
    return getattr(kind, "__name__", str(kind))


def display(value: Any) -> str:
    """Returns a value as it is shown to a user."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorates a function or constructor: an argument that does not fit its annotation raises `UserError`."""
    signature = inspect.signature(function)
    owner = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        annotations = typing.get_type_hints(function, include_extras=True)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            variadic = signature.parameters[name].kind in _VARIADIC
            if name in annotations and not variadic and not fits(value, annotations[name]):
                raise UserError(f"{name} of {owner} must be {describe(annotations[name])}, not {display(value)}.")
        return function(*args, **kwargs)

    return call
