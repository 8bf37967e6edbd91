"""Build the parts of a run: data, model, optimizer, trainer, and the finished runs that an ensemble consists of."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from hydra.errors import InstantiationException
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig
from rich.console import Console

from charlab.configuration.build import build, plain
from charlab.configuration.messages import find_user_error, line_of_user, one_sentence
from charlab.configuration.overrides import folder_name_of
from charlab.data.datamodule import CharacterDataModule
from charlab.data.tokenizers import Characters, Vocabulary
from charlab.errors import PartError, UserError
from charlab.models.contract import LanguageModel
from charlab.models.mixture import Mixture
from charlab.runs.checkpoint import build_model, load_with_checkpoint, vocabulary_of
from charlab.runs.failure import failed_part
from charlab.runs.folder import events_folder
from charlab.runs.identity import OBSERVING_KEYS, load_corpus, origins
from charlab.runs.origin import initialize_from
from charlab.runs.record import FILE_NAME, Record, runs_of
from charlab.seeding import derive_seed
from charlab.training.callbacks.attention_maps import AttentionMaps
from charlab.training.callbacks.compilation import Compilation
from charlab.training.callbacks.divergence import DivergedError
from charlab.training.callbacks.samples import SampleText
from charlab.training.checkpoint_file import LAST, read_resumable
from charlab.training.counts_module import module_for
from charlab.training.device import resolve_device, set_threads
from charlab.training.loggers import CSVLogger, TensorBoardLogger, build_logger
from charlab.training.objectives import Objective
from charlab.training.optimizers import optimizer_from
from charlab.training.schedules import schedule_from
from charlab.training.trainer import build_trainer, check_callback, check_precision


class Parts:
    """The parts of a run, built before anything is written, so that a user's error leaves no trace.

    Args:
        config: a composed `conf/train.yaml`.
        folder: the run's folder.
        fresh: whether to ignore what the folder holds.
        overrides: the command line, which TensorBoard's curves are named after.

    Attributes:
        members: the finished runs that the model consists of, if it is an ensemble.
        resumes: whether there is a checkpoint to resume from.
        resumed_step: its step; −1 if the run was killed before its first checkpoint, None for a new run.
    """

    def __init__(self, config: DictConfig, folder: Path, *, fresh: bool, overrides: Sequence[str] = ()) -> None:
        self.config, self.folder = config, folder
        self._foreign: dict[str, Any] = {}  # callbacks and loggers that are not charlab's own, by their keys
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
        told = folder_name_of(overrides, (*OBSERVING_KEYS, "seed"), config.name)
        curves = f"{told},seed={config.seed}".lstrip(",")
        begun = events_folder(folder) if self.resumed_step is not None else None
        self.trainer = self._build_trainer(curves if begun is None else os.path.relpath(begun, folder))
        check_precision(self.model, self.trainer)

    def _build_model(self) -> LanguageModel:
        seed = self.config.seed
        seed_everything(derive_seed(seed, "initialization"))
        model = build_model(self.members.config, self.data.vocabulary)
        self.members.fill(model)
        if (run := origins(self.config).get("init_from")) is not None:
            initialize_from(model, self.members.config, self.data.vocabulary, run)
            _check_unseen(run, Record.load(run), self.data, whose="this run's", judged="this run is to be judged")
        if model.context_length is not None and self.data.context_length > model.context_length:
            raise UserError(
                f"data.context_length={self.data.context_length} is more than the model looks at, "
                f"model.context_length={model.context_length}: lower one or raise the other."
            )
        return model

    def _build_trainer(self, curves: str) -> Trainer:
        config = self.config
        place = (self.folder, self.resumed_step, config.tags, curves)
        loggers = [
            self._built(f"logger.{name}", partial(build_logger, name, plain(part), *place))
            for name, part in _chosen(config.logger).items()
        ]
        has_trackers = not all(isinstance(logger, CSVLogger | TensorBoardLogger) for logger in loggers)
        callbacks: list[Callback] = [build(config.averaging)] if config.averaging is not None else []
        for name, part in _chosen(config.callbacks).items():
            callback = self._built(f"callbacks.{name}", partial(build, part))
            check_callback(f"callbacks.{name}", callback, self.data)
            if isinstance(callback, SampleText | AttentionMaps):
                wanted = "samples" if isinstance(callback, SampleText) else "attention_maps"
                callback.at_end = wanted in config.get("at_end", ()) or callback.every_n_steps is not None
                if not callback.at_end and not has_trackers:  # a tracker may still ask for a sample
                    continue
            callbacks.append(callback)
        return build_trainer(
            plain(config.trainer),
            self.folder,
            self.data,
            [Compilation(config.compute.compile), *callbacks],
            loggers,
            evaluate_every=config.evaluate_every,
            max_seconds=config.budget.max_seconds,
        )

    def _built(self, name: str, construct: Callable[[], Any]) -> Any:
        """Construct a callback or logger, and remember it under its key."""
        try:
            part = construct()
        except InstantiationException as error:
            raised = error.__cause__ or error
            where = line_of_user(raised)
            place = f"{where}, with {name}" if where else f"{name} cannot be built"
            raise UserError(f"{place}: {type(raised).__name__}: {one_sentence(raised)}") from error
        if not type(part).__module__.startswith("charlab."):
            self._foreign[name] = part
        return part

    def failure(self, error: BaseException) -> PartError | None:
        """Return the error to raise if a part that is not charlab's own raised `error`, else None."""
        if not isinstance(error, Exception) or isinstance(error, DivergedError) or find_user_error(error):
            return None
        return failed_part(error, self.config, self._foreign, self.module)


