"""Reading Python modules without importing them.

The configuration names classes whose modules import torch, which takes seconds. Their source says what the check
needs to know; this module finds it and follows names through imports and aliases.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from charlab.configuration.nearest import nearest
from charlab.errors import UserError

_DEEPEST = 20  # names are followed through at most so many modules, since imports may go round in circles


@dataclass(frozen=True)
class Definition:
    """A class, function or assigned expression, and the module whose names it uses."""

    node: ast.ClassDef | ast.FunctionDef | ast.expr
    module: Module


class Module:
    """The source of a module, parsed when it is first asked for a name.

    Attributes:
        name: dotted name.
        is_package: whether it has submodules.
        folders: where these lie.
        readable: whether it has Python source at all (a compiled extension has none).
        names: what its top level binds, by name.
        stars: the modules whose every name it imports.
    """

    def __init__(self, name: str, spec: ModuleSpec | None) -> None:
        self.name = name
        locations = spec.submodule_search_locations if spec is not None else None
        self.is_package = locations is not None
        self.folders = [Path(folder) for folder in locations or ()]
        self._source = Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
        self.readable = self._source.suffix == ".py" if self._source is not None else self.is_package

    @cached_property
    def names(self) -> dict[str, ast.stmt]:
        return self._bindings[0]

    @cached_property
    def stars(self) -> list[str]:
        return self._bindings[1]

    @cached_property
    def _bindings(self) -> tuple[dict[str, ast.stmt], list[str]]:
        names: dict[str, ast.stmt] = {}
        stars: list[str] = []
        for statement in _top_level(_parsed(self._source)) if self._source is not None and self.readable else ():
            match statement:
                case ast.ClassDef() | ast.FunctionDef():
                    names[statement.name] = statement
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    names[name] = statement
                case ast.ImportFrom(names=[ast.alias(name="*")]):
                    stars.append(self._absolute(statement))
                case ast.Import() | ast.ImportFrom():
                    names.update({alias.asname or alias.name.partition(".")[0]: statement for alias in statement.names})
        return names, stars

    def _absolute(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        for _ in range(statement.level - 1):
            package = package.rpartition(".")[0]
        return f"{package}.{statement.module}" if statement.module else package

    def origin(self, name: str) -> tuple[str, str] | None:
        """Returns the module that `name` is imported from and its name there; for a module, ("a.b", "")."""
        match self.names.get(name):
            case ast.ImportFrom(names=aliases) as statement:
                original = next(alias.name for alias in aliases if (alias.asname or alias.name) == name)
                return self._absolute(statement), original
            case ast.Import(names=aliases):
                alias = next(a for a in aliases if (a.asname or a.name.partition(".")[0]) == name)
                return (alias.name if alias.asname else name), ""
        return None

    def definition(self, name: str, depth: int = 0) -> Definition | Module | None:
        """Returns what `name` stands for in this module, followed to where it is defined; None if that is unknown."""
        if depth > _DEEPEST:
            return None
        source = self.origin(name)
        if source is not None:
            module_name, original = source
            return find(f"{module_name}.{original}" if original else module_name, depth + 1)
        match self.names.get(name):
            case ast.ClassDef() | ast.FunctionDef() as statement:
                return Definition(statement, self)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                followed = follow(value, self, depth + 1) if isinstance(value, ast.Name | ast.Attribute) else None
                return followed or Definition(value, self)
        for star in self.stars:
            module = load(star)
            found = module.definition(name, depth + 1) if module is not None else None
            if found is not None:
                return found
        return None

    def is_open(self) -> bool:
        """Returns whether the module may have names that its source does not show."""
        return not self.readable or "__getattr__" in self.names or bool(self.stars)

    def known_names(self) -> set[str]:
        """Returns the public names that a `_target_` may go on with: classes, functions and submodules."""
        submodules = {path.stem for folder in self.folders for path in folder.glob("*.py")}
        packages = {path.parent.name for folder in self.folders for path in folder.glob("*/__init__.py")}
        own = {name for name, node in self.names.items() if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        passed_on = {name for name in self.names if self.is_package and self.origin(name) is not None}
        return {name for name in submodules | packages | own | passed_on if not name.startswith("_")}


def _parsed(source: Path) -> ast.Module:
    return _parsed_version(source, source.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed_version(source: Path, modified: int) -> ast.Module:
    try:
        return ast.parse(source.read_bytes())
    except SyntaxError as error:
        raise UserError(f"{source}, line {error.lineno}, is not Python: {error.msg}.") from None


def _top_level(tree: ast.Module | ast.If | ast.Try) -> Iterator[ast.stmt]:
    """Yields the statements that bind a module's names, those under `if` and `try` included."""
    for statement in ast.iter_child_nodes(tree):
        if isinstance(statement, ast.If | ast.Try):
            yield from _top_level(statement)
        elif isinstance(statement, ast.stmt):
            yield statement


