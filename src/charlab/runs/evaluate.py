"""Evaluate a trained model by any protocol."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from charlab.configuration.build import build
from charlab.data.datamodule import CharacterDataModule
from charlab.errors import UserError
from charlab.evaluation.causality import check_causality
from charlab.evaluation.online import Online
from charlab.evaluation.protocols import Blocks, Estimate, Protocol, Score, Sliding, evaluate
from charlab.models.contract import LanguageModel
from charlab.runs.checkpoint import load
from charlab.runs.code import EVALUATION, changed, sources_of
from charlab.runs.display import print_results
from charlab.runs.folder import locked
from charlab.runs.identity import identify, load_corpus
from charlab.runs.record import Record
from charlab.runs.store import OUTPUTS, Store
from charlab.training.device import resolve_device


def evaluate_run(config: DictConfig, console: Console | None = None) -> Score:
    """Score a run's model on a split of its corpus, print the figures and return the score.

    The figures of a finished run's last checkpoint are added to its record.

    Args:
        config: a composed `conf/evaluate.yaml`.
        console: console to print to; standard output by default.

    Raises:
        UserError: if there is no such run, checkpoint or split, or the text of the corpus has changed.
    """
    record = Record.load(Store(OUTPUTS).named(config.run))
    device = torch.device(resolve_device(config.device))
    model, _ = load(record.folder, checkpoint=config.checkpoint, device=device, trust=config.trust)
    trained = OmegaConf.create(record.config)
    if config.data.path is not None:
        if "path" not in trained.data.corpus:
            raise UserError(f"The text of {config.run} is not from a file: leave out data.path.")
        trained.data.path = trained.data.corpus.path = config.data.path
    corpus = load_corpus(trained)
    if corpus.sha256 != record.corpus["sha256"]:
        raise UserError(
            f"The text of {record.corpus['name']} has changed since {config.run} was trained: restore it, "
            "or say where it is with data.path=FILE."
        )
    data: CharacterDataModule = build(trained.data, corpus=corpus)
    data.setup()
    context_length = config.context_length or data.context_length
    ids = data.ids(config.split, device)
    score = evaluate(
        model,
        ids,
        _protocol(config),
        context_length=context_length,
        batch_size=config.batch_size or _batch_size(record.config, model),
    )
    causality = check_causality(model, ids=ids, context_length=context_length)
    metrics = [{"split": config.split, **score.as_dict()}]
    console = console or Console()
    print_results(dataclasses.replace(record, metrics=metrics, causality=causality.as_dict()), console)
    if config.checkpoint == "last":
        try:
            _keep(record.folder, metrics[0])
        except UserError as error:  # for example, a read-only folder
            console.print(f"These figures were not added to the run's record. {error}", soft_wrap=True, markup=False)
    return score


def _keep(folder: Path, entry: dict[str, Any]) -> None:
    """Add an entry to the metrics of a finished run.

    Raises:
        UserError: if the run's own figures come from different code, or its folder is not writable.
    """
    with locked(folder):
        record = Record.load(folder)  # reread under the lock
        if record.status != "finished":
            return
        data = {"_target_": record.config["data"]["_target_"]}
        now = sources_of({"model": record.config["model"], "data": data}, EVALUATION)
        differing = changed({name: record.sources.get(name, "") for name in now}, now)
        if differing and not record.is_by(identify(OmegaConf.create(record.config)).code):
            what = f"changed since: {', '.join(differing[:3])}" if record.sources else "that of a former charlab"
            raise UserError(
                f"They come from other code than the run's own figures ({what}): charlab.requalify({str(folder)!r}) "
                "tells whether today's code computes the same."
            )
        record.add_metric(entry)
        record.save()


def _batch_size(config: Mapping[str, Any], model: LanguageModel) -> int:
    """Return the size of the batches in which the run itself was evaluated.

    A micro-batch's, because what fits in training fits here; or the whole batch's, if a model draws for whole batches.
    """
    if model.likelihood == "bound":
        return int(config["data"]["batch_size"])
    parts = (config["trainer"].get(key) for key in ("accumulate_grad_batches", "devices", "num_nodes"))
    divisor = math.prod(part for part in parts if isinstance(part, int) and part > 0)
    return max(1, config["data"]["batch_size"] // divisor)


def _protocol(config: DictConfig) -> Protocol:
    if config.protocol == "estimate":
        return Estimate(num_batches=config.num_batches, seed=config.seed)
    if config.protocol == "online":
        return Online(config.block_length, config.learning_rate, config.steps_per_block)
    return Sliding(stride=config.stride) if config.protocol == "sliding" else Blocks()
