"""How often training waits for the device, counted on a CPU: each number read from a tensor would be such a wait."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import charlab
from charlab.training.callbacks import progress
from charlab.training.callbacks.divergence import Divergence
from charlab.training.module import LanguageModelModule
from tests.helpers.tiny_runs import TINY

aten = torch.ops.aten
WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default)


def waits(function, args):
    """Whether an operation reads a number from the device, or has a size that only the device knows."""
    is_selection = function is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
    return function in WAITS or is_selection


class Readings(TorchDispatchMode):
    """Count what waits for the device while the training clock runs, by the optimizer steps done."""

    def __init__(self):
        super().__init__()
        self.by_step = Counter()
        self.module = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        is_training = self.module is not None and self.module.training_clock.running
        if is_training and waits(function, args):
            self.by_step[self.module.trainer.global_step] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def readings(monkeypatch):
    """Readings of the run that is trained, in which the watch for divergence takes the device for a GPU."""
    readings = Readings()
    on_train_start, on_train_batch_end = LanguageModelModule.on_train_start, Divergence.on_train_batch_end

    def begin(module):
        readings.module = module
        on_train_start(module)

    def on_gpu(callback, trainer, module, *rest):
        elsewhere = SimpleNamespace(device=torch.device("cuda"), last_loss=module.last_loss)
        on_train_batch_end(callback, trainer, elsewhere, *rest)

    monkeypatch.setattr(LanguageModelModule, "on_train_start", begin)
    monkeypatch.setattr(Divergence, "on_train_batch_end", on_gpu)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", math.inf)
    return readings


@pytest.mark.slow
def test_only_steps_that_are_logged_wait_for_the_device(text_path, tmp_path, readings):
    """With the callbacks that every run has, and clipping; a step that is logged reads a handful."""
    with readings:
        charlab.run(
            *TINY,
            f"data.path={text_path}",
            f"output_dir={tmp_path}",
            "trainer.max_steps=40",
            "trainer.accumulate_grad_batches=1",
            "trainer.gradient_clip_val=1.0",
            "trainer.log_every_n_steps=10",
            "callbacks.divergence.every_n_steps=10",
            "evaluate_every=20",
            "callbacks.checkpointing.every_n_steps=null",
        )
    assert set(readings.by_step) == {10, 20, 30, 40}
    assert max(readings.by_step.values()) <= 8


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")
def test_no_step_between_loggings_waits_for_a_gpu(text_path, tmp_path, monkeypatch):
    original = LanguageModelModule.on_train_batch_start

    def on_train_batch_start(module, batch, batch_idx):
        is_watched = 5 <= module.trainer.global_step < 25
        torch.cuda.set_sync_debug_mode("error" if is_watched else "default")
        original(module, batch, batch_idx)

    monkeypatch.setattr(LanguageModelModule, "on_train_batch_start", on_train_batch_start)
    rarely = [f"callbacks.{name}.every_n_steps=30" for name in ("divergence", "checkpointing")]
    try:
        charlab.run(
            *TINY,
            *rarely,
            "trainer.log_every_n_steps=30",
            "evaluate_every=30",
            f"data.path={text_path}",
            f"output_dir={tmp_path}",
            "trainer.max_steps=30",
            "trainer.accelerator=gpu",
            "trainer.gradient_clip_val=1.0",
            "callbacks.progress=null",
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
