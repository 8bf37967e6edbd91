"""One run, from its configuration to its record."""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from rich.console import Console

from charlab.configuration.build import build, plain
from charlab.data.datamodule import CharacterDataModule
from charlab.errors import UserError
from charlab.evaluation.causality import check_causality
from charlab.evaluation.protocols import Blocks, Score, Sliding, evaluate
from charlab.files import remove_leftovers, write_atomically
from charlab.models.contract import LanguageModel
from charlab.runs.checkpoint import build_model
from charlab.runs.fingerprint import fingerprint, load_corpus
from charlab.runs.members import FinishedMembers, warn_of_equal_weights, weights_of
from charlab.runs.plots import plot_loss
from charlab.runs.record import FILE_NAME, SCENE_LENGTH, Record, code_hash, git_commit, installed_versions
from charlab.runs.summary import print_summary
from charlab.seeding import derive_seed
from charlab.training.callbacks.checkpointing import LAST
from charlab.training.callbacks.divergence import DivergedError
from charlab.training.callbacks.evaluation import Evaluation
from charlab.training.counts import module_for
from charlab.training.flops import count_flops
from charlab.training.loggers import RunLogger
from charlab.training.objectives import Objective
from charlab.training.trainer import resolve_device

# What TensorBoard shows beside the final metrics of each run.
HYPERPARAMETERS = ("model", "data", "optimizer", "scheduler", "objective", "averaging", "trainer", "seed")


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
        return _Run(config, folder, overrides, console).execute()
    with _locked(folder):
        try:
            finished = _finished(folder, force=config.force)
            if finished is not None:
                console.print(f"This run is finished already: {folder} (force=true trains it again).", soft_wrap=True)
                return finished
            remove_leftovers(folder)
            return _Run(config, folder, overrides, console).execute()
        except UserError:
            if not (folder / FILE_NAME).exists():  # it never began: leave nothing half-written
                shutil.rmtree(folder, ignore_errors=True)
            raise


