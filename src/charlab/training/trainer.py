"""Build Lightning's Trainer from the configuration of a run."""

from __future__ import annotations

import copy
import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelSummary,
    OnExceptionCheckpoint,
    ProgressBar,
    RichModelSummary,
    Timer,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, LayerSync, Precision
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from charlab.configuration.build import build
from charlab.configuration.messages import line_of_user, one_sentence
from charlab.data.datamodule import CharacterDataModule, micro_batch_size_of
from charlab.errors import UserError
from charlab.models.contract import CountedModel, LanguageModel
from charlab.models.mixture import Mixture
from charlab.models.side_effects import untouched_randomness
from charlab.training.callbacks.checkpointing import AtomicCheckpointIO, Checkpointing
from charlab.training.callbacks.metrics import TrainingMetrics
from charlab.training.callbacks.progress import ProgressDisplay
from charlab.training.checkpoint_file import LAST
from charlab.training.device import keep_freed_memory, resolve_device, resolve_precision

REFUSED = {
    GradientAccumulationScheduler: "changes the accumulation, which only divides data.batch_size here: change "
    "data.batch_size instead",
    BatchSizeFinder: "changes data.batch_size, which is the number of windows in an optimizer step: set it yourself",
    LearningRateFinder: "changes optimizer.lr within a run, which would no longer be what its record says: try "
    "charlab find-lr, or sweep over optimizer.lr with -m",
    OnExceptionCheckpoint: "makes Lightning start a new run from the checkpoint of a failed one: leave it out, or take "
    "a ModelCheckpoint with save_on_exception=true",
}

COUNTS = ("overfit_batches", "limit_train_batches", "limit_val_batches", "val_check_interval")
"""Settings that are a share if they are at most 1, else a number of batches."""


