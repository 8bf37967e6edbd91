"""One run, from its configuration to its record."""

from __future__ import annotations

import contextlib
import random
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
from charlab.data.datamodule import CharacterDataModule, divided
from charlab.errors import UserError
from charlab.evaluation.causality import Causality, check_causality
from charlab.evaluation.initial import check_initial
from charlab.files import remove_leftovers
from charlab.models.contract import LanguageModel
from charlab.runs import store
from charlab.runs.beginning import begin_record, now
from charlab.runs.checkpoint import build_model
from charlab.runs.ending import log_hyperparameters, log_outcome, score_validation
from charlab.runs.identity import load_corpus
from charlab.runs.machine import peak_memory
from charlab.runs.members import FinishedMembers, warn_of_equal_weights, weights_of
from charlab.runs.plots import plot_loss
from charlab.runs.record import Record
from charlab.runs.summary import print_summary
from charlab.seeding import derive_seed
from charlab.training.callbacks.checkpointing import LAST
from charlab.training.callbacks.divergence import DivergedError
from charlab.training.callbacks.evaluation import Evaluation
from charlab.training.counts import module_for
from charlab.training.device import resolve_device
from charlab.training.loggers import RunLogger
from charlab.training.objectives import Objective


def train(config: DictConfig, folder: Path, overrides: Sequence[str] = (), console: Console | None = None) -> Record:
    """Trains and evaluates one model, or continues where a killed process stopped, or finds that all is done.

    Args:
        config: a composed `conf/train.yaml`.
        folder: where the run leaves what it writes; nothing else may use it.
        overrides: the command line, for the record.
        console: where to print; standard output by default.

    Raises:
        UserError: if something the user gave is wrong; a folder that was not there before is not left behind.
        DivergedError: if the loss stops being a number; the record says where.
    """
    console = console or Console()
    if rank_zero_only.rank != 0:  # a process that rank 0 has started: the folder is its business
        return _Run(config, folder, console).execute(overrides)
    with store.locked(folder):
        found = store.at(folder, config)
        if not config.force:
            if found.finished is not None:
                store.show(found.finished, console)
                return found.finished
            store.check_resumable(found, config)
        store.announce(found, console)
        run = _Run(config, folder, console)
        if config.force or (found.record is not None and found.record.status == "finished"):
            store.clear(folder)
        remove_leftovers(folder)
        return run.execute(overrides)


