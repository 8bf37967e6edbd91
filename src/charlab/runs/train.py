"""Train one model: a run, from its configuration to its record."""

from __future__ import annotations

import contextlib
import random
import signal
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console

from charlab.configuration.build import build, plain
from charlab.data.datamodule import CharacterDataModule
from charlab.errors import UserError
from charlab.evaluation.causality import Causality, check_causality, check_initial
from charlab.files import remove_leftovers
from charlab.models.contract import LanguageModel
from charlab.runs import definitions, display, store
from charlab.runs.checkpoint import build_model
from charlab.runs.folder import WRITTEN, clear, locked
from charlab.runs.identity import load_corpus
from charlab.runs.members import FinishedMembers, warn_of_equal_weights, weights_of
from charlab.runs.plots import plot_loss
from charlab.runs.record import FILE_NAME, Record
from charlab.runs.recording import begin_record, log_hyperparameters, log_outcome, now, peak_memory, score_validation
from charlab.seeding import derive_seed
from charlab.training.callbacks.checkpointing import LAST, Terminated, read_checkpoint, read_resumable
from charlab.training.callbacks.compilation import Compilation
from charlab.training.callbacks.divergence import DivergedError
from charlab.training.callbacks.progress import Output
from charlab.training.counts import module_for
from charlab.training.device import resolve_device
from charlab.training.loggers import CSVLogger, build_logger, close
from charlab.training.module import decorating
from charlab.training.objectives import Objective
from charlab.training.optimizers import optimizer_from
from charlab.training.schedules import schedule_from
from charlab.training.trainer import build_trainer, check_callback, check_precision, has_several_processes, set_threads


def train(config: DictConfig, folder: Path, overrides: Sequence[str] = (), console: Console | None = None) -> Record:
    """Train and evaluate one model, and return its record.

    A killed run is resumed from its last checkpoint. A finished run is returned at once.

    Args:
        config: a composed `conf/train.yaml`.
        folder: the run's folder, which nothing else may use.
        overrides: the command line, for the record.
        console: console to print to; standard output by default.

    Raises:
        UserError: if the configuration is invalid; a new folder is then removed.
        DivergedError: if the loss becomes infinite or NaN; the record says at which step.
    """
    console = console or Output()
    if not has_several_processes(config.trainer):
        rank_zero_only.rank = 0  # Lightning reads RANK and SLURM_PROCID, which may belong to something else
    elif rank_zero_only.rank != 0:  # only rank 0 manages the folder
        return _Run(config, folder, console, fresh=config.force).execute(overrides)
    with locked(folder):
        found = store.at(folder, config)
        if not config.force:
            if found.finished is not None:
                display.show(found.finished, console)
                return found.finished
            store.check_resumable(found, config)
        display.announce(found, config, console)
        fresh = config.force or (found.record is not None and found.record.status == "finished")
        run = _Run(config, folder, console, fresh=fresh)
        if fresh:
            clear(folder)
        remove_leftovers(folder, WRITTEN)
        definitions.save(plain(config), folder)
        return run.execute(overrides)


