"""What a step is spared of Lightning's bookkeeping, and that nothing else is."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from charlab.training.trainer import NoProfiler
from tests.training import options, small


class Note(Callback):
    """Notes what Lightning says the module is doing, and with which profiler."""

    def __init__(self) -> None:
        self.seen: dict[str, str | None] = {}
        self.profiler = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen["batch start"] = pl_module._current_fx_name
        self.profiler = trainer.profiler

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.seen["zero grad"] = pl_module._current_fx_name

    def on_train_end(self, trainer, pl_module):
        self.seen["end"] = pl_module._current_fx_name


def test_lightning_still_knows_which_hook_runs(tmp_path: Path):
    note = Note()
    model = small.SmallAttention(len(options.data().vocabulary))
    trained = options.train(tmp_path, model, optimizer=options.chosen("optimizer/adamw"), callbacks=[note])
    assert note.seen == {
        "batch start": "on_train_batch_start",
        "zero grad": "on_before_zero_grad",
        "end": "on_train_end",
    }
    assert trained._current_fx_name is None
    assert isinstance(note.profiler, NoProfiler)


def test_parameters_and_modules_are_still_registered():
    module = small.module(small.SmallAttention(5))
    module.scale, module.layer = nn.Parameter(torch.ones(3)), nn.Linear(2, 2)
    assert {"scale", "layer.weight", "layer.bias"} <= dict(module.named_parameters()).keys()
    module._current_fx_name = "training_step"
    assert module._current_fx_name == "training_step"
    with pytest.raises(TypeError, match="cannot assign"):
        module.layer = 3


def test_what_is_not_profiled_is_done_and_may_fail():
    profiler, done = NoProfiler(), []
    with profiler.profile("outer"), profiler.profile("inner"):
        done.append(1)
    assert done == [1]
    with pytest.raises(KeyError), profiler.profile("outer"):
        raise KeyError("lost")
