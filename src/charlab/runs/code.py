"""The code of a run: a hash of the source behind its figures, independent of comments and of Python's version.

Nothing is imported: source files are parsed, and their imports are followed. Results are cached by content.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from charlab.errors import UserError
from charlab.loaded import LOADED
from charlab.runs import definitions

EVALUATION = (
    *("charlab.evaluation.protocols", "charlab.evaluation.online", "charlab.evaluation.causality"),
    "charlab.data.datamodule",
)
"""Modules that compute the figures of every run, whatever its configuration."""

TRAINING = tuple(
    f"charlab.{module}"
    for module in (
        *("training.module", "training.counts", "training.trainer", "training.optimizers", "training.schedules"),
        *("training.device", "seeding"),
    )
)
"""Modules that train every run."""

CONDUCT = ("charlab.runs.train", "charlab.runs.recording", "charlab.runs.members")
"""Modules that decide what is done in which order in every run. Their imports are not followed: most show a run."""

OBSERVING_MODULES = {
    *("charlab", "charlab.configuration", "charlab.errors", "charlab.files", "charlab.training.loggers"),
    "charlab.training.callbacks.progress",
}
"""Parts of charlab that are widely imported but change no figure; the package itself only re-exports names."""

PLATFORM = {
    *("torch", "numpy", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics"),
    *("hydra", "omegaconf", "pydantic", "pydantic_core", "annotated_types", "jaxtyping", "typing_extensions", "rich"),
    *("pooch", "tensorboard", "matplotlib"),  # they download, log and draw
}
"""Packages whose versions are recorded but are not part of the hash."""

CHARLAB = "charlab"
FORMAT = 2  # of the cache; increase it whenever `_normal` or `_imports` changes
MOST_CACHED = 5000  # files


def code_hash(sources: Mapping[str, str]) -> str:
    """Return a hash of 12 hexadecimal digits that is equal for two runs if and only if they run the same code."""
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]


def sources_of(config: Mapping[str, Any], always: Sequence[str] = EVALUATION + TRAINING + CONDUCT) -> dict[str, str]:
    """Return the sources of a run's figures: the digest of each module and the version of each distribution.

    The imports of `always` and of every class that the configuration names are followed through charlab and the user's
    own files. A package installed from an index is represented by its version, one installed from a folder by its
    source, and a class of a notebook or script by the result of `definitions.extract`.

    Args:
        config: a resolved configuration, without keys that only observe.
        always: modules to include in any case.

    Raises:
        UserError: if a file is not valid Python, or a module was edited after this process loaded it.
    """
    survey = _Survey()
    survey.follow(always, versions=False)
    survey.follow(dict.fromkeys(definitions.targets(config)), versions=True)
    if names := definitions.names_in(config):
        survey.follow_main(names)
    survey.check_loaded()
    return dict(sorted(survey.found.items()))


def changed(former: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the modules and distributions that differ, by name."""
    return sorted(name for name in {*former, *now} if former.get(name) != now.get(name))


# --- Modules and what they import ------------------------------------------------------------------------------------


