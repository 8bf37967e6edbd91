"""Check whether the current code reproduces what a finished run logged."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, open_dict
from rich.console import Console

from charlab.configuration.build import literal
from charlab.configuration.compose import compose, leave_out_sweep
from charlab.curves import FILE_NAME as CURVES
from charlab.errors import UserError
from charlab.notebook import Output
from charlab.runs.display import tell
from charlab.runs.folder import locked
from charlab.runs.identity import Identity, identify, reads_evaluations
from charlab.runs.record import Record, now
from charlab.runs.store import Run, run_at
from charlab.runs.train import train
from charlab.training.device import set_threads
from charlab.training.module import LanguageModelModule

ROUNDING = 2.0**-21  # four units in the last place of float32, relative to the value
COMPARED = ("train/loss", "gradient_norm", "learning_rate")


@dataclass(frozen=True)
class Repetition:
    """The first logged values of a finished run, next to those that the current code computes.

    Attributes:
        run: the run.
        identity: the identity that the run has today.
        steps: the logged steps that were repeated.
        values: the logged value and today's, by step and metric; today's is NaN if it is missing.
        tolerance: the largest relative difference at which values are equal.
    """

    run: Run
    identity: Identity
    steps: tuple[int, ...]
    values: Mapping[tuple[int, str], tuple[float, float]]
    tolerance: float

    @property
    def on_same_machine(self) -> bool:
        """Whether the machine and the libraries are those that the record names, so that every digit counts."""
        return self.tolerance == 0

    @property
    def differing(self) -> list[tuple[int, str]]:
        """The steps and metrics at which values differ, in the order of the steps."""
        return [key for key, pair in self.values.items() if not math.isclose(*pair, rel_tol=self.tolerance)]

    @property
    def first_difference(self) -> float:
        """The largest relative difference at the first step at which values differ; 0 if none do.

        Later steps tell less, because training amplifies differences.
        """
        first = next((step for step, _ in self.differing), None)
        pairs = [pair for (step, _), pair in self.values.items() if step == first]
        return max((_relative(former, now) for former, now in pairs), default=0.0)


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
        UserError: if the run is not finished, has logged nothing, has a configuration that can no longer be composed,
            or had a budget in seconds without a record of the clock at its first steps.
    """
    console, repetition = console or Output(), repeat(run, points=points)
    record, code = repetition.run.record, repetition.identity.code
    for step, metric in repetition.differing[:1]:
        former, now = repetition.values[step, metric]
        value = "missing" if math.isnan(now) else now
        outcome = f"{metric} at step {step} is {value}, and was {former}"
        tell(console, f"Today's code ({code}) does not reproduce {record.folder}: {outcome}.")
        return False
    record_requalification(repetition)
    elsewhere = "up to rounding, on another machine or with other libraries"
    how = "to the last digit" if repetition.on_same_machine else elsewhere
    values = f"{len(repetition.values)} values up to step {repetition.steps[-1]}"
    tell(console, f"Today's code ({code}) reproduces {values} of {record.folder} {how}.")
    return True


def repeat(run: str | Path, *, points: int = 3) -> Repetition:
    """Repeat the first logged steps of a finished run with the current code. Changes no record.

    The arguments and errors are those of `requalify`.
    """
    found = run_at(Path(run))
    record = found.record
    if record.status != "finished":
        raise UserError(f"The run {run} is {record.status}: only a finished run has figures to requalify.")
    logged = _points(found)
    steps = sorted({step for step, metric in logged if metric == COMPARED[0]})[:points]
    if not steps:
        raise UserError(f"The run {run} has logged no {COMPARED[0]} in {CURVES}, so there is nothing to repeat.")
    with tempfile.TemporaryDirectory() as folder:
        config = _config(record)
        if config.budget.max_seconds is not None:
            steps = [step for step in steps if step <= len(record.clock)]
            if not steps:
                raise UserError(
                    f"The run {run} cannot be repeated: its budget is in seconds, and its record lacks the clock at "
                    "the steps before the first logged one. Train it again."
                )
        identity = identify(config)
        try:
            with contextlib.suppress(_AllPointsLogged):
                shortened = _shortened_config(config, folder, steps[-1], record.clock)
                train(shortened, Path(folder, "run"), console=Console(quiet=True))
        finally:
            set_threads(None)  # as before the run
        again = Record.load(Path(folder, "run"))
        repeated = _points(Run(again))
    return Repetition(
        run=found,
        identity=identity,
        steps=tuple(steps),
        values={
            key: (logged[key], repeated.get(key, math.nan))
            for key in sorted(logged)
            if key[0] <= steps[-1] and key[1] in COMPARED
        },
        tolerance=0.0 if _ran_on(again) == _ran_on(record) else ROUNDING,
    )