def build_trainer(
    node: dict[str, Any],
    folder: Path,
    data: CharacterDataModule,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    *,
    evaluate_every: int,
    max_seconds: float | None = None,
) -> Trainer:
    """Return the Trainer that `conf/trainer/*.yaml` describes, with the settings that depend on the run.

    Args:
        node: the arguments of Lightning's Trainer, with its `_target_`.
        folder: the run's folder.
        data: the data to train on, set up.
        callbacks: callbacks in addition to those of `node`.
        loggers: the run's loggers, which `logger: false` in `node` turns off.
        evaluate_every: optimizer steps between evaluations, unless Lightning's `val_check_interval` or
            `check_val_every_n_epoch` is set.
        max_seconds: budget in seconds of training, or None.

    Raises:
        UserError: if there is no budget, the machine lacks the device or does not support the strategy, or the batch
            cannot be divided evenly.
    """
    settings = dict(node)
    device = resolve_device(settings["accelerator"])
    settings["accelerator"] = {"cuda": "gpu"}.get(device, device)
    settings["precision"] = resolve_precision(settings["precision"], device)
    settings["default_root_dir"] = settings["default_root_dir"] or folder
    for key in ("enable_checkpointing", "enable_progress_bar", "enable_model_summary"):
        settings[key] = settings[key] is not False  # null is Lightning's default, true
    for key in COUNTS:  # Lightning takes 4.0 for 4, but not in all that depends on it
        if isinstance(settings[key], float) and settings[key] > 1 and settings[key].is_integer():
            settings[key] = int(settings[key])
    if settings["barebones"]:
        raise UserError(
            "trainer.barebones=true turns off loggers and checkpoints, which charlab needs: leave it out, and turn off "
            "what you do not need by itself (callbacks.samples=null, say)."
        )
    if not isinstance(settings["logger"], bool | None):
        raise UserError(
            "trainer.logger can only turn the loggers on or off: choose a logger in the group logger (logger=wandb, "
            "say), or add one with +logger.NAME={_target_: …}."
        )
    settings["logger"] = [] if settings["logger"] is False else list(loggers)
    settings = {key: _instantiated(value) for key, value in settings.items()}
    own = _as_list(settings["callbacks"])
    for number, callback in enumerate(own):
        check_callback(f"trainer.callbacks[{number}]", callback, data)
    settings["callbacks"] = _with_default_callbacks([*callbacks, TrainingMetrics(), *own], settings)
    for callback in settings["callbacks"]:
        if isinstance(callback, Checkpointing):  # Lightning would save in the folder of the first logger
            callback.dirpath = str((folder / LAST).parent)
        elif isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.CHECKPOINT_NAME_LAST = "last-v1"  # Lightning's name if there is a last.ckpt, which is charlab's
    # Otherwise Lightning would add its own checkpoints to a run that has none by choice.
    settings["enable_checkpointing"] = any(isinstance(part, Checkpoint) for part in settings["callbacks"])
    plugins = _as_list(settings["plugins"])
    for number, plugin in enumerate(plugins):
        if not isinstance(plugin, Precision | CheckpointIO | ClusterEnvironment | LayerSync):
            kind = type(plugin)
            raise UserError(
                f"trainer.plugins[{number}] is a {kind.__module__}.{kind.__name__}, which is not a Lightning plugin: "
                "name a Precision, CheckpointIO, ClusterEnvironment or LayerSync."
            )
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(AtomicCheckpointIO())
    settings["plugins"] = plugins
    if any(isinstance(plugin, Precision) for plugin in plugins) and node["precision"] in ("auto", None):
        settings["precision"] = None  # Lightning takes either
    _refuse_strategy(settings["strategy"])
    accumulated = settings["accumulate_grad_batches"]
    if accumulated < 1:
        raise UserError(f"trainer.accumulate_grad_batches={accumulated} divides a batch into nothing: set 1 or more.")
    batches = _batches_per_epoch(settings, data)
    _check_limits(settings, batches)
    if settings["max_steps"] is None:
        settings["max_steps"] = -1
    if settings["max_epochs"] is None:
        if settings["max_steps"] > 0:
            settings["max_epochs"] = math.ceil(settings["max_steps"] * accumulated / batches)
        elif max_seconds or settings["max_time"] or settings["fast_dev_run"] or _end_by_time(settings["callbacks"]):
            settings["max_epochs"] = -1
        else:
            raise UserError("The run has no budget: set trainer.max_steps, trainer.max_epochs or budget.max_seconds.")
    if settings["val_check_interval"] is None and settings["check_val_every_n_epoch"] is None:
        settings["val_check_interval"] = evaluate_every * accumulated
    elif settings["check_val_every_n_epoch"] is None and isinstance(settings["val_check_interval"], float):
        settings["check_val_every_n_epoch"] = 1  # Lightning's default, which a share of an epoch needs
    _quieten_lightning(shows_profile=settings["profiler"] is not None)
    if device == "cpu":
        keep_freed_memory()
    try:
        trainer: Trainer = get_object(settings.pop("_target_"))(**settings)
    except (MisconfigurationException, ValueError, ImportError, TypeError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        if "SLURM" in str(error):
            nodes, devices = settings["num_nodes"], settings["devices"]
            raise UserError(
                f"The tasks of this SLURM job do not fit trainer.num_nodes={nodes} and trainer.devices={devices} "
                f"({reason}): submit it with --nodes={nodes} --ntasks-per-node={devices}, or, to train in one process "
                "of this job, set SLURM_JOB_NAME=interactive before the command."
            ) from error
        raise UserError(
            f"Lightning cannot train on {device} with trainer.strategy={settings['strategy']} and "
            f"trainer.devices={settings['devices']} ({reason}): change what it names, or choose strategy=auto and "
            "devices=1."
        ) from error
    if not hasattr(trainer, "val_check_interval"):  # Lightning keeps no time, but `EarlyStopping` asks for it
        trainer.val_check_interval = settings["val_check_interval"]
    micro_batch_size_of(data.batch_size, trainer.world_size, accumulated)  # raises unless it divides evenly
    _check_processes(trainer, folder)
    return trainer


def has_several_processes(node: Mapping[str, Any]) -> bool:
    """Return whether a run with these settings of `conf/trainer/*.yaml` is more than one process."""
    devices = node["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = [device for device in devices.split(",") if device.strip()]  # "0," is one
    if isinstance(devices, str) and devices.strip().lstrip("-").isdigit():
        devices = int(devices)  # Lightning takes "2" for a number of devices, and "0,1" for a list of them
    if devices in ("auto", -1):
        device = resolve_device(node["accelerator"])
        several = device == "cuda" and torch.cuda.device_count() > 1
    else:
        several = len(devices) > 1 if isinstance(devices, Sequence) else devices > 1
    return several or node["num_nodes"] > 1


def _check_processes(trainer: Trainer, folder: Path) -> None:
    """Raise `UserError` if the other processes could not be started, or would never join."""
    launcher = trainer.strategy.launcher
    if launcher is not None and launcher.is_interactive_compatible:  # forks, which Lightning chooses in a notebook
        raise UserError(
            f"trainer.devices={trainer.num_devices} would start processes from the memory of this notebook, and what "
            "they learn would be lost with them: set trainer.devices=1, or train from a shell."
        )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size > 1 and isinstance(environment, LightningEnvironment) and '"' in str(folder):
        raise UserError(
            f"Lightning cannot start the other processes of a run in {folder}, whose name has a quotation mark: choose "
            "another output_dir."
        )
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "NODE_RANK" not in os.environ:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes} needs the same command on every node, with the environment "
            "variables NODE_RANK, MASTER_ADDR and MASTER_PORT or started by srun or torchrun: set them, or "
            "trainer.num_nodes=1."
        )


