"""What a run's record holds before the first step and after the last one."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from charlab.configuration.build import plain
from charlab.data.datamodule import CharacterDataModule
from charlab.errors import UserError
from charlab.evaluation.protocols import Blocks, Score, Sliding, evaluate
from charlab.files import write_atomically
from charlab.models.contract import LanguageModel
from charlab.runs.identity import identify
from charlab.runs.record import SCENE_LENGTH, Record, git_commit, installed_versions
from charlab.training.callbacks.checkpointing import LAST
from charlab.training.flops import count_flops
from charlab.training.loggers import TensorBoardLogger

KNOWN = ("charlab.", "lightning.")  # whose callbacks they are
# What TensorBoard shows besides the final metrics of each run.
HYPERPARAMETERS = (
    "model",
    "data",
    "optimizer",
    "scheduler",
    "objective",
    "averaging",
    "trainer",
    "budget",
    "compute",
    "seed",
)


def begin_record(
    folder: Path,
    config: DictConfig,
    overrides: Sequence[str],
    *,
    model: LanguageModel,
    model_config: dict[str, Any],
    data: CharacterDataModule,
    trainer: Trainer,
    device: torch.device,
) -> Record:
    """Return the record of a run that is about to train; of a killed one, with the clock where that has left it.

    Args:
        folder: of the run.
        config: a composed `conf/train.yaml`.
        overrides: the command line.
        model: as it is before training.
        model_config: its part of the configuration, with finished runs spelled out.
        data: what it will be trained on.
        trainer: what will train it.
        device: where.
    """
    corpus, identity = data.corpus, identify(config)
    record = Record(
        folder=folder,
        name=config.name,
        fingerprint=identity.fingerprint,
        overrides=list(overrides),
        config=plain(config) | {"model": model_config},
        seed=config.seed,
        corpus={"name": corpus.name, "sha256": corpus.sha256, "characters": len(corpus.text)},
        machine=describe_machine(device, trainer),
        versions=installed_versions(),
        code=identity.code,
        sources=dict(identity.sources),
        git_commit=git_commit(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        floor={split: floor for split in data.splits if (floor := data.floor(split)) is not None},
        callbacks=[name for part in trainer.callbacks if not (name := _class_name(part)).startswith(KNOWN)],
        started=now(),
    )
    if (folder / LAST).exists():  # killed before: go on with its clock
        with contextlib.suppress(UserError):
            former = Record.load(folder)
            record.started, record.time = former.started, {"setup_s": former.time.get("setup_s", 0.0)}
            if former.code is not None and former.code != record.code:
                record.begun_by = [*former.begun_by, former.code]
    record.flops_per_step = count_flops(model, batch_size=data.batch_size, window_length=data.context_length + 1)
    return record


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def score_validation(record: Record, model: LanguageModel, data: CharacterDataModule, device: torch.device) -> None:
    """Add to the record what the model scores on the whole validation text, by both protocols that cover it."""
    ids = data.ids("validation", device)
    sizes = {"context_length": data.context_length, "batch_size": data.micro_batch_size}
    blocks = evaluate(model, ids, Blocks(), **sizes)
    _keep_characters(record, blocks)
    sliding = evaluate(model, ids, Sliding(blocks=blocks), **sizes)
    record.metrics += [{"split": "validation", **score.as_dict()} for score in (blocks, sliding)]


def _keep_characters(record: Record, score: Score) -> None:
    """Save what each character costs, in nats, and their sums by scene: what studies compare."""
    per_character = score.per_character
    assert per_character is not None
    write_atomically(record.folder / "nll.npy", lambda file: np.save(file, per_character))
    starts = np.arange(0, len(per_character), SCENE_LENGTH)
    record.scenes = np.add.reduceat(per_character, starts, dtype=np.float64).tolist()


def log_outcome(record: Record, loggers: Sequence[Logger], *, num_logged: int, weights: Mapping[str, float]) -> None:
    """Write the final figures besides the curves.

    Args:
        record: with all its metrics.
        loggers: of the run.
        num_logged: how many of the metrics, from the first on, were logged in training.
        weights: what each member of a mixture weighs.
    """
    figures = {f"{entry['protocol']}/{entry['split']}/nll": entry["nll"] for entry in record.metrics}
    new = dict(list(figures.items())[num_logged:]) | {f"weight/{name}": weight for name, weight in weights.items()}
    measured = {name: value for name, value in new.items() if value is not None}
    clock = {"characters": record.characters_seen, "seconds": record.time["training_s"]}
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):  # which lists them with the hyperparameters
            logger.log_metrics({**measured, **clock}, record.steps)
    log_hyperparameters(record, loggers, figures)


def log_hyperparameters(record: Record, loggers: Sequence[Logger], figures: Mapping[str, float | None]) -> None:
    """List the run besides others with its settings and final figures, if it has any."""
    hyperparameters = {part: record.config[part] for part in HYPERPARAMETERS}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_outcome(hyperparameters, figures, record.steps, succeeded=bool(figures))


def describe_machine(device: torch.device, trainer: Trainer) -> dict[str, Any]:
    """Return a record's entry on the machine: what the run computes on, and with how much of it."""
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use so far: of the device on a GPU, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def now() -> str:
    """Return the time, to the second, as a record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
