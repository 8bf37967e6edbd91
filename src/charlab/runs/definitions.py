"""Extract classes defined in a notebook or script into a module that other processes can import."""

from __future__ import annotations
import __future__

import ast
import contextlib
import functools
import importlib.util
import inspect
import linecache
import symtable
import sys
import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.record import member_models

FILE_NAME = "definitions.py"  # in a run's folder
MAIN = "__main__"
GENERATED = ("__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__replace__")
FUTURE = "annotations"  # what `from __future__ import annotations` binds
HEADER = '"""The definitions that this run uses from the notebook or script that started it."""\n\n'

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_PLAIN = (ast.Name, ast.Constant, ast.Tuple, ast.BinOp, ast.UnaryOp)
_UNKNOWN = object()
_imported: dict[str, tuple[Any, str]] = {}  # what `import_into_main` defined, with its module's source
_read: weakref.WeakSet[Any] = weakref.WeakSet()  # those whose source `linecache` holds as executed


def names_in(config: Any) -> list[str]:
    """Return the names in `__main__` that Hydra calls for a configuration, sorted."""
    return sorted({target.split(".")[1] for target in targets(config) if target.startswith(f"{MAIN}.")})


def names_of_run(config: Mapping[str, Any]) -> list[str]:
    """Return the names in `__main__` that a run needs: those of its configuration, and those of its members' models."""
    return names_in([config, *member_models(config.get("model") or {})])


def targets(config: Any) -> Iterator[str]:
    """Yield the dotted names that Hydra imports for a configuration."""
    parts = config.values() if isinstance(config, Mapping) else config if isinstance(config, list | tuple) else ()
    if isinstance(config, Mapping) and isinstance(config.get("_target_"), str):
        yield config["_target_"]
        if config["_target_"].startswith("hydra.utils.get_") and isinstance(config.get("path"), str):
            yield config["path"]
    for part in parts:
        yield from targets(part)


def missing_from_main(config: Any) -> list[str]:
    """Return the names in `__main__` that a configuration needs and this process does not define."""
    return [name for name in names_in(config) if not hasattr(sys.modules[MAIN], name)]


def are_imported(names: Iterable[str]) -> bool:
    """Return whether all `names` are in `__main__` because they were imported from a run's folder."""
    return all(_imported_source(name) is not None for name in names)


def _imported_source(name: str) -> str | None:
    """Return the source of the module that a name in `__main__` was imported from; None if it was defined here."""
    value, text = _imported.get(name, (None, None))
    return text if text is not None and getattr(sys.modules[MAIN], name, None) is value else None


def extract(names: Iterable[str], text: str | None = None) -> str:
    """Return the source of a module that defines names in `__main__` and everything they refer to.

    Definitions are taken from the source that was executed; imports and literal constants from their current values.
    What was imported from a run's folder is taken from the source there.

    Args:
        names: the names.
        text: what this function has returned for more names; all definitions are then taken from it.

    Raises:
        UserError: if a name is not defined, or what it refers to cannot be followed.
    """
    collector = _DefinitionCollector()
    for name in names:
        collector.add(name, f"{MAIN}.{name}", text)
    return collector.text()


def save(config: Mapping[str, Any], folder: Path) -> None:
    """Write the definitions that a run uses from `__main__`, if any, into its folder."""
    if names := names_of_run(config):
        text = extract(names)
        write_atomically(folder / FILE_NAME, lambda file: file.write(text.encode()))


