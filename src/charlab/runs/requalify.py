"""Check whether the current code reproduces what a finished run has logged."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from charlab.configuration.compose import compose, leave_out_sweep
from charlab.curves import FILE_NAME as CURVES
from charlab.errors import UserError
from charlab.runs.identity import identify
from charlab.runs.record import Record, now
from charlab.runs.store import Run, run_at
from charlab.runs.train import train

ROUNDING = 2.0**-21  # four units in the last place of float32, relative to the value
COMPARED = ("train/loss", "gradient_norm", "learning_rate")


def requalify(run: str | Path, *, points: int = 3, console: Console | None = None) -> bool:
    """Repeat the first logged steps of a finished run with the current code, and return whether all values are equal.

    If they are, the hash of the current code and today's fingerprint are added to the record, and the run's figures
    count as those of the current code. On the machine and with the libraries that the record names, values must be
    equal to the last digit; elsewhere they may differ by the rounding of float32.

    Args:
        run: the run's folder; or ARCHIVE/NAME/FINGERPRINT for one in an archive, such as `records`.
        points: number of logged steps to repeat.
        console: console to print to; standard output by default.

    Raises:
        UserError: if the run is not finished, has logged nothing, or has a configuration that can no longer be
            composed.
    """
    console, found = console or Console(), run_at(Path(run))
    record = found.record
    if record.status != "finished":
        raise UserError(f"The run {run} is {record.status}: only a finished run has figures to requalify.")
    logged = _points(found)
    steps = sorted({step for step, metric in logged if metric == COMPARED[0]})[:points]
    if not steps:
        raise UserError(f"The run {run} has logged no {COMPARED[0]} in {CURVES}, so there is nothing to repeat.")
    with tempfile.TemporaryDirectory() as folder:
        config = _config(record)
        identity = identify(config)
        code = identity.code
        with contextlib.suppress(_Enough):
            train(_ending(config, folder, steps[-1]), Path(folder, "run"), console=Console(quiet=True))
        again = Record.load(Path(folder, "run"))
        repeated = _points(Run(again))
    tolerance = 0.0 if _ran_on(again) == _ran_on(record) else ROUNDING
    compared = [key for key in logged if key[0] <= steps[-1] and key[1] in COMPARED]
    for step, metric in compared:
        if not math.isclose(repeated.get((step, metric), math.nan), logged[step, metric], rel_tol=tolerance):
            console.print(
                f"Today's code ({code}) does not repeat {record.folder}: {metric} at step {step} is "
                f"{repeated.get((step, metric), 'missing')}, and was {logged[step, metric]}.",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
            return False
    if not record.is_by(code):
        entry = {"code": code, "fingerprint": identity.fingerprint, "points": len(steps), "tolerance": tolerance}
        entry["date"] = now()
        record = dataclasses.replace(record, requalified=[*record.requalified, entry])
        record.save() if found.archive is None else found.archive.add(record)
    how = "to the last digit" if tolerance == 0 else "up to rounding, on another machine or with other libraries"
    console.print(
        f"Today's code ({code}) repeats {len(compared)} values up to step {steps[-1]} of {record.folder} {how}.",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    return True


class _Enough(Exception):
    """Raised when all points to compare have been logged."""


class Stop(Callback):
    """Stop training after a step.

    Args:
        step: the last optimizer step.
    """

    def __init__(self, *, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self.step:
            raise _Enough

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise _Enough


def _config(record: Record) -> DictConfig:
    """Return the configuration of a run, composed from its command line if an earlier version of charlab wrote it."""
    if record.sources:
        return OmegaConf.create(record.config)
    config = compose([*record.overrides, f"data.batch_size={record.config['data']['batch_size']}"])
    leave_out_sweep(config)
    return config


def _ending(config: DictConfig, output_dir: str, step: int) -> DictConfig:
    """Return the configuration of a run, changed to write into `output_dir` and to stop after `step`."""
    with open_dict(config):
        config.output_dir, config.force = output_dir, False
        decorative = ("samples", "attention_maps", "progress", "checkpointing")
        kept = {name: part for name, part in (config.callbacks or {}).items() if name not in decorative}
        config.callbacks = {**kept, "stop": {"_target_": f"{__name__}.{Stop.__name__}", "step": step}}
        config.logger = {"csv": {"_target_": "charlab.training.loggers.CSVLogger"}}
    return config


def _ran_on(record: Record) -> tuple[dict[str, Any], dict[str, str]]:
    return record.machine, {name: version for name, version in record.versions.items() if name != "charlab"}


def _points(run: Run) -> dict[tuple[int, str], float]:
    """Return the values that a run has logged, by step and metric."""
    curves = run.curves()
    return dict(zip(zip(curves["step"], curves["metric"], strict=True), curves["value"], strict=True))