class _Run:
    """What the steps of a run share. Everything is built before anything is written, so that mistakes cost nothing."""

    def __init__(self, config: DictConfig, folder: Path, console: Console) -> None:
        self.started = time.perf_counter()
        self.config, self.folder, self.console = config, folder, console
        self.device = torch.device(resolve_device(config.trainer.accelerator))
        self.data: CharacterDataModule = build(config.data, corpus=load_corpus(config))
        self.data.setup()
        self.members = FinishedMembers(plain(config.model), self.data)
        self.model = self._build_model()
        objective = build(config.objective) if config.objective is not None else Objective()
        objective.check(self.model, self.data.order)
        self.module = module_for(self.model)(
            self.model,
            optimizer=build(config.optimizer),
            schedule=build(config.scheduler),
            max_steps=config.trainer.max_steps,
            max_seconds=config.trainer.max_seconds,
            objective=objective,
        )
        self.module.characters_seen = self.members.characters_seen  # what an ensemble's members took is its cost too
        self.module.training_clock.seconds = self.members.training_seconds
        self.trainer = self._build_trainer()
        divided(self.data.batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches)

    def execute(self, overrides: Sequence[str]) -> Record:
        """Trains, evaluates, and returns the finished record."""
        self.record = record = self._begin(overrides)
        if self.trainer.is_global_zero:
            record.save()
            warn_of_equal_weights(self.model, self.data, self.console)
            for note in self.data.corpus.notes:
                self.console.print(note, soft_wrap=True, markup=False)
        try:
            self._check_causality()
            self._fit()
            if self.trainer.is_global_zero:
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
                        log_hyperparameters(record, self.loggers, {})
            raise
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
        description = {
            "model_config": self.members.config,
            "vocabulary": self.data.vocabulary.characters,
            "start": self.data.vocabulary.start,
        }
        callbacks: list[Callback] = [build(config.averaging)] if config.averaging is not None else []
        for part in _chosen(config.callbacks):
            built = build(part)
            callbacks.append(built if isinstance(built, Callback) else built(self.folder, description))
        self.loggers: list[RunLogger] = [build(part) for part in _chosen(config.logger)]
        self.evaluation = next((callback for callback in callbacks if isinstance(callback, Evaluation)), None)
        trainer: Trainer = build(config.trainer)(self.folder, callbacks, self.loggers)
        return trainer

    def _begin(self, overrides: Sequence[str]) -> Record:
        for logger in self.loggers:
            logger.open(self.folder)
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
        """Says before the first step if the model sees the future; training goes on, for that may be the experiment."""
        self.module.evaluation_clock.start()
        if not (self.folder / LAST).exists():
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
        _seed_everything(derive_seed(self.config.seed, f"training on rank {self.trainer.global_rank}"))
        last = self.folder / LAST
        if not last.exists():  # killed before its first checkpoint, if it was begun at all
            for logger in self.loggers:
                logger.rewind({})
        interrupted = False
        try:
            self.trainer.fit(
                self.module, datamodule=self.data, ckpt_path=last if last.exists() else None, weights_only=True
            )
        except SystemExit as end:  # how Lightning ends after Ctrl-C; anything else may end so too
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            interrupted = True
        if interrupted or self.trainer.interrupted:
            raise KeyboardInterrupt
        self._update_progress()

    def _update_progress(self) -> None:
        record, module = self.record, self.module
        record.steps, record.characters_seen = self.trainer.global_step, module.characters_seen
        record.time["training_s"] = module.training_clock.seconds
        record.time["evaluation_s"] = module.evaluation_clock.seconds
        record.time["compilation_s"] = module.compilation_clock.seconds
        record.peak_memory_bytes = peak_memory(self.device)
        record.best = self.evaluation.best if self.evaluation is not None else None

    def _finish(self) -> None:
        """Evaluates the final weights on the whole validation text and writes what the run leaves behind."""
        record = self.record
        record.metrics = list(self.evaluation.results) if self.evaluation is not None else []
        num_logged = len(record.metrics)
        self.model.to(self.device)
        telling = self._telling("evaluating the final weights on the whole validation text")
        # In the precision of the weights, whatever training computed in: what scripts/evaluate.py finds as well.
        with telling, self.module.evaluating(), torch.autocast(self.device.type, enabled=False):
            causality = self._causality()
            score_validation(record, self.model, self.data, self.device)
        record.causality = causality.as_dict()
        self._update_progress()
        log_outcome(record, self.loggers, num_logged=num_logged, weights=weights_of(self.model))
        plot_loss(
            self.folder,
            title=record.name,
            floor=record.floor.get("validation"),
            likelihood=self.model.likelihood,
            leaks=causality.leaks,
            log_steps=self.config.plot.log_steps,
        )
        record.status, record.error, record.finished = "finished", None, now()
        record.save()
        print_summary(record, self.console)
        self.members.print_weights(self.model, self.console)

    def _telling(self, what: str) -> AbstractContextManager[object]:
        """Shows what goes on for as long as it does, where somebody watches."""
        watched = self.console.is_terminal and not self.console.is_dumb_terminal
        return self.console.status(what) if watched else contextlib.nullcontext()


def _chosen(group: DictConfig | None) -> list[DictConfig]:
    """Returns the parts of a group that may have several; one that was set to null is left out."""
    return [part for part in (group or {}).values() if part is not None]


def _seed_everything(seed: int) -> None:
    """Seeds the global generators, from which layers draw initial weights and dropout."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (a user's model may draw from it)


def _end_of_traceback() -> str:
    return "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
