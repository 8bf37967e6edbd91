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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from charlab.errors import UserError
from charlab.module_loads import MODULE_LOADS
from charlab.runs import definitions
from charlab.runs.main_source import MAIN
from charlab.runs.source import SourceCache, digest_of, imports_of, parse

EVALUATION = (
    *("charlab.evaluation.protocols", "charlab.evaluation.online", "charlab.evaluation.causality"),
    "charlab.data.datamodule",
)
"""Modules that compute the figures of every run, whatever its configuration."""

TRAINING = tuple(
    f"charlab.{module}"
    for module in (
        *("training.module", "training.counts_module", "training.trainer", "training.optimizers", "training.schedules"),
        *("training.device", "seeding"),
    )
)
"""Modules that train every run."""

ORCHESTRATION = ("charlab.runs", "charlab.runs.train", "charlab.runs.setup", "charlab.runs.origin")
"""Modules that orchestrate every run. Their imports are not followed, since most of those only display the run."""

OBSERVING_MODULES = {
    *("charlab", "charlab.configuration", "charlab.curves", "charlab.errors", "charlab.files"),
    *("charlab.training.loggers", "charlab.training.callbacks.progress"),
}
"""Parts of charlab that are widely imported but change no figure; the package itself only re-exports names."""

ONLY_IF_NAMED = {"charlab.models.mixture"}
"""Modules that every run imports to check for their models; they count only if the model is one of these."""

PLATFORM = {
    *("torch", "numpy", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics"),
    *("hydra", "omegaconf", "pydantic", "pydantic_core", "annotated_types", "jaxtyping", "typing_extensions", "rich"),
    *("pooch", "tensorboard", "matplotlib"),  # they download, log and draw
}
"""Packages whose versions are recorded but are not part of the hash."""

CHARLAB = "charlab"
SITES = {"site-packages", "dist-packages"}  # folders of installed packages


def code_hash(sources: Mapping[str, str]) -> str:
    """Return a hash of 12 hexadecimal digits that is equal for two runs if and only if they run the same code."""
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]


def sources_of(
    config: Mapping[str, Any], always: Sequence[str] = EVALUATION + TRAINING + ORCHESTRATION
) -> dict[str, str]:
    """Return the sources of a run's figures: the digest of each module and the version of each distribution.

    The imports of `always` and of every class that the configuration names are followed through charlab and the user's
    own files. A package installed from an index is represented by its version, one installed from a folder by its
    source, and a class of a notebook or script by the result of `definitions.extract`.

    A module that is imported under a computed name (`importlib.import_module(f"parts.{kind}")`) is not followed: import
    it by its name, or an edit of it goes unnoticed.

    Args:
        config: a resolved configuration, without keys that only observe.
        always: modules to include in any case.

    Raises:
        UserError: if a file is not valid Python, or a module was edited after this process loaded it.
    """
    tracer = _ImportTracer()
    tracer.follow(always, versions=False)
    tracer.follow(dict.fromkeys(definitions.targets(config)), versions=True)
    if names := definitions.names_in(config):
        tracer.follow_main(names)
    tracer.check_loaded()
    return dict(sorted(tracer.found.items()))