def import_into_main(text: str, folder: Path) -> None:
    """Import the source `text` from a file in a run's folder, and define its names in `__main__`.

    This executes code: call it only for source that this user wrote or trusts.
    """
    file = folder / FILE_NAME
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_atomically(file, lambda stream: stream.write(text.encode()))
    spec = importlib.util.spec_from_file_location("charlab_definitions", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            value = getattr(module, statement.name)
            setattr(sys.modules[MAIN], statement.name, value)
            _imported[statement.name] = (value, text)


class _DefinitionCollector:
    """Follow names from definition to definition, and collect their source."""

    def __init__(self) -> None:
        self.main = sys.modules[MAIN]
        self.imports: dict[str, str] = {}
        self.constants: dict[str, str] = {}
        self.definitions: dict[str, str] = {}
        self.future = False
        self._begun: set[tuple[str, str | None]] = set()

    def text(self) -> str:
        """Return the module's source: imports and constants sorted, definitions after what they need."""
        future = ["from __future__ import annotations"] if self.future else []
        head = [*future, *sorted(self.imports.values()), *sorted(self.constants.values())]
        return HEADER + "\n".join(head) + "\n\n\n" + "\n\n\n".join(self.definitions.values()) + "\n"

    def add(self, name: str, user: str, text: str | None = None) -> None:
        """Add the definition of `name`, which `user` refers to, from `__main__` or from the `text` of a module."""
        text = _imported_source(name) if text is None else text
        if (name, text) in self._begun:
            return
        self._begun.add((name, text))
        if text is not None:
            self._add_from_text(name, user, text)
            return
        if not hasattr(self.main, name):
            raise UserError(f"There is no {name} in the notebook or script that was run: define it first.")
        value = getattr(self.main, name)
        if isinstance(value, ModuleType):
            plain = value.__name__ == name
            self._put(self.imports, name, f"import {name}" if plain else f"import {value.__name__} as {name}", user)
        elif _is_own(value):
            self._add_from_main(name, value, user)
        elif (origin := _origin(value, name)) is not None:
            alias = f" as {name}" if origin[1] != name else ""
            self._put(self.imports, name, f"from {origin[0]} import {origin[1]}{alias}", user)
        elif (literal := _literal(value)) is not None:
            self._put(self.constants, name, f"{name} = {literal}", user)
        elif isinstance(value, type | FunctionType) and _is_redefined(value):
            raise UserError(
                f"{user} refers to the former {name}, which {value.__module__} has defined again since: "
                "import it again."
            )
        else:
            raise UserError(
                f"{user} refers to {name}, an object of {type(value).__name__} that the notebook or script made, and "
                "only definitions, imports and literal constants can be followed: move both to a module and import it."
            )

    def _add_from_text(self, name: str, user: str, text: str) -> None:
        """Add a name from the text of a module that `extract` wrote."""
        statements = _statements(text)
        if name not in statements:
            raise UserError(f"There is no {name} in the definitions that a run kept of its notebook or script.")
        statement, source = statements[name]
        if isinstance(statement, _Definition):
            self.future |= FUTURE in statements
            self._follow(name, user, source, text)
        else:
            self._put(self.constants if isinstance(statement, ast.Assign) else self.imports, name, source, user)

    def _add_from_main(self, name: str, value: Any, user: str) -> None:
        shown = f"{MAIN}.{name}"
        if value.__qualname__ != name:
            raise UserError(
                f"{shown} is {value.__qualname__}, whose definition cannot be found by that name: define it at the top "
                "level under the name it is used by, or move it to a module."
            )
        for base in value.__bases__ if isinstance(value, type) else ():
            if _is_own(base) and getattr(self.main, base.__qualname__, base) is not base:
                raise UserError(
                    f"{shown} still has the former {base.__qualname__} as its base, which was defined again since: "
                    f"run the definition of {name} again."
                )
            if not _is_own(base) and _is_redefined(base):
                raise UserError(
                    f"{shown} still has the former {base.__qualname__} as its base, which {base.__module__} has "
                    f"defined again since: import it again, and run the definition of {name} again."
                )
        source, code = _source(value, shown)
        if difference := next(_outdated(value, source), None):
            raise UserError(f"{shown} {difference}: run the definition of {name} again.")
        self.future |= any(found.co_flags & __future__.annotations.compiler_flag for found in code)
        self._follow(name, user, source, None)

    def _follow(self, name: str, user: str, source: str, text: str | None) -> None:
        """Add a definition between what it needs when it is executed and what it needs when it is called."""
        known: Collection[str] = vars(self.main) if text is None else _statements(text)
        at_once, later = ([needed for needed in found if needed in known] for found in _global_names(source))
        for needed in at_once:
            self.add(needed, f"{MAIN}.{name}", text)
        self._put(self.definitions, name, source, user)
        for needed in later:
            self.add(needed, f"{MAIN}.{name}", text)

    def _put(self, kind: dict[str, str], name: str, source: str, user: str) -> None:
        """Add the source of a name to those of its kind."""
        if any(name in found and (found is not kind or found[name] != source) for found in self._kinds()):
            raise UserError(
                f"{user} refers to another {name} than the other parts of this run, and one module has room for one: "
                "give them different names, or move both to modules and import them."
            )
        kind[name] = source

    def _kinds(self) -> tuple[dict[str, str], ...]:
        return self.imports, self.constants, self.definitions


@functools.lru_cache(maxsize=16)
def _statements(text: str) -> Mapping[str, tuple[ast.stmt, str]]:
    """Return the statement that binds each name in the text of a module that `extract` wrote, and its source."""
    lines = text.split("\n")
    found: dict[str, tuple[ast.stmt, str]] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, _Definition):
            inside, names = _lines_of(statement), [statement.name]
        elif isinstance(statement, ast.Import | ast.ImportFrom | ast.Assign):
            inside = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
            bound = statement.targets if isinstance(statement, ast.Assign) else statement.names
            names = [part.asname or part.name if isinstance(part, ast.alias) else ast.unparse(part) for part in bound]
        else:
            continue
        found |= dict.fromkeys(names, (statement, "\n".join(lines[inside.start - 1 : inside.stop - 1])))
    return found


