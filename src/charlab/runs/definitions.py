"""Extract classes defined in a notebook or script into a module that other processes can import."""

from __future__ import annotations
import __future__

import ast
import functools
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.main_source import MAIN, Definition, differences, global_names, lines_of, literal_source, source_of
from charlab.runs.record import member_models

FILE_NAME = "definitions.py"  # in a run's folder
FUTURE = "annotations"  # what `from __future__ import annotations` binds
HEADER = '"""The definitions that this run uses from the notebook or script that started it."""\n\n'

_imported: dict[str, tuple[Any, str]] = {}  # what `import_into_main` defined, with its module's source


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
        elif (literal := literal_source(value)) is not None:
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
        if isinstance(statement, Definition):
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
        source, code = source_of(value, shown)
        if difference := next(differences(value, source), None):
            raise UserError(f"{shown} {difference}: run the definition of {name} again.")
        self.future |= any(found.co_flags & __future__.annotations.compiler_flag for found in code)
        self._follow(name, user, source, None)

    def _follow(self, name: str, user: str, source: str, text: str | None) -> None:
        """Add a definition between what it needs when it is executed and what it needs when it is called."""
        known: Collection[str] = vars(self.main) if text is None else _statements(text)
        at_once, later = ([needed for needed in found if needed in known] for found in global_names(source))
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
        if isinstance(statement, Definition):
            inside, names = lines_of(statement), [statement.name]
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
