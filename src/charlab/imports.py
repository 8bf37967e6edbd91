"""Importing Lightning without what it brings along for nothing."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

HEAVY, NEEDED = "scipy.signal", "hamming"


def import_lightning() -> None:
    """Imports Lightning's torchmetrics without `scipy.signal`, a third of the memory that importing Lightning takes.

    torchmetrics looks whether `scipy.signal` has an old name, to define it where it is missing (version 1.9,
    `torchmetrics/__init__.py`), and does nothing else with it. So it finds an empty module in that place meanwhile.
    Whoever imports `scipy.signal` later gets the true one. Where torchmetrics or `scipy.signal` is there already, this
    does nothing.
    """
    if "torchmetrics" in sys.modules or HEAVY in sys.modules:
        return
    empty = ModuleType(HEAVY)
    setattr(empty, NEEDED, None)
    sys.modules[HEAVY] = empty
    try:
        importlib.import_module("torchmetrics")
    finally:
        del sys.modules[HEAVY]
