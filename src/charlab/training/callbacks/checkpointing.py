"""Checkpoints from which a killed run resumes bit for bit."""

from __future__ import annotations

import io
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from charlab.curves import FILE_NAME as CURVES
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.training.callbacks.divergence import Divergence
from charlab.training.checkpoint_file import BEST, LAST, read_checkpoint
from charlab.training.loggers import CSVLogger
from charlab.training.module import LanguageModelModule, is_over
from charlab.types import PositiveFloat, PositiveInt

_UNREADABLE = (pickle.PickleError, AttributeError, TypeError)


class Terminated(BaseException):
    """Raised when a signal has asked the process to end; in training, after a last checkpoint.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signal = signum


@contextmanager
def raising_terminated() -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM arrives, except in training, where `Checkpointing` decides.

    SIGUSR1, SLURM's warning, has no effect, as there is nothing new to save. Only the main thread handles signals; in
    any other, this does nothing.
    """

    def end(signum: int, frame: Any) -> None:
        signal.signal(signum, signal.SIG_DFL)  # a second one ends the process at once
        raise Terminated(signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[str, Any] = {"SIGTERM": end, "SIGUSR1": lambda signum, frame: None}
    numbers = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    former = {signum: signal.signal(signum, handler) for signum, handler in numbers.items()}
    try:
        yield
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


class Checkpointing(ModelCheckpoint):
    """Write `checkpoints/last.ckpt` periodically, at the end of training, and when a signal asks the process to end.

    If a checkpoint is due at a step that is also evaluated, it is written after the evaluation, so that a resumed run
    neither repeats nor misses the evaluation. With a dev split, every evaluation that is the best so far also writes a
    checkpoint, and `checkpoints/best.ckpt` is a copy of it. If a run is killed before the copy is made, the resumed run
    makes it.

    SIGTERM and Ctrl-C end training after the current step (`Terminated`). SIGUSR1, SLURM's warning, writes a checkpoint
    and training continues. If callbacks act between two epochs, a checkpoint due in between is written one step later.

    Args:
        every_n_steps: optimizer steps between checkpoints, or None.
        every_n_seconds: seconds between checkpoints, or None.
    """

    def __init__(self, *, every_n_steps: PositiveInt | None, every_n_seconds: PositiveFloat | None) -> None:
        super().__init__(filename="last", save_top_k=0, enable_version_counter=False)
        self.every_n_steps, self.every_n_seconds = every_n_steps, every_n_seconds
        self._last_step = 0  # latest optimizer step
        self._last_time = time.monotonic()  # of the latest checkpoint
        self._due = False
        self._warned = False  # by SIGUSR1
        self._signal: int | None = None
        self._ending: int | None = None
        self._former: dict[int, Any] = {}  # the handlers of signals outside training

    def on_train_start(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_step, self._last_time = trainer.global_step, time.monotonic()
        self._due = self._warned = False
        self._signal = self._ending = None
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGINT", "SIGUSR1"):  # after an error, Lightning restores the previous handlers
                if hasattr(signal, name):
                    signum = getattr(signal, name)
                    self._former[signum] = signal.signal(signum, self._note) or signal.SIG_DFL
        if trainer.global_step == 0 and not trainer.fast_dev_run:
            self._try(trainer)
            if _best_step(pl_module) == 0:
                self.save(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LanguageModelModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._last_step or trainer.fast_dev_run:  # gradients are still being accumulated
            return
        self._last_step = step
        due = self._due or self._warned or self._signal is not None
        if self.every_n_steps is not None and step % self.every_n_steps == 0:
            due = True
        if self.every_n_seconds is not None and time.monotonic() - self._last_time >= self.every_n_seconds:
            due = True
        # Clocks and signals may differ between processes, but all of them must save together.
        self._due, self._ending = trainer.strategy.broadcast((due, self._signal))
        if self._due and not (is_over(trainer) or validation_follows(trainer, batch_idx) or hooks_follow(trainer)):
            self.save(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        if trainer.state.fn == "validate" and 0 < trainer.global_step == _best_step(pl_module):
            self._keep_as_best(trainer)  # evaluated after training, with the weights of its last checkpoint
            return
        is_training = trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run
        if not is_training or is_over(trainer):  # `on_train_end` saves what the other callbacks leave behind
            return
        is_best = _best_step(pl_module) == trainer.global_step
        if pl_module.micro_batches % trainer.accumulate_grad_batches:  # no checkpoint holds the gradients so far
            if is_best:
                self.best_model_path = str(self._folder / Path(BEST).name)
                trainer.save_checkpoint(self.best_model_path)
        elif self._due or is_best:
            self.save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        """Do nothing: checkpoints do not depend on epochs."""

    def on_train_end(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        for signum, handler in self._former.items():  # what follows, such as a sample, may be ended at once
            signal.signal(signum, handler)
        if not trainer.fast_dev_run:
            self._ending = trainer.strategy.broadcast(self._signal)
            self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LanguageModelModule) -> None:
        """Replace the last checkpoint, unless training has diverged.

        Raises:
            DivergedError: if training has diverged.
            Terminated: if a signal has asked the process to end.
        """
        for callback in trainer.callbacks:
            if isinstance(callback, Divergence):
                callback.check(trainer, pl_module)
                callback.check_weights(trainer, pl_module)
        self.last_model_path = str(self._folder / Path(LAST).name)
        trainer.save_checkpoint(self.last_model_path)
        if trainer.global_step == _best_step(pl_module):
            self._keep_as_best(trainer)
        for logger in trainer.loggers if trainer.is_global_zero else []:
            logger.after_save_checkpoint(self)  # W&B and MLflow upload it, with log_model
        self._due = self._warned = False
        self._last_time = time.monotonic()
        if self._ending is not None:
            raise Terminated(self._ending)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the module keeps the best evaluation."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LanguageModelModule, checkpoint: dict[str, Any]) -> None:
        positions = {}
        for logger in trainer.loggers if trainer.is_global_zero else []:
            logger.save()  # otherwise a kill could lose lines logged before the checkpoint
            if isinstance(logger, CSVLogger):
                positions[CURVES] = logger.position()
        checkpoint["log_positions"] = positions
        checkpoint["best_step"] = _best_step(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LanguageModelModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and CURVES in checkpoint["log_positions"]:
                logger.rewind(checkpoint["log_positions"][CURVES])
        if checkpoint["global_step"] == checkpoint["best_step"]:
            self._keep_as_best(trainer)

    @property
    def _folder(self) -> Path:
        assert self.dirpath is not None  # known from `setup` on
        return Path(self.dirpath)

    def _note(self, signum: int, frame: Any) -> None:
        """Note a signal. A second SIGTERM or SIGINT has its default effect."""
        if signum == getattr(signal, "SIGUSR1", None):
            self._warned = True
            return
        self._signal = signum
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    def _try(self, trainer: Trainer) -> None:
        """Write a trial checkpoint before training, so that an unreadable one fails now rather than hours later."""
        trial = self._folder / "trial.ckpt"
        trainer.save_checkpoint(trial)
        trainer.strategy.checkpoint_io.teardown()  # waits for a plugin that writes in the background
        trainer.strategy.barrier("trial")
        if trainer.is_global_zero:
            trial.unlink(missing_ok=True)

    def _keep_as_best(self, trainer: Trainer) -> None:
        trainer.strategy.checkpoint_io.teardown()  # as in `_try`
        self.best_model_path = str(self._folder / Path(BEST).name)
        if trainer.is_global_zero:
            with (self._folder / Path(LAST).name).open("rb") as last:
                write_atomically(Path(self.best_model_path), lambda file: shutil.copyfileobj(last, file))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints atomically, and read them without executing code.

    A checkpoint that cannot be read back does not replace the previous one. In a remote folder, such as s3://…, this is
    left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if _is_remote(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            write_atomically(Path(path), partial(_write, checkpoint))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        if _is_remote(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        if _is_remote(path):
            super().remove_checkpoint(path)
        else:
            Path(path).unlink(missing_ok=True)


def _is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def _write(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    """Write a checkpoint to a file, and read it back without executing code and without its tensors' values.

    Raises:
        UserError: if a part cannot be read back; the message names it.
    """
    try:
        torch.save(checkpoint, file)
        file.flush()
        torch.load(file.name, map_location="meta", mmap=True, weights_only=True)
    except _UNREADABLE:
        _name_unreadable(checkpoint)
        raise


def _name_unreadable(checkpoint: dict[str, Any]) -> None:
    """Raise `UserError` for the first part of a checkpoint that cannot be read back without executing code."""
    parts = {f"the state of the callback {name}": state for name, state in checkpoint.get("callbacks", {}).items()}
    parts |= {f"“{name}”": part for name, part in checkpoint.items() if name != "callbacks"}
    for name, part in parts.items():
        file = io.BytesIO()
        try:
            torch.save(part, file)
            file.seek(0)
            torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            reason = str(error).strip().splitlines()[0].partition(". ")[0]
            raise UserError(
                f"A checkpoint could not be read back, because {name} holds more than numbers, text, lists, "
                f"dictionaries and tensors ({reason}): convert what it holds to those."
            ) from error


def validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether Lightning evaluates right after this batch."""
    every, every_n_epochs = trainer.val_check_batch, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every_n_epochs is not None and (trainer.current_epoch + 1) % every_n_epochs):
        return False
    if is_over(trainer):
        return True
    if every is None:
        return False
    counted = trainer.fit_loop.total_batch_idx if every_n_epochs is None else batch_idx
    return bool((counted + 1) % every == 0)


def hooks_follow(trainer: Trainer) -> bool:
    """Return whether callbacks act between this step and the next, which begins another epoch.

    A run that resumed from a checkpoint of this step would leave their hooks out, as Lightning takes the epoch for
    ended. False if every step ends an epoch.
    """
    steps = trainer.num_training_batches / trainer.accumulate_grad_batches
    return trainer.is_last_batch and steps > 1 and any(map(_acts_between_epochs, trainer.callbacks))


def _acts_between_epochs(callback: Callback) -> bool:
    hooks = ("on_train_epoch_end", "on_train_epoch_start")
    kind = type(callback)
    if kind is Checkpointing:
        return False
    return any(hook in vars(callback) or getattr(kind, hook) is not getattr(Callback, hook) for hook in hooks)


def _best_step(module: LanguageModelModule) -> int | None:
    """Return the step of the best evaluation on the dev split; None without a dev split."""
    return module.best["step"] if module.best is not None else None