def changed(former: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the modules and distributions that differ, by name."""
    return sorted(name for name in {*former, *now} if former.get(name) != now.get(name))


# --- Modules and what they import ------------------------------------------------------------------------------------


class _ImportTracer:
    """Follow imports from module to module, and collect the sources."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._specs: dict[str, ModuleSpec | None] = {}
        self._followed: dict[tuple[str, str], int] = {}  # by module and object named in it: whether with versions
        self._importers: dict[str, set[str]] = {}
        self._cache = SourceCache()

    def follow(self, names: Iterable[str], *, versions: bool) -> None:
        """Add everything that is reachable from dotted names of modules or of objects in them."""
        pending = [(name, "") for name in names]
        while pending:
            dotted, importer = pending.pop()
            for name in self._modules(dotted):
                if importer:
                    self._importers.setdefault(name, set()).add(importer)
                if name in ONLY_IF_NAMED and not versions:
                    break
                if name in OBSERVING_MODULES:
                    if name != CHARLAB:
                        break
                else:
                    # A configuration names a single object of a module; an importing module may use all of it.
                    named = "" if importer else dotted.removeprefix(name).lstrip(".").partition(".")[0]
                    if self._followed.get((name, named), -1) < versions:
                        self._followed[name, named] = versions
                        imports = self._read(name, named, versions=versions)
                        pending += [(imported, name) for imported in imports] if name not in ORCHESTRATION else []
        self._cache.save()

    def follow_main(self, names: Sequence[str]) -> None:
        """Add names defined in the notebook or script that was run, and everything that is reachable from them."""
        tree = parse(definitions.extract(names), definitions.FILE_NAME)
        self.found[MAIN] = digest_of(tree)
        file = getattr(sys.modules[MAIN], "__file__", None)
        if file is not None and os.path.isfile(file) and not definitions.are_imported(names):
            # The values of constants and imports may change while a script runs, which is no edit of its file.
            defined = [part for part in tree.body if not isinstance(part, ast.Assign | ast.Import | ast.ImportFrom)]
            shown = " and ".join(f"{MAIN}.{name}" for name in names)
            MODULE_LOADS.check(shown, digest_of(ast.Module(defined, [])), Path(file))
        self.follow(imports_of(tree), versions=True)

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
            parent = name.rpartition(".")[0]
            spec = None
            if name == MAIN:
                pass
            elif parent:
                folders = getattr(self._spec(parent), "submodule_search_locations", None)
                spec = PathFinder.find_spec(name, folders) if folders is not None else None
            else:
                with contextlib.suppress(ValueError):  # a module created by hand has no spec
                    spec = importlib.util.find_spec(name)
                if name in sys.stdlib_module_names and not _is_users(spec):
                    spec = None
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
        if top != CHARLAB and SITES & set(file.parts):
            if top in PLATFORM:
                return []
            distribution, version = _distribution(top)
            if version is not None:
                if versions:
                    self.found[distribution] = version
                return []
        if file.suffix != ".py":
            if file.is_file():  # compiled, or compiled when it is imported, like a .pyx
                self.found[name] = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
            return []
        digest, imports = self._cache.parsed(file, named)
        self.found[name] = digest
        package = name if spec is not None and spec.submodule_search_locations is not None else name.rpartition(".")[0]
        found = []
        for imported in imports:
            with contextlib.suppress(ImportError):  # a relative name that leaves the package
                found.append(importlib.util.resolve_name(imported, package))
        return found

    def check_loaded(self) -> None:
        """Raise `UserError` if a module that this process has loaded differs from its file."""
        for name, spec in self._specs.items():
            if name in self.found and name in sys.modules and spec is not None and spec.origin:
                MODULE_LOADS.check(name, self.found[name], Path(spec.origin), self._importers.get(name, set()))
                if (patched := _patched(sys.modules[name])) is not None:
                    raise UserError(
                        f"{name}.{patched} is a function of the notebook or script that was run, and not the one in "
                        f"{spec.origin}: define it there, or in a subclass in the notebook or script."
                    )


def _is_users(spec: ModuleSpec | None) -> bool:
    """Return whether a module with a name of the standard library is a user's own file, such as a `sched.py`."""
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        return False
    file = Path(str(spec.origin))
    is_standard = file.is_relative_to(Path(contextlib.__file__).parent)
    return not is_standard and not SITES & set(file.parts) and file.is_file()


def _patched(module: ModuleType) -> str | None:
    """Return the name of a function of `__main__` that a module, or a class defined in it, was given; None without."""
    main = vars(sys.modules[MAIN])
    members = list(vars(module).items())
    for name, value in list(members):
        if isinstance(value, type) and value.__module__ == module.__name__:
            members += [(f"{name}.{attribute}", part) for attribute, part in vars(value).items()]
    for name, value in members:
        function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        if isinstance(function, FunctionType) and function.__globals__ is main:
            return name
    return None


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
