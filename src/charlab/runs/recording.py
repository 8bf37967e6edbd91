"""Fill in a run's record before training, and its results after training."""

from __future__ import annotations

import contextlib
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
from charlab.data.corpora import home_expanded
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

KNOWN = ("charlab.", "lightning.")  # packages whose callbacks are not listed
# Parts of the configuration that TensorBoard shows next to the final metrics of each run.
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
    """Return the record of a run that is about to train; a resumed run keeps its start time and clock.

    Args:
        folder: the run's folder.
        config: a composed `conf/train.yaml`.
        overrides: the command line.
        model: the model before training.
        model_config: configuration of the model, in which finished runs are expanded.
        data: the data to train on.
        trainer: the trainer.
        device: the device to train on.
    """
    corpus, identity = data.corpus, identify(config)
    record = Record(
        folder=folder,
        name=config.name,
        fingerprint=identity.fingerprint,
        overrides=list(overrides),
        config=plain(config) | {"model": model_config, "data": _located(plain(config.data))},
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
    if (folder / LAST).exists():  # resumed after a kill
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
    """Score the model on the whole validation text with `blocks` and `sliding`, and add the scores to the record."""
    ids = data.ids("validation", device)
    sizes = {"context_length": data.context_length, "batch_size": data.micro_batch_size}
    blocks = evaluate(model, ids, Blocks(), **sizes)
    _keep_characters(record, blocks)
    sliding = evaluate(model, ids, Sliding(blocks=blocks), **sizes)
    record.metrics += [{"split": "validation", **score.as_dict()} for score in (blocks, sliding)]


def _keep_characters(record: Record, score: Score) -> None:
    """Save the nll of each character, in nats, and its sums by scene, which studies compare."""
    per_character = score.per_character
    assert per_character is not None
    write_atomically(record.folder / "nll.npy", lambda file: np.save(file, per_character))
    starts = np.arange(0, len(per_character), SCENE_LENGTH)
    record.scenes = np.add.reduceat(per_character, starts, dtype=np.float64).tolist()


def log_outcome(record: Record, loggers: Sequence[Logger], *, num_logged: int, weights: Mapping[str, float]) -> None:
    """Log the final results.

    Args:
        record: the record, with all its metrics.
        loggers: the run's loggers.
        num_logged: number of metrics, from the first, that were already logged in training.
        weights: weight of each member of a mixture, by name.
    """
    figures = {f"{entry['protocol']}/{entry['split']}/nll": entry["nll"] for entry in record.metrics}
    new = dict(list(figures.items())[num_logged:]) | {f"weight/{name}": weight for name, weight in weights.items()}
    measured = {name: value for name, value in new.items() if value is not None}
    clock = {"characters": record.characters_seen, "seconds": record.time["training_s"]}
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):  # TensorBoard shows them in the HParams tab
            logger.log_metrics({**measured, **clock}, record.steps)
    log_hyperparameters(record, loggers, figures)


def log_hyperparameters(record: Record, loggers: Sequence[Logger], figures: Mapping[str, float | None]) -> None:
    """Add the run, with its settings and final results, to TensorBoard's table of hyperparameters."""
    hyperparameters = {part: record.config[part] for part in HYPERPARAMETERS}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_outcome(hyperparameters, figures, record.steps, succeeded=bool(figures))


def describe_machine(device: torch.device, trainer: Trainer) -> dict[str, Any]:
    """Return the record's entry `machine`: device, precision, threads and processes."""
    return {
        "device": device.type,
        "name": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory use in bytes: of the device on a GPU, of the process otherwise; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor() -> str:
    """Return the name of the processor; "CPU" if the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def now() -> str:
    """Return the current time in the format of a record: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _located(data: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the data with absolute paths of the files, which hold in any working folder."""

    def located(value: Any) -> Any:
        path = home_expanded(value) if isinstance(value, str) else None
        return str(path.absolute()) if path is not None and path.is_file() else value

    corpus = {key: located(value) for key, value in data["corpus"].items()}
    return data | {"corpus": corpus} | ({"path": located(data["path"])} if "path" in data else {})
