"""Import what cells need, in the fork server; nothing else imports this module.

The garbage collector never scans imported objects, so the server is ready a second earlier, and cells do not copy the
memory that they share with it.
"""

import contextlib
import gc
import importlib
import pkgutil
from pathlib import Path

LIBRARIES = ("torch", "torch.utils.tensorboard", "lightning.pytorch", "matplotlib.figure", "charlab.studies.forks")
PARTS = tuple(f"charlab.{part}." for part in ("data", "evaluation", "generation", "models", "training", "runs"))

gc.disable()
own = [module.name for module in pkgutil.walk_packages([str(Path(__file__).parents[1])], "charlab.")]
for name in (*LIBRARIES, *(name for name in own if name.startswith(PARTS))):
    with contextlib.suppress(ImportError):  # of an extra that is not installed
        importlib.import_module(name)
gc.freeze()
gc.enable()