class _Survey:
    """Follow imports from module to module, and collect the sources."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._specs: dict[str, ModuleSpec | None] = {}
        self._followed: dict[tuple[str, str], int] = {}  # by module and object named in it: whether with versions
        self._importers: dict[str, set[str]] = {}
        self._cache = _Cache()

    def follow(self, names: Iterable[str], *, versions: bool) -> None:
        """Add everything that is reachable from dotted names of modules or of objects in them."""
        pending = [(name, "") for name in names]
        while pending:
            dotted, importer = pending.pop()
            for name in self._modules(dotted):
                if importer:
                    self._importers.setdefault(name, set()).add(importer)
                if name in OBSERVING_MODULES:
                    if name != CHARLAB:
                        break
                else:
                    # A configuration names a single object of a module; who imports a module may use all of it.
                    named = "" if importer else dotted.removeprefix(name).lstrip(".").partition(".")[0]
                    if self._followed.get((name, named), -1) < versions:
                        self._followed[name, named] = versions
                        imports = self._read(name, named, versions=versions)
                        pending += [(imported, name) for imported in imports] if name not in CONDUCT else []
        self._cache.save()

    def follow_main(self, names: Sequence[str]) -> None:
        """Add names defined in the notebook or script that was run, and everything that is reachable from them."""
        tree = _parse(definitions.extract(names), definitions.FILE_NAME)
        self.found[definitions.MAIN] = digest = digest_of(tree)
        file = getattr(sys.modules[definitions.MAIN], "__file__", None)
        if file is not None and os.path.isfile(file) and not definitions.are_provided(names):
            LOADED.check(definitions.MAIN, digest, Path(file))
        self.follow(_imports(tree), versions=True)

    def _modules(self, dotted: str) -> Iterator[str]:
        """Yield the modules that importing a dotted name executes, packages first."""
        parts = dotted.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            if self._spec(name) is None:
                return
            yield name

    def _spec(self, name: str) -> ModuleSpec | None:
        if name not in self._specs:
            parent, _, leaf = name.rpartition(".")
            spec = None
            if name == definitions.MAIN or (leaf in sys.stdlib_module_names and not parent):
                pass
            elif parent:
                folders = getattr(self._spec(parent), "submodule_search_locations", None)
                spec = PathFinder.find_spec(name, folders) if folders is not None else None
            else:
                with contextlib.suppress(ValueError):  # a module created by hand has no spec
                    spec = importlib.util.find_spec(name)
            self._specs[name] = spec
        return self._specs[name]

    def _read(self, name: str, named: str, *, versions: bool) -> list[str]:
        """Record the digest of a module or the version of its distribution; return the dotted names it imports.

        If `named` is given, imports within functions that this object of the module does not lead to are left out.
        """
        spec, top = self._spec(name), name.partition(".")[0]
        places = [spec.origin] if spec and spec.has_location else list((spec and spec.submodule_search_locations) or ())
        if not places or places[0] is None:
            return []
        file = Path(places[0])
        if top != CHARLAB and {"site-packages", "dist-packages"} & set(file.parts):
            if top in PLATFORM:
                return []
            distribution, version = _distribution(top)
            if version is not None:
                if versions:
                    self.found[distribution] = version
                return []
        if file.suffix in EXTENSION_SUFFIXES or file.suffix == ".so":
            self.found[name] = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        if file.suffix != ".py":
            return []
        digest, imports = self._cache.parsed(file, named)
        self.found[name] = digest
        package = name if spec is not None and spec.submodule_search_locations is not None else name.rpartition(".")[0]
        return [absolute for imported in imports if (absolute := _absolute(imported, package))]

    def check_loaded(self) -> None:
        """Raise `UserError` if a module that this process has loaded differs from its file."""
        for name, spec in self._specs.items():
            if name in self.found and name in sys.modules and spec is not None and spec.origin:
                LOADED.check(name, self.found[name], Path(spec.origin), self._importers.get(name, set()))


def _absolute(imported: str, package: str) -> str:
    """Return the absolute form of a name that may be relative; "" if it leaves the package."""
    name = imported.lstrip(".")
    for _ in range(len(imported) - len(name) - 1):
        package = package.rpartition(".")[0]
    if name == imported:
        return name
    return f"{package}.{name}" if package and name else package


@cache
def _distribution(top: str) -> tuple[str, str | None]:
    """Return the name and version of the distribution that provides a top-level module.

    The version is None if the distribution was installed from a folder or repository, so that its source counts.
    """
    from importlib import metadata

    try:
        found = metadata.distribution(top)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(top, ())
        if not names:
            return top, None
        found = metadata.distribution(names[0])
    if found.read_text("direct_url.json") is not None:
        return top, None
    return found.metadata["Name"], found.version


class _Cache:
    """A cache of the digests and imports of files, by the hash of their contents. It only saves time."""

    def __init__(self) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self._path = Path(home, "charlab", f"code-{FORMAT}.json")
        self._known: dict[str, tuple[str, list[str]]] | None = None
        self._new = False

    def parsed(self, file: Path, named: str = "") -> tuple[str, list[str]]:
        """Return the digest of a source file and the names it imports; `named` as in `_imports`."""
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError, ValueError, TypeError):
                read = json.loads(self._path.read_text(encoding="utf-8"))
                self._known = {key: (str(digest), list(imports)) for key, (digest, imports) in read.items()}
        contents = file.read_bytes()
        key = f"{hashlib.sha256(contents).hexdigest()} {named}"
        if key not in self._known:
            tree = _parse(contents, str(file))
            self._known[key] = (digest_of(tree), _imports(tree, named))
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


# --- The normal form of source ---------------------------------------------------------------------------------------


def digest_of(source: str | bytes | ast.Module) -> str:
    """Return a hash of 12 hexadecimal digits of Python source, without comments, docstrings and layout.

    The digest does not depend on the version of Python that parses the source.
    """
    tree = source if isinstance(source, ast.Module) else _parse(source, "<source>")
    return hashlib.sha256("".join(_normal(tree)).encode("ascii", "backslashreplace")).hexdigest()[:12]


def _parse(source: str | bytes, name: str) -> ast.Module:
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


def _imports(tree: ast.Module, named: str = "") -> list[str]:
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
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if called in ("import_module", "__import__") and not name.startswith("."):
                    names[name] = None
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return list(names)


def _idle_functions(tree: ast.Module, named: str) -> set[ast.AST]:
    """Return the module's functions that are mentioned neither by `named`, nor by other code that it leads to."""
    functions = {part.name: part for part in tree.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
    classes = {part.name for part in tree.body if isinstance(part, ast.ClassDef)}
    if named not in functions and named not in classes:
        return set()
    reached: list[ast.AST] = [part for part in tree.body if part not in functions.values()]
    for function in functions.values():  # evaluated when the module is imported
        reached += [*function.decorator_list, function.args]
    reached += [functions.pop(named)] if named in functions else []
    while reached:
        for node in ast.walk(reached.pop()):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            if name in functions:
                reached.append(functions.pop(name))
    return set(functions.values())