def _chosen(group: DictConfig | None) -> dict[str, DictConfig]:
    """Return the members of a config group, except those set to null."""
    return {str(name): part for name, part in (group or {}).items() if part is not None}


def seed_everything(seed: int) -> None:
    """Seed the global generators, which layers use for initial weights and dropout."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (a user's model may draw from it)


# --- The members of an ensemble ---------------------------------------------------------------------------------------


class _Member(NamedTuple):
    record: Record
    config: dict[str, Any]  # of its model
    model: LanguageModel


class FinishedMembers:
    """The finished runs that an ensemble consists of; none for any other model.

    Args:
        config: configuration of the model.
        data: data that the mixture weights are fitted to and the ensemble is evaluated on.

    Attributes:
        config: the configuration with the members' own configurations in place of the runs, so that the ensemble can be
            built without the runs.
        recorded: the configuration with both.
        characters_seen: characters scored in the training of all members.
        training_seconds: training time of all members.

    Raises:
        UserError: if a run is missing, is not finished, has a different vocabulary, or was trained on the dev or
            validation text of the ensemble.
    """

    def __init__(self, config: dict[str, Any], data: CharacterDataModule) -> None:
        self._members = [_read(Path(run), data) for run in runs_of(config)]
        self.config = self.recorded = config
        if self._members:
            members = [member.config | {"_partial_": True} for member in self._members]
            folders = [str(Path(run).absolute()) for run in runs_of(config)]  # valid in any working folder
            self.recorded = config | {"members": members, "runs": folders}
            self.config = self.recorded | {"runs": []}
        self.characters_seen = sum(member.record.characters_seen for member in self._members)
        self.training_seconds = sum(member.record.time["training_s"] for member in self._members)

    def fill(self, model: LanguageModel) -> None:
        """Load the members' parameters into the ensemble built from `config`, and freeze them."""
        if isinstance(model, Mixture) and self._members:
            for member, finished in zip(model.members.values(), self._members, strict=True):
                member.load_state_dict(finished.model.state_dict())
            model.freeze()

    def print_weights(self, model: LanguageModel, console: Console) -> None:
        """Print the weight of each member of a mixture; nothing for any other model."""
        weights = weights_of(model)
        names = [member.record.name for member in self._members] or list(weights)
        if weights:
            shown = "  ".join(f"{name} {weight:.3f}" for name, weight in zip(names, weights.values(), strict=True))
            console.print(f"weights    {shown}", soft_wrap=True, highlight=False, markup=False)