def _is_own(value: Any) -> bool:
    """Return whether a class or function was defined in `__main__`."""
    return isinstance(value, type | FunctionType) and value.__module__ == MAIN


def _is_redefined(value: Any) -> bool:
    """Return whether the module of a class or function has defined it again since, as `importlib.reload` does."""
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is value or not isinstance(found, type | FunctionType):
        return False
    return (found.__module__, found.__qualname__) == (value.__module__, value.__qualname__)


def _origin(value: Any, name: str) -> tuple[str, str] | None:
    """Return the module that a value can be imported from, and its name there."""
    module = getattr(value, "__module__", None)
    known = sys.modules.get(module) if isinstance(module, str) and module != MAIN else None
    for candidate in (getattr(value, "__qualname__", None), getattr(value, "_name", None), name):
        if known is not None and isinstance(candidate, str) and getattr(known, candidate, None) is value:
            return known.__name__, candidate
    return None


def _literal(value: Any) -> str | None:
    """Return the source of a literal, the same in every process; None if the value is not a literal."""
    if isinstance(value, set | frozenset) and value:
        parts = [_literal(part) for part in value]
        return None if None in parts else f"{type(value).__name__}(({', '.join(sorted(map(str, parts)))},))"
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        text = repr(value)
        read = ast.literal_eval(text)
        if type(read) is type(value) and read == value:
            return text
    return None


def _source(value: Any, shown: str) -> tuple[str, list[CodeType]]:
    """Return the source of a class or function of `__main__`, as it was executed, and the code objects in it."""
    code = list(_code_of(value))
    files = sorted({found.co_filename for found in code}) or list(reversed(linecache.cache))  # no code: no methods
    if value not in _read:  # `%run` executes a file again, and `linecache` would still return its former lines
        for file in files:
            linecache.checkcache(file)
        _read.add(value)
    alike: str | None = None
    for file in files:
        lines = linecache.getlines(file)
        for node in (node for node in _top_level(lines) if _is(node, value, code)):
            inside = _lines_of(node)
            for found in code:
                if found.co_filename != file or found.co_firstlineno not in inside:
                    raise UserError(
                        f"{found.co_qualname} was put into {shown} after that had been defined, so its source does not "
                        "tell what it does: define it in the class, or move it to a module."
                    )
            source = "".join(lines[inside.start - 1 : inside.stop - 1]).rstrip("\n")
            if code or not isinstance(node, ast.ClassDef) or _agrees(node, value, source):
                return source, code
            alike = alike or source
    if alike is not None:
        return alike, code
    raise UserError(f"The source of {shown} is not known: define it in a cell or a file, or move it to a module.")


