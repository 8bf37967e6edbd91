"""The source of the classes and functions of a notebook or script, and whether it still says what they are."""

from __future__ import annotations

import ast
import contextlib
import inspect
import linecache
import symtable
import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

from charlab.errors import UserError

MAIN = "__main__"
GENERATED = ("__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__", "__replace__")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_PLAIN = (ast.Name, ast.Constant, ast.Tuple, ast.BinOp, ast.UnaryOp)
_UNKNOWN = object()
_read: weakref.WeakSet[Any] = weakref.WeakSet()  # those whose source `linecache` holds as executed


def literal_source(value: Any) -> str | None:
    """Return the source of a literal, the same in every process; None if the value is not a literal."""
    if isinstance(value, set | frozenset) and value:
        parts = [literal_source(part) for part in value]
        return None if None in parts else f"{type(value).__name__}(({', '.join(sorted(map(str, parts)))},))"
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        text = repr(value)
        read = ast.literal_eval(text)
        if type(read) is type(value) and read == value:
            return text
    return None


def source_of(value: Any, shown: str) -> tuple[str, list[CodeType]]:
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
            inside = lines_of(node)
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
        and not any(differences(value, source, (*_PLAIN, ast.List, ast.Dict, ast.Set)))
    )


def _stored(body: Sequence[ast.stmt]) -> Counter[str]:
    """Return the names that statements define or assign, and how often; those in functions and classes are left out."""
    inside = [part for part in body if not isinstance(part, Definition)]
    stored = Counter(part.name for part in body if isinstance(part, Definition))
    for part in (part for statement in inside for part in ast.walk(statement)):
        if isinstance(part, ast.Name) and _is_stored(part):
            stored[part.id] += 1
    return stored


def differences(value: Any, source: str, kinds: tuple[type[ast.expr], ...] = _PLAIN) -> Iterator[str]:
    """Yield how a class or function differs from what its definition would give now.

    Defaults of parameters and attributes of a class keep the values that they had when it was defined, whatever is
    assigned to the names in them afterwards. An attribute may also have been set from outside.

    Args:
        value: the class or function.
        source: its definition.
        kinds: the parts of the expressions that are compared. A list or dictionary may have been filled since.
    """
    (node,) = ast.parse(source).body
    assert isinstance(node, Definition)
    main = vars(sys.modules[MAIN])
    known = {name: main[name] for name in global_names(source)[0] if name in main}
    set_by_itself = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and _is_stored(part)}
    is_decorated = bool(node.decorator_list) and not hasattr(value, "__dataclass_fields__")
    for attribute, expression, former in (*_attributes(value, node), *_defaults(value, node)):
        has_names = any(isinstance(part, ast.Name) for part in ast.walk(expression))
        if not has_names and (attribute is None or attribute in set_by_itself or is_decorated):
            continue
        now = _evaluated(expression, known, kinds)
        is_literal = literal_source(former) is not None
        if now is _UNKNOWN or not (is_literal or type(now) is type(former)):  # such as a member of an enum
            continue
        if repr(now) == repr(former) and now == former:
            continue
        if not has_names:
            yield f"has {attribute}={former!r}, and its definition says {now!r}"
        elif is_literal and literal_source(now) is not None:
            yield f"was defined when {ast.unparse(expression)} was {former!r}, and it is {now!r} now"
        else:
            yield f"still has the former {ast.unparse(expression)}, which was defined again since"


def _is_stored(part: ast.Name | ast.Attribute) -> bool:
    return isinstance(part.ctx, ast.Store)


def _attributes(value: Any, node: Definition) -> Iterator[tuple[str | None, ast.expr, Any]]:
    """Yield the attributes that a class sets once: the name, the expression, and the value that it has."""
    stored = _stored(node.body)
    for part in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
            targets: list[ast.expr] = part.targets if isinstance(part, ast.Assign) else [part.target]
            for name in [target.id for target in targets if isinstance(target, ast.Name)]:
                if stored[name] == 1 and name in vars(value):
                    yield name, part.value, vars(value)[name]


def _defaults(value: Any, node: Definition) -> Iterator[tuple[None, ast.expr, Any]]:
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
    if not all(isinstance(found, type | FunctionType) or literal_source(found) for found in values.values()):
        return _UNKNOWN
    try:
        return eval(compile(ast.Expression(expression), "<expression>", "eval"), {"__builtins__": {}}, values)
    except Exception:  # arithmetic with values of other types than then
        return _UNKNOWN


def _top_level(lines: list[str]) -> list[Definition]:
    """Return the top-level classes and functions of a source, the last one first."""
    try:
        body = ast.parse("".join(lines)).body
    except (SyntaxError, ValueError):  # not Python, such as a notebook's magics
        return []
    return [node for node in reversed(body) if isinstance(node, Definition)]


def _is(node: Definition, value: Any, code: list[CodeType]) -> bool:
    if node.name != value.__name__ or isinstance(value, type) != isinstance(node, ast.ClassDef):
        return False
    return not code or any(found.co_firstlineno in lines_of(node) for found in code)


def lines_of(node: Definition) -> range:
    """Return the numbers of a definition's lines, those of its decorators included."""
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


def global_names(source: str) -> tuple[list[str], list[str]]:
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