def weights_of(model: LanguageModel) -> dict[str, float]:
    """Return the weight of each member of a mixture, by name; empty for any other model."""
    if not isinstance(model, Mixture):
        return {}
    return dict(zip(model.members, model.weights.tolist(), strict=True))


def warn_of_equal_weights(model: LanguageModel, data: CharacterDataModule, console: Console) -> None:
    """Print a warning if the model is a mixture whose weights cannot be fitted."""
    if isinstance(model, Mixture) and not model.weights_are_given and "dev" not in data.splits:
        console.print(
            "[bold]All members of this mixture will have equal weights:[/] there is no dev split to fit their "
            "weights to. data.dev_fraction=0.02 cuts one from the beginning of the train text; "
            "model.weights=\\[…] gives them.",
            soft_wrap=True,
        )


def _read(run: Path, data: CharacterDataModule) -> _Member:
    record = Record.load(run)
    if record.status != "finished":
        raise UserError(f"The run {run} is {record.status}: an ensemble takes finished ones, so run it again first.")
    model, checkpoint = load_with_checkpoint(run)
    vocabulary = vocabulary_of(checkpoint, run)
    if vocabulary != data.vocabulary:
        raise UserError(
            f"The run {run} has another vocabulary, {_difference(vocabulary, data.vocabulary)}: name runs with the "
            f"ensemble's data/tokenizer that were trained on texts of the same characters as {data.corpus.name}."
        )
    _check_unseen(run, record, data, whose="the ensemble's", judged="the ensemble is to be weighed")
    return _Member(record, checkpoint["model_config"], model)


def _check_unseen(run: Path, record: Record, data: CharacterDataModule, *, whose: str, judged: str) -> None:
    """Raise `UserError` if a run, or one that it started from, was trained on the dev or validation text of `data`.

    Args:
        run: the run's folder.
        record: the run's record.
        data: the data on which its weights are used.
        whose: whose data that is, for the message.
        judged: what the dev text is for, for the message.
    """
    trained, size = record.config["data"], data.corpus.length
    first, end = (int(Decimal(str(trained[key])) * size) for key in ("dev_fraction", "train_fraction"))
    dev, validation = data.slices["train"].start, data.slices["train"].stop
    if record.corpus["sha256"] == data.corpus.sha256 and (first < dev or end > validation):
        raise UserError(
            f"The run {run} was trained on the characters {first:,} to {end:,} of {data.corpus.name}, and {judged} on "
            f"those before {dev:,} and evaluated on those from {validation:,} on: train it with {whose} "
            f"data.train_fraction and data.dev_fraction, or set data.dev_fraction={trained['dev_fraction']} for both."
        )
    for key in ("init_from", "extend"):
        origin = record.config.get(key)
        if origin is not None and (Path(origin) / FILE_NAME).exists():
            _check_unseen(Path(origin), Record.load(Path(origin)), data, whose=whose, judged=judged)


def _difference(theirs: Vocabulary, ours: Vocabulary) -> str:
    """Return a description of the characters, or else the tokens, that differ."""
    if not (isinstance(theirs, Characters) and isinstance(ours, Characters)):
        return f"{len(theirs)} {theirs.unit} instead of {len(ours)} {ours.unit}"
    more, fewer = set(theirs.characters) - set(ours.characters), set(ours.characters) - set(theirs.characters)
    parts = [f"{word} {''.join(sorted(those))!r}" for word, those in (("with", more), ("without", fewer)) if those]
    return " and ".join(parts)
