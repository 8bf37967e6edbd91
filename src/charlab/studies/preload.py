"""Import what cells need, in the fork server; nothing else imports this module.

What the imports allocate is no garbage, and never scanned: the server is ready a second earlier, and no cell copies the
memory that it shares with the server because the garbage collector has written to it.
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