class _Run:
    """The state of a run. Everything is built before anything is written, so that user errors leave no trace."""

    def __init__(self, config: DictConfig, folder: Path, console: Console, *, fresh: bool) -> None:
        self.started = time.perf_counter()
        self.config, self.folder, self.console = config, folder, console
        self.device = torch.device(resolve_device(config.trainer.accelerator))
        set_threads(config.compute.threads)
        self.data: CharacterDataModule = build(
            config.data, corpus=load_corpus(config), estimate_batches=config.estimate_batches
        )
        self.data.setup()
        self.members = FinishedMembers(plain(config.model), self.data)
        self.model = self._build_model()
        objective = build(config.objective) if config.objective is not None else Objective()
        objective.check(self.model, self.data.order)
        self.module = module_for(self.model)(
            self.model,
            optimizer=optimizer_from(plain(config.optimizer)),
            schedule=schedule_from(plain(config.scheduler), self.data),
            max_seconds=config.budget.max_seconds,
            objective=objective,
            model_config=self.members.config,
        )
        self.module.characters_seen = self.members.characters_seen  # includes an ensemble's members
        self.module.training_clock.seconds = self.members.training_seconds
        self.resumed_step: int | None = None
        self.resumes = (folder / LAST).exists() and not fresh
        if self.resumes:
            self.resumed_step = read_resumable(folder / LAST)["global_step"]
        elif (folder / FILE_NAME).exists() and not fresh:  # killed before its first checkpoint
            self.resumed_step = -1
        self.trainer = self._build_trainer()
        check_precision(self.model, self.trainer)

    def execute(self, overrides: Sequence[str]) -> Record:
        """Train and evaluate the model, and return the finished record."""
        self.record = record = self._begin(overrides)
        if self.trainer.is_global_zero:
            record.save()
            warn_of_equal_weights(self.model, self.data, self.console)
            for note in self.data.corpus.notes:
                self.console.print(note, soft_wrap=True, markup=False)
        try:
            self._check_causality()
            self._fit()
            if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
                self._finish()
        except BaseException as error:
            record.status = "diverged" if isinstance(error, DivergedError) else record.status
            if isinstance(error, Exception):
                if not isinstance(error, DivergedError):
                    record.status = "failed"
                record.error = str(error) if isinstance(error, DivergedError | UserError) else _end_of_traceback()
            self._update_progress()
            if self.trainer.is_global_zero:
                with contextlib.suppress(UserError):  # a full disk must not hide the first error
                    record.save()
                    if record.status == "diverged":
                        log_hyperparameters(record, self.trainer.loggers, {})
            raise
        finally:
            close(self.trainer.loggers, succeeded=record.status == "finished")
        return record

    def _build_model(self) -> LanguageModel:
        seed = self.config.seed
        _seed_everything(derive_seed(seed, "initialization"))
        model = build_model(self.members.config, self.data.vocabulary)
        self.members.fill(model)
        if model.context_length is not None and self.data.context_length > model.context_length:
            raise UserError(
                f"data.context_length={self.data.context_length} is more than the model's "
                f"context_length={model.context_length}: lower the one or raise the other."
            )
        return model

    def _build_trainer(self) -> Trainer:
        config = self.config
        callbacks: list[Callback] = [build(config.averaging)] if config.averaging is not None else []
        for name, part in _chosen(config.callbacks).items():
            callback = build(part)
            check_callback(f"callbacks.{name}", callback, self.data)
            callbacks.append(callback)
        loggers = [
            build_logger(name, plain(part), self.folder, self.resumed_step)
            for name, part in _chosen(config.logger).items()
        ]
        return build_trainer(
            plain(config.trainer),
            self.folder,
            self.data,
            [Compilation(config.compute.compile), *callbacks],
            loggers,
            evaluate_every=config.evaluate_every,
            max_seconds=config.budget.max_seconds,
        )

    def _begin(self, overrides: Sequence[str]) -> Record:
        record = begin_record(
            self.folder,
            self.config,
            overrides,
            model=self.model,
            model_config=self.members.recorded,
            data=self.data,
            trainer=self.trainer,
            device=self.device,
        )
        record.time["setup_s"] = record.time.get("setup_s", 0.0) + time.perf_counter() - self.started
        return record

    def _check_causality(self) -> None:
        """Warn before the first step if the model sees the future; it is no error, as it may be intended."""
        self.module.evaluation_clock.start()
        if not self.resumes:
            self._check_initial()
        causality = self._causality()
        self.module.evaluation_clock.stop()
        self.record.causality = causality.as_dict()
        if causality.leaks and self.trainer.is_global_zero:
            self.console.print(
                f"[bold red]This model leaks:[/] {causality.reason} Its perplexity will mean nothing; "
                "the honest one, character by character, will stand beside it.",
                soft_wrap=True,
            )

    def _check_initial(self) -> None:
        ids = self.data.ids("train", self.device)
        warning = check_initial(self.model.to(self.device), ids=ids, context_length=self.data.context_length)
        if warning is not None and self.trainer.is_global_zero:
            self.console.print(warning, soft_wrap=True, markup=False)

    def _causality(self) -> Causality:
        return check_causality(
            self.model.to(self.device),
            ids=self.data.ids("validation", self.device),
            context_length=self.data.context_length,
        )

    def _fit(self) -> None:
        """Train the model, and evaluate it before the first step and after the last one.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after another signal, with its exit code.
        """
        trainer, module, last = self.trainer, self.module, self.folder / LAST
        evaluates = trainer.limit_val_batches > 0 and not trainer.fast_dev_run
        if self.resumes:
            if trainer.is_global_zero:
                self.console.print(f"continuing from step {self.resumed_step:,}", highlight=False)
        else:
            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):
                    logger.rewind(0)
            if evaluates:
                trainer.validate(module, datamodule=self.data, verbose=False)
        _seed_everything(derive_seed(self.config.seed, f"training on rank {trainer.global_rank}"))
        try:
            trainer.fit(module, datamodule=self.data, ckpt_path=last if self.resumes else None, weights_only=True)
            if evaluates and module.evaluated_step != trainer.global_step:  # killed before the final evaluation
                trainer.validate(module, datamodule=self.data, verbose=False)
        except Terminated as end:
            raise self._ended_by(end.signal) from None
        except SystemExit as end:  # raised by Lightning after Ctrl-C, but not only then
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            raise self._ended_by(signal.SIGINT) from None
        self._update_progress()

    def _ended_by(self, signum: int) -> BaseException:
        """Print what is saved and how to resume, and return the exception that ends the process."""
        if not self.trainer.is_global_zero:
            return SystemExit(0)  # Lightning would kill the first process if another one failed
        last = self.folder / LAST
        saved = read_checkpoint(last)["global_step"] if last.exists() else None
        what = "Interrupted" if signum == signal.SIGINT else f"Ended by {signal.Signals(signum).name}"
        how = "nothing is saved yet, so the same command starts again"
        if saved is not None:
            how = f"step {saved:,} is saved, and the same command goes on from there"
        self.console.print(f"{what} at step {self.trainer.global_step:,}: {how}.", highlight=False, soft_wrap=True)
        return KeyboardInterrupt() if signum == signal.SIGINT else SystemExit(128 + signum)

    def _update_progress(self) -> None:
        record, module = self.record, self.module
        record.steps, record.characters_seen = self.trainer.global_step, module.characters_seen
        record.time["training_s"] = module.training_clock.seconds
        record.time["evaluation_s"] = module.evaluation_clock.seconds
        record.time["compilation_s"] = module.compilation_clock.seconds
        record.peak_memory_bytes = peak_memory(self.device)
        record.best = module.best

    def _finish(self) -> None:
        """Evaluate the final weights on the whole validation text, and write the record, plot and summary."""
        record = self.record
        record.metrics = list(self.module.results)
        num_logged = len(record.metrics)
        self.model.to(self.device)
        telling = self._telling("evaluating the final weights on the whole validation text")
        # Evaluate in the precision of the weights, not of training, so that `charlab evaluate` gets the same figures.
        with telling, self.module.evaluating(), torch.autocast(self.device.type, enabled=False):
            causality = self._causality()
            score_validation(record, self.model, self.data, self.device)
        record.causality = causality.as_dict()
        self._update_progress()
        log_outcome(record, self.trainer.loggers, num_logged=num_logged, weights=weights_of(self.model))
        record.status, record.error, record.finished = "finished", None, now()
        record.save()
        with decorating("loss plot"):
            plot_loss(
                self.folder,
                title=record.name,
                floor=record.floor.get("validation"),
                likelihood=self.model.likelihood,
                leaks=causality.leaks,
                log_steps=self.config.plot.log_steps,
            )
        with decorating("summary"):
            display.print_summary(record, self.console)
            self.members.print_weights(self.model, self.console)

    def _telling(self, what: str) -> AbstractContextManager[object]:
        """Show a spinner while the block runs, on a terminal only."""
        watched = self.console.is_terminal and not self.console.is_dumb_terminal
        return self.console.status(what) if watched else contextlib.nullcontext()


def _chosen(group: DictConfig | None) -> dict[str, DictConfig]:
    """Return the members of a config group, except those set to null."""
    return {str(name): part for name, part in (group or {}).items() if part is not None}


def _seed_everything(seed: int) -> None:
    """Seed the global generators, which layers use for initial weights and dropout."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (a user's model may draw from it)


def _end_of_traceback() -> str:
    return "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