def _agrees(node: ast.ClassDef, value: type, source: str) -> bool:
    """Return whether a definition may be that of a class without functions, which does not tell where it was defined.

    A cell that is executed again is not the last one that defines its names.
    """
    given = [part for part in node.body if isinstance(part, ast.Assign | ast.AnnAssign)]
    targets = [part.target for part in given if isinstance(part, ast.AnnAssign)]
    annotated = [target.id for target in targets if isinstance(target, ast.Name)]
    written = _stored(node.body)
    has = {*vars(value), *getattr(value, "__dataclass_fields__", ())}
    main = vars(sys.modules[MAIN])
    bases = [main[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in main]
    return (
        all(base in value.__bases__ for base in bases)
        and all(name in has for name in _stored([part for part in given if part.value]) if not name.startswith("_"))
        and all(name in written for name in vars(value) if not name.startswith("_"))
        and list(vars(value).get("__annotations__", annotated)) == annotated
        and not any(_outdated(value, source, (*_PLAIN, ast.List, ast.Dict, ast.Set)))
    )


def _stored(body: Sequence[ast.stmt]) -> Counter[str]:
    """Return the names that statements define or assign, and how often; those in functions and classes are left out."""
    inside = [part for part in body if not isinstance(part, _Definition)]
    stored = Counter(part.name for part in body if isinstance(part, _Definition))
    for part in (part for statement in inside for part in ast.walk(statement)):
        if isinstance(part, ast.Name) and _is_stored(part):
            stored[part.id] += 1
    return stored


def _outdated(value: Any, source: str, kinds: tuple[type[ast.expr], ...] = _PLAIN) -> Iterator[str]:
    """Yield how a class or function differs from what its definition would give now.

    Defaults of parameters and attributes of a class keep the values that they had when it was defined, whatever is
    assigned to the names in them afterwards. An attribute may also have been set from outside.

    Args:
        value: the class or function.
        source: its definition.
        kinds: the parts of the expressions that are compared. A list or dictionary may have been filled since.
    """
    (node,) = ast.parse(source).body
    assert isinstance(node, _Definition)
    main = vars(sys.modules[MAIN])
    known = {name: main[name] for name in _global_names(source)[0] if name in main}
    set_by_itself = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and _is_stored(part)}
    is_decorated = bool(node.decorator_list) and not hasattr(value, "__dataclass_fields__")
    for attribute, expression, former in (*_attributes(value, node), *_defaults(value, node)):
        has_names = any(isinstance(part, ast.Name) for part in ast.walk(expression))
        if not has_names and (attribute is None or attribute in set_by_itself or is_decorated):
            continue
        now = _evaluated(expression, known, kinds)
        is_literal = _literal(former) is not None
        if now is _UNKNOWN or not (is_literal or type(now) is type(former)):  # such as a member of an enum
            continue
        if repr(now) == repr(former) and now == former:
            continue
        if not has_names:
            yield f"has {attribute}={former!r}, and its definition says {now!r}"
        elif is_literal and _literal(now) is not None:
            yield f"was defined when {ast.unparse(expression)} was {former!r}, and it is {now!r} now"
        else:
            yield f"still has the former {ast.unparse(expression)}, which was defined again since"


def _is_stored(part: ast.Name | ast.Attribute) -> bool:
    return isinstance(part.ctx, ast.Store)


def _attributes(value: Any, node: _Definition) -> Iterator[tuple[str | None, ast.expr, Any]]:
    """Yield the attributes that a class sets once: the name, the expression, and the value that it has."""
    stored = _stored(node.body)
    for part in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
            targets: list[ast.expr] = part.targets if isinstance(part, ast.Assign) else [part.target]
            for name in [target.id for target in targets if isinstance(target, ast.Name)]:
                if stored[name] == 1 and name in vars(value):
                    yield name, part.value, vars(value)[name]


