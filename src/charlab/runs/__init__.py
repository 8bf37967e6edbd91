"""Runs: from a configuration to a record, and back. The module is also a function: `charlab.runs()` lists them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class _Runs(ModuleType):
    def __call__(self, *filters: str, output_dir: str | Path = "outputs", protocol: str = "blocks") -> pd.DataFrame:
        """Return a table of runs, like `charlab runs FILTERS`: figures, costs, and the settings in which they differ.

        >>> charlab.runs("model=gpt", "nll<1.8").sort_values("nll")

        Args:
            filters: conditions on columns and settings, one string each.
            output_dir: the folder of all outputs.
            protocol: protocol of the figures.
        """
        from charlab.runs.listing import list_runs, table

        return table(list_runs(Path(output_dir), filters, protocol=protocol))


# The function has the package's name, so the package itself is callable. A module's `__getattr__` cannot do that; this
# assignment can, and is documented: docs.python.org/3/reference/datamodel.html#customizing-module-attribute-access.
sys.modules[__name__].__class__ = _Runs
