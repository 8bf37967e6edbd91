"""Train one model: a run, from its configuration to its record."""

from __future__ import annotations

import contextlib
import glob
import signal
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from rich.console import Console

from charlab.configuration.build import plain
from charlab.configuration.messages import one_sentence
from charlab.data.corpora import home_expanded
from charlab.errors import PartError, UserError, warn_on_failure
from charlab.evaluation.causality import Causality, check_causality, check_initial
from charlab.evaluation.protocols import Blocks, Sliding, evaluate
from charlab.files import remove_leftovers, write_atomically
from charlab.notebook import Output
from charlab.quantities import count
from charlab.runs import definitions, display, store
from charlab.runs.folder import WRITTEN, clear, locked
from charlab.runs.identity import identify, origins
from charlab.runs.machine import describe_machine, git_commit, installed_versions, peak_memory
from charlab.runs.origin import extend_run
from charlab.runs.plots import plot_loss
from charlab.runs.record import FILE_NAME, SCENE_LENGTH, Record, now
from charlab.runs.setup import Parts, seed_everything, warn_of_equal_weights, weights_of
from charlab.seeding import derive_seed
from charlab.training.callbacks.checkpointing import Terminated, raising_terminated
from charlab.training.callbacks.divergence import DivergedError
from charlab.training.checkpoint_file import LAST, read_checkpoint
from charlab.training.flops import count_flops
from charlab.training.loggers import CSVLogger, TensorBoardLogger, close, start_loggers
from charlab.training.trainer import has_several_processes

KNOWN_PACKAGES = ("charlab.", "lightning.")  # packages whose callbacks the record does not list
# Parts of the configuration that TensorBoard shows next to the final metrics of each run.
HYPERPARAMETERS = (
    *("model", "data", "optimizer", "scheduler", "objective", "averaging", "trainer", "budget", "compute", "seed"),
)


