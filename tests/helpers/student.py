"""A student's own model in two modules and a callback in a third, to be edited."""

import importlib
import sys
from pathlib import Path

MODEL = '''
from torch import nn

from charlab.models.contract import AutoregressiveModel
from studentparts import readout


class Mine(AutoregressiveModel):
    """A bigram."""

    def __init__(self, vocab_size: int, *, context_length: int = 8) -> None:
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, tokens):
        return readout(self.table(tokens))
'''
PARTS = """
def readout(x):
    return 1.0 * x
"""
CALLBACK = '''
from lightning.pytorch import Callback


class Shrink(Callback):
    """It makes all weights smaller."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        for parameter in pl_module.parameters():
            parameter.data.mul_(0.9)
'''
MODULES = {"studentparts": PARTS, "studentmodel": MODEL, "studentcallback": CALLBACK}  # each after those it imports


def write(folder: Path) -> None:
    """Write the modules into a new folder."""
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text)


def edit(path: Path, former: str, new: str) -> None:
    """Replace a text in a file, which must have it."""
    text = path.read_text()
    assert former in text
    path.write_text(text.replace(former, new))


def reload() -> None:
    """Reload those of the modules that are imported."""
    for name in MODULES:
        if name in sys.modules:
            importlib.reload(sys.modules[name])


def forget() -> None:
    """Make Python import the modules again."""
    for name in MODULES:
        sys.modules.pop(name, None)
