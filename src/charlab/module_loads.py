"""Record when this process loads each module, in order to notice files that are edited afterwards.

`import charlab` starts the recording, since a user may import and edit a model long before its first run.
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
    digest: str | None = None  # digest of the loaded source, once known


class ModuleLoads(MetaPathFinder):
    """Meta path finder that records load times and finds no modules itself.

    Modules loaded before this finder was created count as loaded at its creation.

    Attributes:
        reloads: number of modules that this process has reloaded.
    """

    reloads = 0

    def __init__(self) -> None:
        self._loads: dict[str, _Load] = {}
        self._since = time.time_ns()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Record the time and leave the module to the other finders."""
        self.reloads += target is not None
        self._loads[fullname] = _Load(time.time_ns(), reloaded=target is not None)

    def check(self, name: str, digest: str, file: Path, importers: Iterable[str] = ()) -> None:
        """Raise `UserError` if a loaded module differs from the current source in its file.

        Args:
            name: name of the module.
            digest: digest of the current source.
            file: file of the source.
            importers: modules that import this one, and must be reloaded after it.
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


MODULE_LOADS = ModuleLoads()
sys.meta_path.insert(0, MODULE_LOADS)
