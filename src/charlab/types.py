"""Types for the arguments of constructors, and checks that values fit them.

pydantic validates values in strict mode, except for types that YAML cannot express: a list fits a tuple, and text fits
a path. Annotations are ordinary types: `width: PositiveInt`, `betas: tuple[Probability, Probability]`.
"""

import functools
import inspect
import math
import types
import typing
from collections import abc
from collections.abc import Callable
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    PydanticUserError,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import SchemaError

from charlab.errors import UserError

_P = ParamSpec("_P")
_R = TypeVar("_R")

SMALLEST, LARGEST = 2.0**-126, (2 - 2**-23) * 2.0**127
"""The smallest and largest positive numbers that float32 represents in full precision."""


def _held_by_float32(value: float) -> float:
    if not math.isfinite(value) or (value and not SMALLEST <= abs(value) <= LARGEST):
        raise ValueError("not a float32")
    return value


_FLOAT32 = AfterValidator(_held_by_float32)

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0), _FLOAT32]
NonNegativeFloat = Annotated[float, Ge(0), _FLOAT32]
PositiveOrInfinite = Annotated[float, Gt(0)]
NonNegativeOrInfinite = Annotated[float, Ge(0)]
"""For limits; infinity means no limit."""
Probability = Annotated[float, Ge(0), Lt(1)]
Fraction = Annotated[float, Ge(0), Le(1)]

_CONFIG = ConfigDict(strict=True, arbitrary_types_allowed=True)
_SEQUENCES = (list, tuple, set, frozenset, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable, abc.Set)
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}


def convert(value: Any, annotation: Any) -> Any:
    """Return `value` converted to the annotated type, such as a list to a tuple.

    If pydantic cannot validate the type, the value is returned unchanged.

    Raises:
        ValidationError: if the value does not fit.
    """
    if isinstance(value, Real) and not isinstance(value, int | float):  # a numpy scalar
        value = int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, abc.Sequence) and not isinstance(value, str | bytes | list | tuple):
        value = list(value)  # an OmegaConf list, as hydra.utils.instantiate passes it
    adapter = _adapter(annotation)
    return value if adapter is None else adapter.validate_python(value)


def fits(value: Any, annotation: Any) -> bool:
    """Return whether `value` fits the annotated type; see `convert`."""
    try:
        convert(value, annotation)
    except ValidationError:
        return False
    return True


@functools.cache
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(_for_yaml(annotation), config=_CONFIG)
    except PydanticUserError as error:
        if error.code == "type-adapter-config-unused":  # a dataclass or pydantic model has its own config
            return TypeAdapter(annotation)
        return None
    except SchemaError:  # a protocol that isinstance() does not support
        return None


def _for_yaml(annotation: Any) -> Any:
    """Return the annotation with containers and paths made lenient, as YAML has only lists and text."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(_for_yaml(arguments[0]), *arguments[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_for_yaml, arguments))]  # noqa: UP007
    if origin is Literal:
        return Annotated[annotation, BeforeValidator(functools.partial(_same_type, arguments))]
    kind = origin or annotation
    if kind in (abc.Iterable, abc.Collection):
        return Any  # pydantic would return a generator
    if kind in _SEQUENCES or kind in _MAPPINGS:
        inner = kind[tuple(map(_for_yaml, arguments))] if arguments else kind
        return Annotated[inner, Strict(False)] if kind in (list, tuple, set, frozenset) else inner
    if isinstance(kind, type) and issubclass(kind, PathLike):
        return Annotated[Path, Strict(False)]
    return annotation


def _same_type(choices: tuple[Any, ...], value: Any) -> Any:
    """Reject true for 1, which pydantic considers equal."""
    if not any(type(value) is type(choice) for choice in choices):
        raise ValueError("of another type")
    return value


def describe(annotation: Any) -> str:
    """Return a description of the annotated type, such as "an integer ≥ 1 or none"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [part for part in arguments[1:] if type(part) in _SIGNS]
        ends = [f"{sign} {getattr(part, name):g}" for part in bounds for sign, name in [_SIGNS[type(part)]]]
        return " ".join([describe(arguments[0]), " and ".join(ends)]).strip()
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


def requirement(value: Any, annotation: Any) -> str:
    """Return what is required instead of `value`, which does not fit: "an integer ≥ 1, not 0"."""
    wanted = f"{describe(annotation)}, not {display(value)}"
    if isinstance(value, float) and not math.isnan(value) and fits(1.0, annotation) and value > 0:
        if value > LARGEST:
            return f"{wanted}, which is infinite" + ("" if math.isinf(value) else " in float32")
        if value < SMALLEST:
            return f"{wanted}, which float32 cannot tell from 0"
    return wanted


def display(value: Any) -> str:
    """Return a value as shown to a user."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function or constructor to raise `UserError` for an argument that does not fit its annotation."""
    signature = inspect.signature(function)
    owner = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        bound = signature.bind(*args, **kwargs)
        annotations = annotations_of(function)
        for name, value in bound.arguments.items():
            if name in annotations:
                try:
                    bound.arguments[name] = convert(value, annotations[name])
                except ValidationError:
                    raise UserError(f"{name} of {owner} must be {requirement(value, annotations[name])}.") from None
        return function(*bound.args, **bound.kwargs)

    return call


@functools.cache
def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's named parameters."""
    named = {
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    hints = typing.get_type_hints(function, include_extras=True)
    return {name: hint for name, hint in hints.items() if name in named}