def record_requalification(repetition: Repetition) -> None:
    """Add the code and fingerprint of a repetition without differences to the record, unless it has them."""
    run, identity = repetition.run, repetition.identity
    if run.record.is_by(identity.code) and identity.fingerprint in run.record.fingerprints:
        return
    entry: dict[str, Any] = {
        "code": identity.code,
        "fingerprint": identity.fingerprint,
        "points": len(repetition.steps),
        "tolerance": repetition.tolerance,
        "date": now(),
    }
    if run.archive is not None:
        run.archive.add(dataclasses.replace(run.record, requalified=[*run.record.requalified, entry]))
        return
    with locked(run.record.folder):
        record = Record.load(run.record.folder)  # `charlab evaluate` may have changed it during the repetition
        record.requalified.append(entry)
        record.save()


class _AllPointsLogged(Exception):
    """Raised when all points to compare have been logged."""


class Stop(Callback):
    """Stop training after a step, and make the first steps follow the clock of the run that is repeated.

    Args:
        step: the last optimizer step.
        clock: see `LanguageModelModule.clock`.
    """

    def __init__(self, *, step: int, clock: Sequence[float]) -> None:
        self.step, self.clock = step, list(clock)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, LanguageModelModule)
        pl_module.clock = list(self.clock)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step >= self.step:
            raise _AllPointsLogged

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise _AllPointsLogged


def _config(record: Record) -> DictConfig:
    """Return the configuration of a run, composed from its command line if an earlier version of charlab wrote it."""
    if record.sources:
        return literal(record.config)
    config = compose([*record.overrides, f"data.batch_size={record.config['data']['batch_size']}"])
    leave_out_sweep(config)
    return config


def _shortened_config(config: DictConfig, output_dir: str, step: int, clock: Sequence[float]) -> DictConfig:
    """Return the configuration of a run, changed to write into `output_dir`, follow `clock` and stop after `step`.

    Evaluations before the first step are left out unless they may change a step: they are slow, and training seeds
    its random numbers after them. The first steps of an extended run are those of its origin, from which it has them:
    they are repeated from the initial weights.
    """
    silent = config.evaluate_every > step and not reads_evaluations(config)
    with open_dict(config):
        config.output_dir, config.force, config.extend = output_dir, False, None
        decorative = ("samples", "attention_maps", "progress", "checkpointing")
        kept = {name: part for name, part in (config.callbacks or {}).items() if name not in decorative}
        stop = {"_target_": f"{__name__}.{Stop.__name__}", "step": step, "clock": [*clock]}
        config.callbacks = {**kept, "stop": stop}
        config.logger = {"csv": {"_target_": "charlab.training.loggers.CSVLogger"}}
        if silent:
            config.trainer.limit_val_batches = 0
    return config


def _ran_on(record: Record) -> tuple[dict[str, Any], dict[str, str]]:
    return record.machine, {name: version for name, version in record.versions.items() if name != "charlab"}


def _points(run: Run) -> dict[tuple[int, str], float]:
    """Return the values that a run has logged, by step and metric."""
    curves = run.curves()
    return dict(zip(zip(curves["step"], curves["metric"], strict=True), curves["value"], strict=True))


def _relative(former: float, now: float) -> float:
    """Return the difference of two values relative to the larger one; infinite if one is missing."""
    if former == now:
        return 0.0
    difference = abs(former - now) / max(abs(former), abs(now))
    return math.inf if math.isnan(difference) else difference