def check_precision(model: LanguageModel, trainer: Trainer) -> None:
    """Raise `UserError` if a model cannot compute, or keep its probabilities, in the precision of the trainer.

    On a CPU, for which torch lacks some kernels in half precision, a copy of the model computes the loss and gradient
    of one short window.
    """
    if isinstance(model, CountedModel) and str(trainer.precision) in ("bf16-true", "16-true"):
        raise UserError(
            f"trainer.precision={trainer.precision} would round the probabilities that {type(model).__name__} stores, "
            "which would no longer add up to 1: set trainer.precision=auto."
        )
    if (
        str(trainer.precision) not in ("bf16-mixed", "bf16-true", "16-true")
        or trainer.strategy.root_device.type != "cpu"
    ):
        return
    weights = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if not weights or isinstance(model, CountedModel | Mixture):
        return
    copied = trainer.precision_plugin.convert_module(copy.deepcopy(model))
    with untouched_randomness(torch.device("cpu")):
        try:
            with trainer.precision_plugin.train_step_context():
                loss = copied.loss(torch.zeros(1, 3, dtype=torch.long))
            loss.backward()
        except RuntimeError as error:  # NotImplementedError is one
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise UserError(
                f"{type(model).__name__} cannot compute in trainer.precision={trainer.precision} on a CPU ({reason}): "
                "set trainer.precision=32-true."
            ) from error


def check_callback(name: str, callback: Any, data: CharacterDataModule) -> None:
    """Raise `UserError` unless `callback` is a callback that a run may have.

    Args:
        name: key of the callback in the configuration.
        callback: the object to check.
        data: the data to train on, set up.
    """
    kind = type(callback)
    if not isinstance(callback, Callback):
        raise UserError(
            f"{name} is a {kind.__module__}.{kind.__name__}, which is not a Lightning callback: name a "
            "subclass of lightning.pytorch.Callback."
        )
    for refused, reason in REFUSED.items():
        if isinstance(callback, refused):
            raise UserError(f"{name} is a {kind.__name__}, which {reason}.")
    monitor = getattr(callback, "monitor", None)
    if isinstance(monitor, str):
        check_monitor(f"{name}.monitor={monitor}", monitor, data)


def check_monitor(what: str, monitor: str, data: CharacterDataModule) -> None:
    """Raise `UserError` if a choice depends on text that is only for reporting, or on a missing dev split.

    Args:
        what: the setting that makes the choice, for the message.
        monitor: the metric that it depends on.
        data: the data to train on, set up.
    """
    how = "set data.dev_fraction (0.05, say) for a dev split, and monitor dev/nll"
    if monitor.partition("/")[0] in ("validation", "test"):
        raise UserError(
            f"{what} would choose by text that is for reporting alone, so its figure would be too good: {how}."
        )
    if monitor.partition("/")[0] == "dev" and "dev" not in data.splits:
        raise UserError(f"{what} needs a dev split, which this run does not have: {how}.")


def _with_default_callbacks(callbacks: list[Callback], settings: Mapping[str, Any]) -> list[Callback]:
    """Return the callbacks with charlab's progress display and checkpoints added or removed as the settings ask."""
    others = any(isinstance(part, ProgressBar) and not isinstance(part, ProgressDisplay) for part in callbacks)
    if others or not settings["enable_progress_bar"]:
        callbacks = [part for part in callbacks if not isinstance(part, ProgressDisplay)]
    if settings["enable_model_summary"] and not any(isinstance(part, ModelSummary) for part in callbacks):
        callbacks.append(RichModelSummary(max_depth=4))  # Lightning's own would show one line, the whole model
    bars = [type(part).__name__ for part in callbacks if isinstance(part, ProgressBar)]
    if len(bars) > 1:
        raise UserError(f"A run shows one progress bar, and callbacks has {' and '.join(bars)}: leave one out.")
    if settings["enable_progress_bar"] and not any(isinstance(part, ProgressBar) for part in callbacks):
        callbacks.append(ProgressDisplay())
    if not settings["enable_checkpointing"]:
        callbacks = [part for part in callbacks if not isinstance(part, Checkpoint)]
    # Lightning calls checkpoints in the order of the list, and charlab's saves the state of the others.
    return sorted(callbacks, key=lambda part: isinstance(part, Checkpointing))


