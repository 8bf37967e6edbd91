"""Lightning's Trainer, with the settings that a run of charlab needs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from charlab.errors import UserError
from charlab.training.callbacks.compilation import Compilation, Compile
from charlab.training.checkpoint_io import AtomicCheckpointIO
from charlab.training.device import Accelerator, Precision, resolve_device, resolve_precision
from charlab.training.memory import keep_freed_memory
from charlab.types import PositiveInt, PositiveOrInfinite

LIGHTNING_PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed", "float64": "64-true"}


def build_trainer(
    folder: Path,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    *,
    accelerator: Accelerator,
    devices: PositiveInt,
    num_nodes: PositiveInt,
    strategy: str,
    precision: Precision,
    max_steps: PositiveInt | None,
    max_seconds: PositiveOrInfinite | None,
    accumulate_grad_batches: PositiveInt,
    gradient_clip_val: PositiveOrInfinite | None,
    deterministic: bool,
    threads: PositiveInt | None,
    compile: Compile,
) -> Trainer:
    """Returns a Trainer for one run, which leaves what it writes in `folder`.

    `conf/trainer/auto.yaml` says what each setting means.

    Raises:
        UserError: if there is no budget, the accelerator is not there, or Lightning has no such strategy or devices.
    """
    if max_steps is None and max_seconds is None:
        raise UserError("The run has no budget: set trainer.max_steps, trainer.max_seconds or both.")
    device = resolve_device(accelerator)
    resolved_precision = resolve_precision(precision, device)
    _quieten_lightning()
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    try:
        return Trainer(
            default_root_dir=folder,
            accelerator={"cuda": "gpu"}.get(device, device),
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=LIGHTNING_PRECISION[resolved_precision],
            max_epochs=-1,
            max_steps=max_steps or -1,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val,
            deterministic=deterministic,
            callbacks=[Compilation(compile), *callbacks],
            logger=list(loggers),
            plugins=[AtomicCheckpointIO()],
            profiler=NoProfiler(),
            # What follows is charlab's own: evaluation, checkpoints, progress bar and summary are its callbacks.
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            inference_mode=False,
            log_every_n_steps=1,
        )
    except (MisconfigurationException, ValueError, ImportError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise UserError(
            f"Lightning cannot train on {device} with trainer.strategy={strategy} and trainer.devices={devices} "
            f"({reason}): choose strategy=auto and devices=1, or what it can."
        ) from error


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, as Lightning's own does by default, but at hardly any cost: a step asks sixty times."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:
        return _NOTHING


_NOTHING = nullcontext()


def _quieten_lightning() -> None:
    """Keeps Lightning from advising on what is meant as it is."""
    for part in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(part).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")  # a study starts its cells itself
    warnings.filterwarnings("ignore", message=".*this fit will run with no optimizer.*")
    warnings.filterwarnings("ignore", message=".*`training_step` returned `None`.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
