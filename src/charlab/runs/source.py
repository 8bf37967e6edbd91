"""Python source as a run's code sees it: what a file imports, and a digest without comments, docstrings and layout."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from charlab.errors import UserError

FORMAT = 4  # of the cache; increase it whenever `_normal` or `imports_of` changes
MOST_CACHED = 5000  # files


class SourceCache:
    """A cache of the digests and imports of files, by the hash of their contents. It only saves time."""

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self._path = Path(home, "charlab", f"code-{FORMAT}.json")
        self._known: dict[str, tuple[str, list[str]]] | None = None
        self._new = False

    def parsed(self, file: Path, named: str = "") -> tuple[str, list[str]]:
        """Return the digest of a source file and the names it imports; `named` as in `imports_of`."""
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError, ValueError, TypeError):
                read = json.loads(self._path.read_text(encoding="utf-8"))
                self._known = {key: (str(digest), list(imports)) for key, (digest, imports) in read.items()}
        contents = file.read_bytes()
        key = f"{hashlib.sha256(contents).hexdigest()} {named}"
        if key not in self._known:
            tree = parse(contents, str(file))
            self._known[key] = (digest_of(tree), imports_of(tree, named))
            self._new = True
        return self._known[key]

    def save(self) -> None:
        if not self._new or self._known is None:
            return
        self._new = False
        kept = dict(list(self._known.items())[-MOST_CACHED:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            temporary.write_text(json.dumps(kept), encoding="utf-8")
            os.replace(temporary, self._path)


def digest_of(source: str | bytes | ast.Module) -> str:
    """Return a hash of 12 hexadecimal digits of Python source, without comments, docstrings and layout.

    The digest does not depend on the version of Python that parses the source.
    """
    tree = source if isinstance(source, ast.Module) else parse(source, "<source>")
    return hashlib.sha256("".join(_normal(tree)).encode("ascii", "backslashreplace")).hexdigest()[:12]


def parse(source: str | bytes, name: str) -> ast.Module:
    """Return the syntax tree of the source of `name`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # importing the module shows them
            return ast.parse(source, name)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}," if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"{name}{line} is not Python: {getattr(error, 'msg', error)}.") from None


def _normal(node: Any) -> Iterator[str]:
    """Yield the parts of a serialized syntax tree, the same in every version of Python.

    Empty fields are left out, so that fields added by later versions change nothing until they are used.
    """
    if isinstance(node, ast.Constant):
        yield f"{type(node.value).__name__}:{node.value!a}"
    elif isinstance(node, ast.JoinedStr):
        yield from _normal_text(node)
    elif isinstance(node, ast.AST):
        yield type(node).__name__ + "("
        for field in sorted(node._fields):
            value = _statements(getattr(node, field, None))
            if value is None or value == [] or field in ("ctx", "kind", "type_comment", "type_ignores"):
                continue
            if isinstance(value, ast.JoinedStr) and not value.values:
                continue  # f"{x:}", whose empty format is None in other versions
            yield field + "="
            yield from _normal(value)
            yield ";"
        yield ")"
    elif isinstance(node, list):
        yield "["
        for part in node:
            yield from _normal(part)
            yield ","
        yield "]"
    else:
        yield ascii(node)


def _statements(value: Any) -> Any:
    """Return a list of statements without docstrings, other bare constants, `pass` and blocks for type checkers."""
    if not isinstance(value, list) or not value or not isinstance(value[0], ast.stmt):
        return value
    kept: list[ast.stmt] = []
    for statement in value:
        if isinstance(statement, ast.Pass):
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement, ast.If) and _is_type_checking(statement.test):
            kept += statement.orelse
            continue
        kept.append(statement)
    return kept


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _normal_text(node: ast.JoinedStr) -> Iterator[str]:
    """Yield the parts of an f-string with adjacent literals joined, as versions of Python split them differently."""
    yield "JoinedStr["
    literal = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            literal += str(part.value)
            continue
        yield ascii(literal)
        literal = ""
        yield from _normal(part)
    yield ascii(literal) + "]"


def imports_of(tree: ast.Module, named: str = "") -> list[str]:
    """Return the dotted names that a module imports; relative imports keep their leading dots.

    If `named` is a function or class of the module, imports within functions that it does not lead to are left out.
    """
    names: dict[str, None] = {}
    idle = _idle_functions(tree, named)

    def visit(node: ast.AST) -> None:
        if node in idle:
            return
        match node:
            case ast.If(test=test, orelse=orelse) if _is_type_checking(test):
                for statement in orelse:
                    visit(statement)
                return
            case ast.Import(names=aliases):
                names.update((alias.name, None) for alias in aliases)
            case ast.ImportFrom(names=aliases, module=module, level=level):
                origin = "." * level + (module or "")
                separator = "." if module else ""
                names[origin] = None
                names.update((f"{origin}{separator}{alias.name}", None) for alias in aliases if alias.name != "*")
            case ast.Assign(targets=[ast.Name(id="__all__")], value=listed):
                # `from package import *` imports the submodules in it.
                texts = [part.value for part in ast.walk(listed) if isinstance(part, ast.Constant)]
                names.update((f".{text}", None) for text in texts if isinstance(text, str))
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if called in ("import_module", "__import__"):
                    names[name] = None
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return list(names)


def _idle_functions(tree: ast.Module, named: str) -> set[ast.AST]:
    """Return the module's undecorated functions that neither `named` nor any code it leads to mentions."""
    functions = {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
    classes = {part.name for part in tree.body if isinstance(part, ast.ClassDef)}
    if named not in functions and named not in classes:
        return set()
    reached: list[ast.AST] = [part for part in tree.body if part not in functions.values()]
    for name, function in list(functions.items()):
        reached.append(function.args)  # evaluated when the module is imported
        if function.decorator_list or name == named:  # a decorator may register its function under another name
            reached.append(functions.pop(name))
    while reached:
        for node in ast.walk(reached.pop()):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            if name in functions:
                reached.append(functions.pop(name))
    return set(functions.values())
