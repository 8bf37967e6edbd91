"""What a `_target_` takes, read from its source.

A convention keeps code and configuration apart: what the program supplies when it builds something stands before the
`*` of a signature, what a configuration supplies stands after it.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import os
import pathlib
import typing
from inspect import Parameter
from typing import Any

import charlab.types
from charlab.configuration.modules import Definition, Module, find, follow, load

# Modules whose names are taken as they are. All others are read, never imported.
_IMPORTED = {
    "builtins": builtins,
    "charlab.types": charlab.types,
    "collections.abc": collections.abc,
    "os": os,
    "pathlib": pathlib,
    "typing": typing,
}
_PLAIN = {"int", "float", "bool", "str", "list", "tuple", "set", "frozenset", "dict"}


class Signature:
    """The parameters of a class's constructor or of a function.

    Attributes:
        parameters: by name, with real types as annotations (Any where the source's annotation is not plain data).
        open: whether names beyond these are taken too (`**kwargs`).
        configured: names of the parameters that a configuration supplies: the keyword-only ones.
        required: those of them without a default.
        supplied: names of the parameters that only the program may supply; known for charlab's own code alone.
    """

    def __init__(self, parameters: list[Parameter], module: Module) -> None:
        variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        self.parameters = {p.name: p for p in parameters if p.kind not in variadic}
        self.open = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
        keywords = {name: p for name, p in self.parameters.items() if p.kind is Parameter.KEYWORD_ONLY}
        self.configured = set(keywords)
        self.required = {name for name, p in keywords.items() if p.default is Parameter.empty}
        positional = [n for n, p in self.parameters.items() if n not in keywords and p.default is Parameter.empty]
        own = module.name.partition(".")[0] == "charlab"
        # A signature without a * says nothing of who supplies what, but the first argument is always the program's.
        self.supplied = set(positional if keywords else positional[:1]) if own else set()


def signature(target: str) -> Signature | None:
    """Returns the signature of a `_target_`, or None if its source cannot be read.

    Raises:
        UserError: if there is no such class or function.
    """
    found = find(target)
    return _signature(found) if isinstance(found, Definition) else None


def _signature(definition: Definition) -> Signature | None:
    node = definition.node
    if isinstance(node, ast.FunctionDef):
        owned = any(isinstance(d, ast.Name) and d.id == "classmethod" for d in node.decorator_list)
        return Signature(_parameters(node, definition.module)[1 if owned else 0 :], definition.module)
    if isinstance(node, ast.ClassDef):
        return _constructor(node, definition.module)
    return None


def _constructor(node: ast.ClassDef, module: Module) -> Signature | None:
    methods = {s.name: s for s in node.body if isinstance(s, ast.FunctionDef)}  # the last of overloaded ones
    if "__init__" in methods:
        return Signature(_parameters(methods["__init__"], module)[1:], module)
    if "__new__" in methods:
        return None
    if _dataclass_decorator(node) is not None:
        fields = _fields(node, module)
        return None if fields is None else Signature(fields, module)
    for base in node.bases:
        found = follow(base.value if isinstance(base, ast.Subscript) else base, module)
        if isinstance(found, Definition) and isinstance(found.node, ast.ClassDef):
            if _says_nothing(found):
                continue
            return _signature(found)
        return None
    return Signature([], module)


def _says_nothing(definition: Definition) -> bool:
    return definition.module.name in ("abc", "typing")


def _parameters(function: ast.FunctionDef, module: Module) -> list[Parameter]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    listed = [
        _parameter(argument, Parameter.POSITIONAL_OR_KEYWORD, default, module)
        for argument, default in zip(positional, defaults, strict=True)
    ]
    if arguments.vararg is not None:
        listed.append(_parameter(arguments.vararg, Parameter.VAR_POSITIONAL, None, module))
    listed += [
        _parameter(argument, Parameter.KEYWORD_ONLY, default, module)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg is not None:
        listed.append(_parameter(arguments.kwarg, Parameter.VAR_KEYWORD, None, module))
    return listed


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None, module: Module) -> Parameter:
    return Parameter(
        argument.arg,
        kind,
        default=Parameter.empty if default is None else default,
        annotation=Any if argument.annotation is None else annotation(argument.annotation, module),
    )


def _dataclass_decorator(node: ast.ClassDef) -> ast.expr | None:
    for decorator in node.decorator_list:
        name = decorator.func if isinstance(decorator, ast.Call) else decorator
        if ast.unparse(name) in ("dataclass", "dataclasses.dataclass"):
            return decorator
    return None


def _fields(node: ast.ClassDef, module: Module) -> list[Parameter] | None:
    """Returns the constructor's parameters that `dataclass` makes of annotated names, or None if a base is unknown."""
    fields: dict[str, Parameter] = {}
    for base in reversed(node.bases):
        found = follow(base, module)
        if not (isinstance(found, Definition) and isinstance(found.node, ast.ClassDef)):
            return None
        if not _says_nothing(found) and _dataclass_decorator(found.node) is not None:
            inherited = _fields(found.node, found.module)
            if inherited is None:
                return None
            fields.update({parameter.name: parameter for parameter in inherited})
    decorator = _dataclass_decorator(node)
    options = _keywords(decorator) if isinstance(decorator, ast.Call) else {}
    kind = Parameter.KEYWORD_ONLY if options.get("kw_only") == "True" else Parameter.POSITIONAL_OR_KEYWORD
    for statement in node.body:
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        value = statement.value
        made_by_field = isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field")
        settings = _keywords(value) if made_by_field and isinstance(value, ast.Call) else {}
        if "ClassVar" in ast.unparse(statement.annotation) or settings.get("init") == "False":
            continue
        has_default = value is not None and (not made_by_field or {"default", "default_factory"} & settings.keys())
        argument = ast.arg(statement.target.id, statement.annotation)
        fields[argument.arg] = _parameter(argument, kind, value if has_default else None, module)
    return list(fields.values())


def _keywords(call: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is not None}


def annotation(node: ast.expr, module: Module) -> Any:
    """Returns the type that an annotation's source stands for, with Any for every part that is not plain data."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str() as quoted):
            return annotation(ast.parse(quoted, mode="eval").body, module)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return typing.Union[annotation(left, module), annotation(right, module)]  # noqa: UP007
        case ast.Subscript(value=generic, slice=inner):
            return _subscripted(_named(generic, module), inner, module)
        case ast.Name() | ast.Attribute():
            return _named(node, module)
    return Any


def _subscripted(generic: Any, inner: ast.expr, module: Module) -> Any:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if generic is typing.Literal:
        choices = [part.value for part in parts if isinstance(part, ast.Constant)]
        return typing.Literal[tuple(choices)] if len(choices) == len(parts) else Any
    if generic is Any:
        return Any
    arguments = tuple(
        Ellipsis if isinstance(part, ast.Constant) and part.value is Ellipsis else annotation(part, module)
        for part in parts
    )
    try:
        return generic[arguments if len(arguments) > 1 else arguments[0]]
    except TypeError:
        return Any


def _named(node: ast.expr, module: Module) -> Any:
    """Returns the type of that name: a plain one, one of `charlab.types`, or what an alias in some source says."""
    if isinstance(node, ast.Attribute):
        if not isinstance(node.value, ast.Name):
            return Any
        imported, within = module.origin(node.value.id) or ("", "")
        home, name = f"{imported}.{within}" if within else imported, node.attr
    else:
        assert isinstance(node, ast.Name)
        statement = module.names.get(node.id)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            return annotation(statement.value, module)
        home, name = module.origin(node.id) or ("" if statement is not None else "builtins", node.id)
    if home in _IMPORTED:
        return getattr(_IMPORTED[home], name, Any) if home != "builtins" or name in _PLAIN else Any
    # Names of another package (torch.Tensor) are no plain data, and reading it would take long.
    imported_from = load(home) if name and home.partition(".")[0] == module.name.partition(".")[0] else None
    return annotation(ast.Name(name), imported_from) if imported_from is not None else Any