class _Run:
    """What the steps of a run share."""

    def __init__(self, config: DictConfig, folder: Path, overrides: Sequence[str], console: Console) -> None:
        started = time.perf_counter()
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
        self.record = self._begin_record(overrides)
        self.record.time["setup_s"] = self.record.time.get("setup_s", 0.0) + time.perf_counter() - started

    def execute(self) -> Record:
        """Trains, evaluates, and returns the finished record."""
        record = self.record
        if self.trainer.is_global_zero:
            record.save()
            warn_of_equal_weights(self.model, self.data, self.console)
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
        }
        callbacks: list[Callback] = [build(config.averaging)] if config.averaging is not None else []
        for part in (config.callbacks or {}).values():
            built = build(part)
            callbacks.append(built if isinstance(built, Callback) else built(self.folder, description))
        self.loggers: list[RunLogger] = [build(part) for part in (config.logger or {}).values()]
        self.evaluation = next((callback for callback in callbacks if isinstance(callback, Evaluation)), None)
        trainer: Trainer = build(config.trainer)(self.folder, callbacks, self.loggers)
        for logger in self.loggers:
            logger.open(self.folder)
        return trainer

    def _begin_record(self, overrides: Sequence[str]) -> Record:
        config, corpus = self.config, self.data.corpus
        record = Record(
            folder=self.folder,
            name=config.name,
            fingerprint=fingerprint(config),
            overrides=list(overrides),
            config=plain(config) | {"model": self.members.recorded},
            seed=config.seed,
            corpus={"name": corpus.name, "sha256": corpus.sha256, "characters": len(corpus.text)},
            machine={
                "device": self.device.type,
                "name": torch.cuda.get_device_name() if self.device.type == "cuda" else _processor(),
                "precision": str(self.trainer.precision),
                "threads": torch.get_num_threads(),
                "processes": self.trainer.world_size,
            },
            versions=installed_versions(),
            code=code_hash(),
            git_commit=git_commit(),
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            floor={split: floor for split in self.data.splits if (floor := self.data.floor(split)) is not None},
            started=_now(),
        )
        if (self.folder / LAST).exists():  # killed before: go on with its clock
            with contextlib.suppress(UserError):
                former = Record.load(self.folder)
                record.started, record.time = former.started, {"setup_s": former.time.get("setup_s", 0.0)}
        window = self.data.context_length + 1, self.data.batch_size * config.trainer.accumulate_grad_batches
        record.flops_per_step = count_flops(self.model, batch_size=window[1], window_length=window[0])
        return record

    def _check_causality(self) -> None:
        """Says before the first step if the model sees the future; training goes on, for that may be the experiment."""
        causality = self._causality()
        self.record.causality = causality.as_dict()
        if causality.leaks and self.trainer.is_global_zero:
            self.console.print(
                f"[bold red]This model leaks:[/] {causality.reason} Its perplexity will mean nothing; "
                "the honest one, character by character, will stand beside it.",
                soft_wrap=True,
            )

    def _causality(self) -> Any:
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
        except SystemExit:  # how Lightning ends after Ctrl-C
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
        record.peak_memory_bytes = _peak_memory(self.device)
        record.best = self.evaluation.best if self.evaluation is not None else None

    def _finish(self) -> None:
        """Evaluates the final weights on the whole validation text and writes what the run leaves behind."""
        record = self.record
        record.metrics = list(self.evaluation.results) if self.evaluation is not None else []
        logged = len(record.metrics)
        self.model.to(self.device)
        with self.module.evaluating():
            causality = self._causality()
            for protocol in (Blocks(), Sliding()):
                score = self._evaluate(protocol)
                record.metrics.append({"split": "validation", **score.as_dict()})
                if score.per_character is not None and isinstance(protocol, Blocks):
                    per_character = score.per_character
                    write_atomically(self.folder / "nll.npy", lambda file: np.save(file, per_character))  # noqa: B023
                    starts = np.arange(0, len(per_character), SCENE_LENGTH)
                    record.scenes = np.add.reduceat(per_character, starts, dtype=np.float64).tolist()
        record.causality = causality.as_dict()
        self._update_progress()
        figures = {f"{entry['protocol']}/{entry['split']}/nll": entry["nll"] for entry in record.metrics}
        new = dict(list(figures.items())[logged:])
        new |= {f"weight/{name}": weight for name, weight in weights_of(self.model).items()}
        clock = {"characters": record.characters_seen, "seconds": record.time["training_s"]}
        hyperparameters = {part: record.config[part] for part in HYPERPARAMETERS}
        for logger in self.loggers:
            logger.log_metrics({**new, **clock}, record.steps)
            logger.log_hyperparameters(hyperparameters, figures, record.steps)
            logger.finalize("success")
        plot_loss(
            self.folder,
            title=record.name,
            floor=record.floor.get("validation"),
            likelihood=self.model.likelihood,
            leaks=causality.leaks,
            log_steps=self.config.plot.log_steps,
        )
        record.status, record.error, record.finished = "finished", None, _now()
        record.save()
        print_summary(record, self.console)
        self.members.print_weights(self.model, self.console)

    def _evaluate(self, protocol: Blocks | Sliding) -> Score:
        return evaluate(
            self.model,
            self.data.ids("validation", self.device),
            protocol,
            context_length=self.data.context_length,
            batch_size=self.data.batch_size,
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps two processes from training the same run at once."""
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(f"Another process is training {folder} right now: wait for it, or change the seed.") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror}): choose another output_dir.") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # nobody waits for it: whoever finds it taken gives up at once
        lock.release()
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # only if it is empty: the run never began


def _finished(folder: Path, *, force: bool) -> Record | None:
    """Returns the record of a run that is done; clears the folder if it is to be done again."""
    if force:
        for path in folder.iterdir() if folder.exists() else ():
            if path.name != ".hydra":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return None
    if not (folder / FILE_NAME).exists():
        return None
    record = Record.load(folder)
    return record if record.status == "finished" else None


def _seed_everything(seed: int) -> None:
    """Seeds the global generators, from which layers draw initial weights and dropout."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (a user's model may draw from it)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _end_of_traceback() -> str:
    return "".join(traceback.format_exc().splitlines(keepends=True)[-12:])


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"
