"""Checkpoints from which a killed run goes on, to the same bits."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from charlab.files import write_atomically
from charlab.training.callbacks.divergence import Divergence
from charlab.training.callbacks.evaluation import Evaluation
from charlab.training.module import LanguageModelModule
from charlab.training.ranks import from_every_rank, own_part
from charlab.types import PositiveInt, PositiveOrInfinite

LAST, BEST = "checkpoints/last.ckpt", "checkpoints/best.ckpt"


class Checkpointing(Checkpoint):
    """Writes `checkpoints/last.ckpt` now and then, and at the end of training.

    Beside what Lightning saves it holds the state of each process's random-number generators (dropout), how far the
    logs had been written, and what is needed to use the model without the run: its configuration and the vocabulary.
    Lightning calls a `Checkpoint` after all other callbacks, so whatever else a step logs is logged before.

    Where there is a dev split, an evaluation that is the best on it so far makes a checkpoint too, of which
    `checkpoints/best.ckpt` is a copy. A run killed between the two makes the copy when it goes on, so a checkpoint
    and what it says of the best one never part.

    Args:
        folder: the run's folder.
        description: added to each checkpoint; `model_config` and `vocabulary`.
        every_n_steps: how many optimizer steps lie between two checkpoints, or None.
        every_n_seconds: how many seconds lie between two checkpoints, or None.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        *,
        every_n_steps: PositiveInt | None,
        every_n_seconds: PositiveOrInfinite | None,
    ) -> None:
        self.folder, self.description = folder, description
        self.every_n_steps, self.every_n_seconds = every_n_steps, every_n_seconds
        self._training_over = False
        self._last_step = 0
        self._last_time = time.monotonic()
        self._random_states: list[Any] | None = None  # of the processes of the run that goes on

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        self._last_step, self._last_time = trainer.global_step, time.monotonic()
        if self._random_states is not None:
            own = own_part(self._random_states)
            if own is not None:
                _restore_random_state(own, pl_module.device)
            self._random_states = None
        elif trainer.global_step == _best_step(trainer):
            self.save(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LanguageModelModule, *_: Any) -> None:
        if trainer.global_step == self._last_step:  # in the middle of accumulating a gradient
            return
        if trainer.global_step == trainer.max_steps:  # `on_train_end` saves, after what else is done there
            return
        due = trainer.global_step == _best_step(trainer)
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            due = True
        if self.every_n_seconds is not None and time.monotonic() - self._last_time >= self.every_n_seconds:
            due = True
        if trainer.strategy.broadcast(due):  # clocks differ, but all processes have to save together
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        self._training_over = True
        self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        """Writes the checkpoint in place of the former one, unless training has diverged."""
        for callback in trainer.callbacks:
            if isinstance(callback, Divergence):
                callback.check(trainer, pl_module)
                callback.check_weights(trainer, pl_module)
        trainer.save_checkpoint(self.folder / LAST)
        if trainer.global_step == _best_step(trainer):
            self._keep_as_best(trainer)
        self._last_step, self._last_time = trainer.global_step, time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LanguageModelModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.description)
        checkpoint["random_states"] = from_every_rank(_random_state(pl_module.device))
        checkpoint["log_positions"] = {type(logger).__name__: logger.positions() for logger in trainer.loggers}
        checkpoint["best_step"] = _best_step(trainer)
        checkpoint["training_over"] = self._training_over

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LanguageModelModule, checkpoint: dict[str, Any]) -> None:
        self._random_states = checkpoint["random_states"]
        for logger in trainer.loggers:
            logger.rewind(checkpoint["log_positions"].get(type(logger).__name__, {}))
        if checkpoint["global_step"] == checkpoint["best_step"]:
            self._keep_as_best(trainer)

    def _keep_as_best(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            with (self.folder / LAST).open("rb") as last:
                write_atomically(self.folder / BEST, lambda file: shutil.copyfileobj(last, file))


def _best_step(trainer: Trainer) -> int | None:
    """Returns the step of the evaluation that was the best on the dev split; None if there is no such split."""
    best = next((callback.best for callback in trainer.callbacks if isinstance(callback, Evaluation)), None)
    return best["step"] if best is not None else None


def _random_state(device: torch.device) -> dict[str, Any]:
    """Returns the state of every global generator that a training step might draw from."""
    name, keys, position, has_gauss, cached = cast("tuple[Any, ...]", np.random.get_state())  # noqa: NPY002  (a user's model may draw from it)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
