"""A laboratory for small character-level language models.

>>> import charlab
>>> record = charlab.run("experiment=part1/bigram", "trainer.max_steps=100")
>>> model, vocabulary = charlab.load(record.folder)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import charlab.module_loads  # noqa: F401  (records from now on when modules are loaded)
from charlab.errors import UserError

if TYPE_CHECKING:
    from charlab import runs
    from charlab.api import evaluate, export, generate, load, requalify, run, study, verify

__all__ = ["UserError", "evaluate", "export", "generate", "load", "requalify", "run", "runs", "study", "verify"]
__version__ = "0.2.0.dev0"


def __getattr__(name: str) -> Any:
    """Import names on first use, so that `import charlab` alone does not take the seconds that torch takes."""
    if name == "runs":
        return importlib.import_module("charlab.runs")
    if name in __all__:
        from charlab import api

        return getattr(api, name)
    raise AttributeError(f"module 'charlab' has no attribute {name!r}")
