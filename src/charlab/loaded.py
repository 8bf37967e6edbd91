"""When this process loaded which module, so that a file that was edited since is noticed.

`import charlab` starts it: a user's model may be imported, and edited, long before its first run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

from charlab.errors import UserError


@dataclass
class _Load:
    at: int  # when the import began, in nanoseconds since the epoch
    reloaded: bool = False
    digest: str | None = None  # of its source, once that was looked at


class Loaded(MetaPathFinder):
    """Notes when modules are loaded; it finds none itself. What was there before counts as loaded when it began."""

    def __init__(self) -> None:
        self._loads: dict[str, _Load] = {}
        self._since = time.time_ns()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Note the time; let other finders find the module."""
        self._loads[fullname] = _Load(time.time_ns(), reloaded=target is not None)

    def check(self, name: str, digest: str, file: Path, importers: Iterable[str] = ()) -> None:
        """Raise `UserError` if a loaded module is not what its file holds now.

        Args:
            name: of the module.
            digest: of the file's source now.
            file: where that is.
            importers: modules that import it, which have to be reloaded after it.
        """
        load = self._loads.setdefault(name, _Load(self._since))
        if load.digest is None:
            edited = load.at < file.stat().st_mtime_ns <= time.time_ns()
            load.digest = None if edited else digest
        if load.digest != digest:
            raise UserError(
                f"{file} was edited after {name} had been imported: restart the kernel or program, or call "
                "importlib.reload on the module, and run again."
            )
        for importer in importers if load.reloaded else ():
            other = self._loads.get(importer, _Load(self._since))
            if importer in sys.modules and other.at < load.at:
                raise UserError(
                    f"{name} was reloaded, but {importer}, which imports it, still holds the former version: restart "
                    f"the kernel or program, or reload {importer} as well."
                )


LOADED = Loaded()
sys.meta_path.insert(0, LOADED)