def _defaults(value: Any, node: _Definition) -> Iterator[tuple[None, ast.expr, Any]]:
    """Yield the defaults of the parameters of a function or of a class's functions: the expression and the value."""
    parts: list[tuple[Any, ast.stmt]] = [(value, node)]
    if isinstance(node, ast.ClassDef):
        parts = [(vars(value).get(part.name), part) for part in node.body if isinstance(part, ast.FunctionDef)]
    for function, part in parts:
        function = inspect.unwrap(getattr(function, "__func__", function)) if function is not None else None
        if not (isinstance(function, FunctionType) and isinstance(part, ast.FunctionDef)):
            continue
        given = part.args
        positional = [*given.posonlyargs, *given.args][-len(given.defaults) :] if given.defaults else []
        actual = inspect.signature(function).parameters
        for parameter, default in zip(
            [*positional, *given.kwonlyargs], [*given.defaults, *given.kw_defaults], strict=True
        ):
            if default is not None and parameter.arg in actual:
                yield None, default, actual[parameter.arg].default


def _evaluated(expression: ast.expr, known: Mapping[str, Any], kinds: tuple[type[ast.expr], ...]) -> Any:
    """Return what an expression of `kinds` is now; `_UNKNOWN` if it has other parts, or names of other objects.

    Names may be those of literals, classes and functions.
    """
    parts = [part for part in ast.walk(expression) if isinstance(part, ast.expr)]
    values = {part.id: known.get(part.id, _UNKNOWN) for part in parts if isinstance(part, ast.Name)}
    if not all(isinstance(part, kinds) for part in parts):
        return _UNKNOWN
    if not all(isinstance(found, type | FunctionType) or _literal(found) is not None for found in values.values()):
        return _UNKNOWN
    try:
        return eval(compile(ast.Expression(expression), "<expression>", "eval"), {"__builtins__": {}}, values)
    except Exception:  # arithmetic with values of other types than then
        return _UNKNOWN


def _top_level(lines: list[str]) -> list[_Definition]:
    """Return the top-level classes and functions of a source, the last one first."""
    try:
        body = ast.parse("".join(lines)).body
    except (SyntaxError, ValueError):  # not Python, such as a notebook's magics
        return []
    return [node for node in reversed(body) if isinstance(node, _Definition)]


def _is(node: _Definition, value: Any, code: list[CodeType]) -> bool:
    if node.name != value.__name__ or isinstance(value, type) != isinstance(node, ast.ClassDef):
        return False
    return not code or any(found.co_firstlineno in _lines_of(node) for found in code)


def _lines_of(node: _Definition) -> range:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return range(first, (node.end_lineno or first) + 1)


def _code_of(value: Any) -> Iterator[CodeType]:
    """Yield the code objects of a function, or of a class's functions, that were defined in `__main__`."""
    if isinstance(value, type):
        generated = GENERATED if hasattr(value, "__dataclass_fields__") else ()
        for part in (part for name, part in vars(value).items() if name not in generated):
            for function in (part, *(getattr(part, name, None) for name in ("__func__", "fget", "fset", "func"))):
                if isinstance(function, FunctionType | type) and function is not value:
                    if isinstance(function, type) and not function.__qualname__.startswith(f"{value.__qualname__}."):
                        continue
                    yield from _code_of(function)
        return
    function = inspect.unwrap(value)
    if isinstance(function, FunctionType) and function.__module__ == MAIN:
        yield function.__code__


def _global_names(source: str) -> tuple[list[str], list[str]]:
    """Return the global names that a definition looks up when it is executed, and those when it is called."""
    at_once: set[str] = set()
    later: set[str] = set()

    def visit(table: symtable.SymbolTable, top: bool) -> None:
        found = later if table.get_type() == "function" else at_once
        found.update(s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global()))
        for child in table.get_children():
            visit(child, top=False)

    visit(symtable.symtable(source, "<definition>", "exec"), top=True)
    return sorted(at_once), sorted(later - at_once)