@cache
def load(name: str) -> Module | None:
    """Returns the module of that dotted name, or None if there is none. Nothing is imported."""
    parent_name, _, leaf = name.rpartition(".")
    if not leaf:
        return None
    if parent_name:
        parent = load(parent_name)
        spec = PathFinder.find_spec(name, [str(folder) for folder in parent.folders]) if parent else None
    elif leaf in sys.modules and sys.modules[leaf].__spec__ is None:
        return Module(name, None)  # __main__ in a notebook: there, but without a source to read
    else:
        spec = importlib.util.find_spec(leaf)
    return Module(name, spec) if spec is not None else None


def find(dotted: str, depth: int = 0) -> Definition | Module | None:
    """Returns what a dotted name stands for: a definition, a module, or None if that cannot be read.

    Raises:
        UserError: if the source shows that there is nothing of that name; the sentence has the nearest names.
    """
    module, rest = _longest_module(dotted)
    if module is None:
        top = dotted.partition(".")[0]
        known = ["charlab", "lightning", "torch"]
        hint = ": install it." if top in known else nearest(top, known)
        raise UserError(f"There is no module {top} (for {dotted}){hint}")
    if not rest:
        return module
    found = module.definition(rest[0], depth)
    if found is None and module.origin(rest[0]) is None and not module.is_open() and rest[0] not in module.names:
        raise UserError(f"There is no {rest[0]} in {module.name}{nearest(rest[0], module.known_names())}")
    for attribute in rest[1:]:
        found = _attribute(found, attribute)
    return found


def _longest_module(dotted: str) -> tuple[Module | None, list[str]]:
    parts = dotted.split(".")
    module = None
    for length in range(1, len(parts) + 1):
        deeper = load(".".join(parts[:length]))
        if deeper is None or (module is not None and parts[length - 1] in module.names and length == len(parts)):
            return module, parts[length - 1 :]
        module = deeper
    return module, []


def _attribute(owner: Definition | Module | None, name: str) -> Definition | Module | None:
    if isinstance(owner, Module):
        return owner.definition(name)
    if isinstance(owner, Definition) and isinstance(owner.node, ast.ClassDef):
        for statement in owner.node.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                return Definition(statement, owner.module)
    return None


def follow(expression: ast.expr, module: Module, depth: int = 0) -> Definition | Module | None:
    """Returns what a name or a dotted name stands for inside `module`, or None if that is unknown."""
    match expression:
        case ast.Name(id=name):
            return module.definition(name, depth)
        case ast.Attribute(value=owner, attr=attribute):
            found = follow(owner, module, depth)
            if isinstance(found, Module):
                return find(f"{found.name}.{attribute}", depth + 1)
            return _attribute(found, attribute)
    return None


def forget() -> None:
    """Forgets what was read, so that files edited since (in a notebook's lifetime) are read again."""
    load.cache_clear()
