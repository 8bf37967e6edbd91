"""Runs of the shipped choices of an optimizer, an average or an objective, small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import OmegaConf
from torch import Tensor

from charlab.configuration.build import build
from charlab.configuration.sources import conf_folder
from charlab.data.datamodule import CharacterDataModule
from charlab.models.contract import LanguageModel
from charlab.training.callbacks.checkpointing import Checkpointing
from charlab.training.callbacks.compilation import Compilation
from charlab.training.checkpoint_file import LAST
from charlab.training.module import LanguageModelModule
from charlab.training.objectives import Objective
from charlab.training.schedules import Schedule, WarmupCosine
from charlab.training.trainer import build_trainer
from tests.training import small


def chosen(name: str, **changes: Any) -> Any:
    """Return what the file `conf/NAME.yaml` describes, with changes."""
    return build(OmegaConf.merge(OmegaConf.load(conf_folder() / f"{name}.yaml"), changes))


class RaiseAt(Callback):
    """End training with an exception after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("the power failed")


def data(order: str = "random") -> CharacterDataModule:
    served = small.datamodule()
    served.order = order
    return served


def train(
    folder: Path,
    model: LanguageModel,
    *,
    optimizer: Any,
    callbacks: list[Callback] | None = None,
    objective: Objective | None = None,
    schedule: Schedule | None = None,
    order: str = "random",
    epoch_steps: int | None = None,
    max_steps: int = 6,
    **trainer_settings: Any,
) -> LanguageModelModule:
    """Train a model, or resume where `folder` has a checkpoint; there is one every two steps."""
    served = data(order)
    served.epoch_steps = epoch_steps
    served.batch_size *= trainer_settings.get("accumulate_grad_batches", 1)
    module = LanguageModelModule(
        model,
        optimizer=optimizer,
        schedule=schedule or WarmupCosine(warmup=0.4, final=0.1),
        objective=objective,
    )
    checkpointing = Checkpointing(every_n_steps=2, every_n_seconds=None)
    compilation = Compilation(trainer_settings.pop("compile", False))
    settings = OmegaConf.to_container(OmegaConf.load(conf_folder() / "trainer" / "auto.yaml"))
    changes = {
        "accelerator": "cpu",
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks or []),
        "limit_val_batches": 0,
        "max_steps": max_steps,
        **trainer_settings,
    }
    trainer = build_trainer(
        {**settings, **changes}, folder, served, [compilation, *(callbacks or []), checkpointing], [], evaluate_every=2
    )
    last = folder / LAST
    torch.manual_seed(1)
    trainer.fit(module, datamodule=served, ckpt_path=last if last.exists() else None, weights_only=True)
    return module


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / LAST, weights_only=True)


def assert_same_bits(ours: Any, theirs: Any) -> None:
    """Compare what checkpoints hold, however nested."""
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same_bits(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same_bits(a, b)
    else:
        assert ours == theirs
