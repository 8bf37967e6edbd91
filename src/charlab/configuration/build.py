"""Build the objects that a configuration describes, and inspect which arguments a `_target_` accepts.

By convention, the program supplies the parameters before the `*` of a signature, and the configuration supplies the
keyword-only ones after it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import hydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from charlab.configuration.messages import find_user_error, nearest
from charlab.configuration.overrides import escape_interpolations
from charlab.errors import UserError

HYDRA_1_4 = not hydra.__version__.startswith("1.3.")
INSTRUCTIONS = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}  # to hydra.utils.instantiate
KNOWN_AT_RUN_TIME = object()
"""Placeholder for a value that is known only while the program runs."""
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a configuration node as plain dictionaries and lists, with all interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))


def literal(values: Mapping[str, Any]) -> DictConfig:
    """Return plain dictionaries and lists as a configuration without interpolations: the inverse of `plain`."""
    return OmegaConf.create(escape_interpolations(dict(values)))


def build(node: DictConfig | dict[str, Any], *arguments: Any, **more: Any) -> Any:
    """Call the node's `_target_` with its other keys, as plain lists and dictionaries, and the given arguments."""
    more.setdefault("_convert_", node.get("_convert_", "all"))
    if HYDRA_1_4:  # requires a whitelist of targets; users trust their own configs, and checkpoints are checked earlier
        targets = {part["_target_"] for _, part in nodes(plain(node) if isinstance(node, DictConfig) else node, "")}
        # The defining module may have another name, as for torch.nn.LayerNorm.
        found = [one for one in map(find, targets) if hasattr(one, "__module__") and hasattr(one, "__qualname__")]
        more["_execution_whitelist_"] = sorted(targets | {f"{one.__module__}.{one.__qualname__}" for one in found})
    try:
        return instantiate(node, *arguments, **more)
    except InstantiationException as error:
        mistake = find_user_error(error)
        if mistake is None:
            raise
        raise mistake from None


def build_scheduler(node: Mapping[str, Any], optimizer: Any) -> Any:
    """Build a scheduler for an optimizer, and before it the `schedulers` that it consists of, if any.

    Torch's `SequentialLR` and `ChainedScheduler` consist of others.
    """
    parts = node.get("schedulers")
    if not isinstance(parts, list):
        return build({**node, "_partial_": True})(optimizer)
    rest = {key: value for key, value in node.items() if key != "schedulers"}
    made = [build_scheduler(part, optimizer) for part in parts]
    return build({**rest, "_partial_": True})(optimizer=optimizer, schedulers=made)


def nodes(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the nodes of a configuration that have a `_target_`, each with its dotted path."""
    if isinstance(value, dict) and "_target_" in value:
        yield path, value
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nodes(part, f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}")


@dataclass(frozen=True)
class Signature:
    """The parameters of a class's constructor or of a function.

    Attributes:
        annotations: annotation of each parameter; Any if it has none or it cannot be evaluated.
        open: whether other names are accepted too (`**kwargs`).
        configured: names of the parameters that a configuration supplies: the keyword-only ones.
        required: names of the configured parameters without a default.
        supplied: names of the parameters that only the program may supply; empty for code outside charlab.
    """

    annotations: dict[str, Any]
    open: bool
    configured: frozenset[str]
    required: frozenset[str]
    supplied: frozenset[str]

    def takes(self, name: str) -> bool:
        """Return whether there is a parameter of that name, or any name is accepted."""
        return self.open or name in self.annotations


UNKNOWN = Signature({}, open=True, configured=frozenset(), required=frozenset(), supplied=frozenset())
"""The signature of what Python cannot inspect, which may take any argument."""


def signature(target: str) -> Signature:
    """Return the signature of a `_target_`.

    Raises:
        UserError: if it cannot be imported, or is neither a class nor a function.
    """
    constructor = find(target)
    if not callable(constructor):
        raise UserError(f"{target} is neither a class nor a function: name one.")
    try:
        every = inspect.signature(constructor).parameters
    except (TypeError, ValueError):
        return UNKNOWN
    function = code_of(constructor)
    try:
        hints = typing.get_type_hints(function, include_extras=True) if function is not None else {}
    except Exception:  # an annotation may use a name that is imported only under TYPE_CHECKING
        hints = {}
    parameters = {name: p for name, p in every.items() if p.kind not in _VARIADIC}
    keywords = {name: p for name, p in parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
    positional = [n for n, p in parameters.items() if n not in keywords and p.default is Parameter.empty]
    own = target.partition(".")[0] == "charlab"
    return Signature(
        annotations={name: _hashable(hints.get(name, Any)) for name in parameters},
        open=any(p.kind is Parameter.VAR_KEYWORD for p in every.values()),
        configured=frozenset(keywords),
        required=frozenset(name for name, p in keywords.items() if p.default is Parameter.empty),
        # A signature without a * does not follow the convention, but the program always supplies the first argument.
        supplied=frozenset(positional if keywords else positional[:1]) if own else frozenset(),
    )


def _hashable(annotation: Any) -> Any:
    """Return an annotation as it is; Any if it cannot be hashed, as one with a list or a dictionary in `Annotated`."""
    try:
        hash(annotation)
    except TypeError:
        return Any
    return annotation


def first_parameter(target: str) -> str | None:
    """Return the name of the first parameter of a `_target_`; None if it has none, or Python cannot determine it."""
    return next(iter(signature(target).annotations), None)


def accepts(target: str, name: str) -> bool:
    """Return whether a configuration may pass a `_target_` a parameter of that name."""
    try:
        known = signature(target)
    except UserError:
        return False
    return name in known.annotations and name not in known.supplied


def code_of(constructor: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return the function that runs when a class or function is called, unwrapped from its decorators."""
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    function = inspect.unwrap(function)
    return function if inspect.isfunction(function) or inspect.ismethod(function) else None


def find(target: str) -> Any:
    """Import and return the object with a dotted name.

    Raises:
        UserError: if there is no such object, or importing it fails.
    """
    top, *rest = target.split(".")
    found = _import(top, target)
    if found is None:
        known = ["charlab", "lightning", "torch"]
        hint = ": install it." if top in known else nearest(top, known)
        raise UserError(f"There is no module {top} (for {target}) in {Path.cwd()} or among the installed ones{hint}")
    name = top
    for part in rest:
        if not hasattr(found, part) and isinstance(found, ModuleType):
            _import(f"{name}.{part}", target)
        if not hasattr(found, part):
            raise UserError(f"There is no {part} in {name}{nearest(part, _public_names(found))}")
        found, name = getattr(found, part), f"{name}.{part}"
    return found


def _import(name: str, target: str) -> ModuleType | None:
    """Import and return a module; None if no module has that name."""
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise UserError(f"{target} needs the module {error.name}, which is not installed: install it.") from error
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}, is not Python: {error.msg}.") from error
    except (Exception, SystemExit) as error:  # a user's module may raise any exception, and a script exits
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"Importing {name} failed in {last.filename}, line {last.lineno}: {type(error).__name__}: {error}"
        ) from error


def _public_names(owner: Any) -> set[str]:
    """Return the public names inside an object that can continue a `_target_`: classes, functions and submodules."""
    within = {name for _, name, _ in pkgutil.iter_modules(getattr(owner, "__path__", []))}
    made = {name for name, value in vars(owner).items() if callable(value)} if hasattr(owner, "__dict__") else set()
    return {name for name in within | made if not name.startswith("_")}