def _end_by_time(callbacks: Sequence[Callback]) -> bool:
    """Return whether one of the callbacks is a `Timer` that ends training."""
    return any(isinstance(part, Timer) and part.time_remaining() is not None for part in callbacks)


def _refuse_strategy(strategy: Any) -> None:
    if isinstance(strategy, str) and any(word in strategy for word in ("spawn", "fork", "notebook")):
        raise UserError(
            f"trainer.strategy={strategy} starts its processes from the memory of this one, and what they learn would "
            "be lost with them: set trainer.strategy=ddp."
        )
    named = isinstance(strategy, str) and strategy.startswith(("fsdp", "deepspeed"))
    if named or isinstance(strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        name = strategy if named else type(strategy).__name__
        raise UserError(
            f"trainer.strategy={name} divides the weights among processes, and charlab evaluates and saves the whole "
            "model: set trainer.strategy=ddp."
        )


def _batches_per_epoch(settings: Mapping[str, Any], data: CharacterDataModule) -> int:
    """Return the number of micro-batches per device in an epoch, by Lightning's rules."""
    accumulated = settings["accumulate_grad_batches"]
    length = data.steps_per_epoch * accumulated
    for key in ("overfit_batches", "limit_train_batches"):
        limit = settings[key]
        if not limit and (limit is None or key == "overfit_batches"):
            continue
        batches = min(limit, length) if isinstance(limit, int) else int(length * limit)
        if batches == 0:
            raise UserError(f"trainer.{key}={limit} leaves no batch of the {length} of an epoch: raise it.")
        if batches % accumulated:
            raise UserError(
                f"trainer.{key}={limit} ends an epoch after {batches} batches, in the middle of an optimizer step of "
                f"trainer.accumulate_grad_batches={accumulated}: make it a multiple of that."
            )
        return batches
    return length


def _check_limits(settings: Mapping[str, Any], batches: int) -> None:
    """Raise `UserError` for a budget of nothing, and for an interval of evaluations that fails in Lightning's loop.

    Args:
        settings: the arguments of Lightning's Trainer.
        batches: micro-batches per device in an epoch.
    """
    for key in ("max_steps", "max_epochs"):
        if settings[key] == 0:
            raise UserError(f"trainer.{key}=0 trains nothing: set it to 1 or more, or to -1 for no limit.")
    if settings["limit_val_batches"] == 0 or settings["fast_dev_run"]:
        return
    interval, epochs = settings["val_check_interval"], settings["check_val_every_n_epoch"]
    for key, value in (("val_check_interval", interval), ("check_val_every_n_epoch", epochs)):
        if isinstance(value, int) and value < 1:
            raise UserError(f"trainer.{key}={value} is no interval: trainer.limit_val_batches=0 turns evaluations off.")
    if isinstance(interval, int) and epochs is not None and interval > batches:
        raise UserError(
            f"trainer.val_check_interval={interval} is more than the {batches} batches of an epoch: lower it, or set "
            "trainer.check_val_every_n_epoch=null to count batches over all epochs."
        )


def _instantiated(value: Any) -> Any:
    """Return a setting with every node in it (a profiler, a plugin) instantiated."""
    if isinstance(value, Mapping) and "_target_" in value:
        try:
            return build(dict(value))
        except InstantiationException as error:
            raised = error.__cause__ or error
            where, target = line_of_user(raised), value["_target_"]
            place = f"{where}, with {target}" if where else f"{target} cannot be built"
            raise UserError(f"{place}: {type(raised).__name__}: {one_sentence(raised)}") from error
    return [_instantiated(part) for part in value] if isinstance(value, list) else value


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _quieten_lightning(*, shows_profile: bool) -> None:
    """Silence Lightning's advice about deliberate choices, but show a requested profile."""
    for part in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(part).setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.callbacks").setLevel(logging.INFO)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO if shows_profile else logging.ERROR)
    for message in (
        ".*does not have many workers.*",
        ".*sync_dist=True.*",  # what is logged is the same on all ranks
        ".*`srun` command is available.*",  # a study starts its own cells
        ".*this fit will run with no optimizer.*",
        ".*`training_step` returned `None`.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*is smaller than the logging interval.*",
    ):
        warnings.filterwarnings("ignore", message=message)