def train(
    config: DictConfig,
    folder: Path,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> Record:
    """Train and evaluate one model, and return its record.

    A killed run is resumed from its last checkpoint. A finished run is returned at once.

    Args:
        config: a composed `conf/train.yaml`.
        folder: the run's folder, which nothing else may use.
        overrides: the command line, for the record.
        console: console to print to; standard output by default.

    Raises:
        UserError: if the configuration is invalid; a new folder is then removed.
        DivergedError: if the loss or a weight becomes infinite or NaN; the record says at which step.
        KeyboardInterrupt, SystemExit: if a signal or a lost process ends the run.
    """
    console = console or Output()
    if not has_several_processes(config.trainer):
        rank_zero_only.rank = 0  # Lightning reads RANK and SLURM_PROCID, which may belong to something else
    elif rank_zero_only.rank != 0:  # only rank 0 manages the folder
        fresh = config.force
        with contextlib.suppress(UserError):
            fresh = fresh or Record.load(folder).status == "tried"
        return _Training(config, folder, overrides, console, fresh=fresh).execute()
    with locked(folder):
        found = store.locate_in(folder, config)
        if not config.force:
            if found.finished is not None:
                display.show(found.finished, console)
                return found.finished
            store.check_resumable(found, config)
        display.announce(found, config, console)
        former = found.record
        fresh = config.force or (former is not None and former.status in ("finished", "tried"))
        if "extend" in origins(config) and (fresh or former is None):
            if fresh:
                Parts(config, folder, fresh=True, overrides=overrides)  # raises before a finished run is replaced
            extend_run(origins(config)["extend"], config, found, fresh=fresh)
            fresh = False
        run = _Training(config, folder, overrides, console, fresh=fresh)
        if former is not None and found.identity.fingerprint in former.fingerprints:
            run.test_looks = former.test_looks  # a run that replaces another one does not hide its looks
        return run.execute()


class _Training:
    """The training of a run: its parts, and the record that it fills in."""

    def __init__(
        self,
        config: DictConfig,
        folder: Path,
        overrides: Sequence[str],
        console: Console,
        *,
        fresh: bool,
    ) -> None:
        self.started = time.perf_counter()
        self.test_looks = 0  # of earlier attempts
        self.fresh = fresh
        self.config, self.folder, self.overrides, self.console = config, folder, overrides, console
        self.parts = parts = Parts(config, folder, fresh=fresh, overrides=overrides)
        self.data, self.model, self.module, self.trainer = parts.data, parts.model, parts.module, parts.trainer
        self.device = parts.device

    def execute(self) -> Record:
        """Train and evaluate the model, and return the finished record."""
        self.record = record = self._begin()
        if self.trainer.is_global_zero:
            if self.fresh:  # only now, so that a kill before it loses no looks at the test text
                clear(self.folder)
            remove_leftovers(self.folder, WRITTEN)
            definitions.save(plain(self.config), self.folder)
            record.save()
            warn_of_equal_weights(self.model, self.data, self.console)
            for note in self.data.corpus.notes:
                self.console.print(note, soft_wrap=True, markup=False)
        try:
            start_loggers(self.trainer, record.config)
            with raising_terminated():
                self._conduct()
        except BaseException as raised:
            error = self.parts.failure(raised) or raised
            if isinstance(error, MisconfigurationException):  # Lightning checks some settings only when it uses them
                error = UserError(one_sentence(error))
            record.status = "diverged" if isinstance(error, DivergedError) else record.status
            if isinstance(error, Exception):
                if not isinstance(error, DivergedError):
                    record.status = "failed"
                record.error = str(error) if isinstance(error, DivergedError | UserError) else _end_of_traceback()
                if isinstance(error, PartError):
                    record.error += str(error)  # last, where a study looks for the reason
            self._update_progress()
            if self.trainer.is_global_zero:
                with contextlib.suppress(UserError):  # a full disk must not hide the first error
                    record.save()
                    if record.status == "diverged":
                        self._log_hyperparameters({})
            if error is not raised:
                raise error from raised
            raise
        finally:
            close(self.trainer.loggers, succeeded=record.status in ("finished", "tried"))
        return record

    def _conduct(self) -> None:
        """Check, train and evaluate the model.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after another signal or a lost process, with its exit code.
        """
        try:
            self._check_causality()
            self._fit()
            if self.trainer.is_global_zero:
                self._end_trial() if self.trainer.fast_dev_run else self._finish()
        except Terminated as end:
            raise self._ended_by(end.signal) from None
        except KeyboardInterrupt:
            raise self._ended_by(signal.SIGINT) from None
        except RuntimeError as error:
            if self.trainer.world_size == 1 or not _is_lost_connection(error):
                raise
            rank, number = self.trainer.global_rank, self.trainer.world_size
            self._print(f"Process {rank} of {number} lost the others, one of which has ended: {self._how_to_resume()}.")
            raise SystemExit(1) from None
        except SystemExit as end:  # raised by Lightning after Ctrl-C, but not only then
            if not isinstance(end.__context__, KeyboardInterrupt):
                raise
            raise self._ended_by(signal.SIGINT) from None

    def _begin(self) -> Record:
        """Return the record of the run that is about to train; a resumed run keeps its start time and clock."""
        config, data, model, trainer = self.config, self.data, self.model, self.trainer
        corpus, identity = data.corpus, identify(config)
        origin = {key: str(run) for key, run in origins(config).items()}
        record = Record(
            folder=self.folder,
            name=config.name,
            fingerprint=identity.fingerprint,
            overrides=list(self.overrides),
            config=plain(config)
            | {"model": self.parts.members.recorded, "data": _located(plain(config.data)), **origin},
            seed=config.seed,
            corpus={"name": corpus.name, "sha256": corpus.sha256, "characters": corpus.length},
            machine=describe_machine(self.device, trainer),
            versions=installed_versions(),
            code=identity.code,
            sources=dict(identity.sources),
            git_commit=git_commit(),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            floor={split: floor for split in data.splits if (floor := data.floor(split)) is not None},
            callbacks=[name for name in map(_class_name, trainer.callbacks) if not name.startswith(KNOWN_PACKAGES)],
            test_looks=self.test_looks,
            started=now(),
        )
        setup = 0.0
        if self.parts.resumes:
            begun = (self.folder / FILE_NAME).exists()
            former = Record.load(self.folder if begun else origins(config)["extend"])
            if begun:
                record.test_looks = former.test_looks  # `charlab evaluate` may have scored it in between
                record.started, setup = former.started, former.time.get("setup_s", 0.0)
                tags = [*(former.config.get("tags") or ()), *(record.config.get("tags") or ())]  # given in between
                if tags:
                    record.config["tags"] = list(dict.fromkeys(tags))
                record.config["note"] = record.config.get("note") or former.config.get("note")
            earlier = [] if former.code in (None, record.code) else [former.code]
            record.begun_by = [*former.begun_by, *earlier]
        record.flops_per_step = count_flops(model, batch_size=data.batch_size, window_length=data.context_length + 1)
        if record.flops_per_step:
            self.module.flops_per_character = record.flops_per_step / (data.batch_size * data.context_length)
        if peak := record.machine["peak_flops"]:
            self.module.peak_flops = peak * trainer.world_size
        record.time["setup_s"] = setup + time.perf_counter() - self.started
        return record

    def _check_causality(self) -> None:
        """Warn before the first step if the model sees the future, which may be intended."""
        self.module.evaluation_clock.start()
        if not self.parts.resumes:
            self._check_initial()
        causality = self._causality()
        self.module.evaluation_clock.stop()
        self.record.causality = causality.as_dict()
        if causality.leaks and self.trainer.is_global_zero:
            self.console.print(
                f"[bold red]This model leaks:[/] {causality.reason} Its perplexity will mean nothing; "
                "the honest one, scored character by character, will be shown next to it.",
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
            vocabulary=self.data.vocabulary,
            context_length=self.data.context_length,
        )

    def _fit(self) -> None:
        """Train the model, and evaluate it before the first step and after the last one."""
        trainer, module, last = self.trainer, self.module, self.folder / LAST
        evaluates = trainer.limit_val_batches > 0 and not trainer.fast_dev_run
        if self.parts.resumes:
            if trainer.is_global_zero:
                self.console.print(f"continuing from step {self.parts.resumed_step:,}", highlight=False)
        else:
            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):
                    logger.rewind(0)
            if evaluates:
                trainer.validate(module, datamodule=self.data, verbose=False)
        seed_everything(derive_seed(self.config.seed, f"training on rank {trainer.global_rank}"))
        trainer.fit(module, datamodule=self.data, ckpt_path=last if self.parts.resumes else None, weights_only=True)
        if evaluates and module.evaluated_step != trainer.global_step:  # killed before the final evaluation
            trainer.validate(module, datamodule=self.data, verbose=False)
        self._update_progress()

    def _ended_by(self, signum: int) -> BaseException:
        """Print what is saved and how to resume, and return the exception that ends the process."""
        if not self.trainer.is_global_zero:
            return SystemExit(0)  # Lightning would kill the first process if another one failed
        what = "Interrupted" if signum == signal.SIGINT else f"Ended by {signal.Signals(signum).name}"
        self._print(f"{what} at step {self.trainer.global_step:,}: {self._how_to_resume()}.")
        return KeyboardInterrupt() if signum == signal.SIGINT else SystemExit(128 + signum)

    def _how_to_resume(self) -> str:
        last = self.folder / LAST
        if not last.exists():
            return "nothing is saved yet, so the same command starts again"
        saved = read_checkpoint(last)["global_step"]
        return f"step {saved:,} is saved, and the same command resumes from there"

    def _print(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, soft_wrap=True, markup=False)

    def _update_progress(self) -> None:
        record, module = self.record, self.module
        record.steps, record.characters_seen = self.trainer.global_step, module.characters_seen
        record.clock = list(module.clock)
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
        spinner = self._spinner("evaluating the final weights on the whole validation text")
        # Evaluate in the precision of the weights, not of training, so that `charlab evaluate` gets the same figures.
        with spinner, self.module.evaluating(), torch.autocast(self.device.type, enabled=False):
            causality = self._causality()
            self._score_validation()
        record.causality = causality.as_dict()
        self._update_progress()
        self._log_outcome(num_logged)
        record.status = "finished" if self.config.get("debug") is None else "tried"
        record.error, record.finished = None, now()
        record.save()
        if "loss_plot" in self.config.get("at_end", ()):
            with warn_on_failure("loss plot"):
                plot_loss(record)
        with warn_on_failure("summary"):
            display.print_summary(record, self.console)
            self.parts.members.print_weights(self.model, self.console)

    def _end_trial(self) -> None:
        """Record that `fast_dev_run` has tried out the run, which has no figures."""
        self.record.status = "tried"
        self.record.save()
        steps = count(self.record.steps, "step")
        self.console.print(f"trainer.fast_dev_run: {steps} went well; a trial has no figures.", highlight=False)

    def _score_validation(self) -> None:
        """Score the whole validation text, and keep the nll of each character and scene."""
        record, data = self.record, self.data
        ids = data.ids("validation", self.device)
        sizes: dict[str, Any] = {
            "vocabulary": data.vocabulary,
            "context_length": data.context_length,
            "batch_size": data.evaluation_batch_size,
        }
        blocks = evaluate(self.model, ids, Blocks(), **sizes)
        nll = blocks.per_character  # studies compare it
        assert nll is not None
        write_atomically(record.folder / "nll.npy", lambda file: np.save(file, nll))
        record.scenes = np.add.reduceat(nll, np.arange(0, len(nll), SCENE_LENGTH), dtype=np.float64).tolist()
        scores = [blocks]
        if "sliding" in self.config.get("at_end", ()):
            scores.append(evaluate(self.model, ids, Sliding(blocks=blocks), **sizes))
        record.metrics += [{"split": "validation", **score.as_dict()} for score in scores]

    def _log_outcome(self, num_logged: int) -> None:
        """Log the final results, of which the first `num_logged` were logged in training already."""
        record = self.record
        figures = {f"{entry['protocol']}/{entry['split']}/nll": entry["nll"] for entry in record.metrics}
        new = dict(list(figures.items())[num_logged:])
        new |= {f"weight/{name}": weight for name, weight in weights_of(self.model).items()}
        clock = {"characters": record.characters_seen, "seconds": record.time["training_s"]}
        measured = {name: value for name, value in new.items() if value is not None} | clock
        for logger in self.trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):  # TensorBoard shows them in the HParams tab
                logger.log_metrics(measured, record.steps)
        self._log_hyperparameters(figures)

    def _log_hyperparameters(self, figures: Mapping[str, float | None]) -> None:
        """Add the run, with its settings and final results, to TensorBoard's table of hyperparameters."""
        hyperparameters = {part: self.record.config[part] for part in HYPERPARAMETERS}
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_outcome(hyperparameters, figures, self.record.steps, succeeded=bool(figures))

    def _spinner(self, what: str) -> AbstractContextManager[object]:
        """Show a spinner while the block runs, on a terminal only."""
        watched = self.console.is_terminal and not self.console.is_dumb_terminal
        return self.console.status(what) if watched else contextlib.nullcontext()


def _end_of_traceback() -> str:
    return "".join(traceback.format_exc().splitlines(keepends=True)[-12:])


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()


def _located(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data settings with absolute file paths, which are valid in any working folder."""

    def located(value: Any) -> Any:
        if isinstance(value, list):
            return [located(part) for part in value]
        path = home_expanded(value) if isinstance(value, str) else None
        is_there = path is not None and (path.exists() or glob.glob(str(path), recursive=True))
        return str(path.absolute()) if path is not None and is_there else value

    corpus = {key: located(value) if key in ("path", "file") else value for key, value in data["corpus"].items()}
    return data | {"corpus": corpus} | ({"path": located(data["path"])} if "path" in data else {})
