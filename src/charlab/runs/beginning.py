"""The beginning of a run's record: what is known before the first step."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig

from charlab.configuration.build import plain
from charlab.data.datamodule import CharacterDataModule
from charlab.errors import UserError
from charlab.models.contract import LanguageModel
from charlab.runs.identity import identify
from charlab.runs.machine import describe_machine
from charlab.runs.record import Record, git_commit, installed_versions
from charlab.training.callbacks.checkpointing import LAST
from charlab.training.flops import count_flops


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
    """Returns the record of a run that is about to train; of a killed one, with the clock where that has left it.

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


def now() -> str:
    """Returns the time, to the second, as a record has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
