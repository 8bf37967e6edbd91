"""Evaluate a trained model by any protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from charlab.data.encoding import encode_part
from charlab.data.tokenizers import Vocabulary
from charlab.errors import UserError
from charlab.evaluation.causality import check_causality
from charlab.evaluation.online import Online
from charlab.evaluation.protocols import Blocks, Estimate, EvaluationProtocol, Score, Sliding, evaluate
from charlab.models.contract import LanguageModel
from charlab.notebook import Output
from charlab.quantities import count
from charlab.runs.checkpoint import load
from charlab.runs.code import EVALUATION
from charlab.runs.display import print_results, tell
from charlab.runs.failure import naming_part
from charlab.runs.folder import locked
from charlab.runs.identity import changed_since, load_corpus
from charlab.runs.record import SPLITS, Record, parts_of_batch
from charlab.runs.store import OUTPUTS, Store
from charlab.runs.text import own_corpus, own_slices
from charlab.training.device import resolve_device


def evaluate_run(config: DictConfig, console: Console | None = None) -> Score:
    """Score a run's model on a split of its corpus, or on another text; print the figures and return the score.

    The figures of a finished run's last checkpoint are added to its record.

    Args:
        config: a composed `conf/evaluate.yaml`.

    Raises:
        UserError: if there is no such run, checkpoint or split, the text of the corpus has changed, another text has
            unknown characters, a look at the test split cannot be counted, or the user's own model fails.
    """
    record = Record.load(Store(OUTPUTS).named(config.run))
    device = torch.device(resolve_device(config.device))
    model, vocabulary = load(record.folder, checkpoint=config.checkpoint, device=device, trust=config.trust)
    console = console or Output()
    if "corpus" in config.data:
        entry, ids = _another_text(config, vocabulary, console)
    else:
        entry, ids = {"split": config.split}, _own_text(config, record, vocabulary)
    ids = ids.to(device)
    context_length = config.context_length or record.config["data"]["context_length"]
    with naming_part(model):
        score = evaluate(
            model,
            ids,
            _protocol(config, record.config),
            vocabulary=vocabulary,
            context_length=context_length,
            batch_size=config.batch_size or batch_size(record.config, model),
        )
        causality = check_causality(model, ids=ids, vocabulary=vocabulary, context_length=context_length)
    metrics = [entry | score.as_dict()]
    floor = record.floor if "corpus" not in config.data else {}
    shown = dataclasses.replace(record, metrics=metrics, causality=causality.as_dict(), floor=floor)
    looks = _count_look(record.folder) if metrics[0]["split"] == "test" else None  # before the figure is shown
    print_results(shown, console)
    try:
        _keep(record, metrics[0], is_last=config.checkpoint == "last")
    except UserError as error:  # for example, a read-only folder
        console.print(f"These figures were not added to the run's record. {error}", soft_wrap=True, markup=False)
    if looks is not None:
        console.print(f"The test split of this run has been scored {count(looks, 'time')}.", highlight=False)
    return score


def _own_text(config: DictConfig, record: Record, vocabulary: Vocabulary) -> Int[Tensor, " N"]:
    """Return the ids of a split of the run's own text.

    Raises:
        UserError: if the text has changed, or there is no such split.
    """
    corpus = own_corpus(record, config.data.path)
    slices = own_slices(record, corpus)
    if config.split not in slices:
        raise UserError(
            f"The run in {record.folder} has no {config.split} split: train with data.{config.split}_fraction (0.05, "
            "say), and leave text for it."
        )
    return torch.from_numpy(encode_part(corpus, slices[config.split], vocabulary))


def _another_text(
    config: DictConfig, vocabulary: Vocabulary, console: Console
) -> tuple[dict[str, Any], Int[Tensor, " N"]]:
    """Return an entry that describes a text that the run was not trained on, and the ids of the whole text.

    Raises:
        UserError: if a character is unknown and `unknown=error`, or every character is.
    """
    corpus = load_corpus(config)
    split = f"text {corpus.name}" if corpus.name in SPLITS else corpus.name  # a file may be called test.txt
    entry: dict[str, Any] = {"split": split, "sha256": corpus.sha256}
    text = corpus.text
    unknown = sorted(character for character in set(text) if not vocabulary.knows(character))
    if unknown:
        characters = count(len(unknown), "character")
        shown = ", ".join([*map(repr, unknown[:8]), *["…"] * (len(unknown) > 8)])
        if config.unknown == "error":
            raise UserError(
                f"The model does not know {characters} of this text ({shown}): skip unknown characters with "
                "unknown=skip, or take another text."
            )
        known = text.translate({ord(character): None for character in unknown})
        if not known:
            raise UserError(f"The model knows no character of this text ({shown}): take another one.")
        entry["left_out"] = 1 - len(known) / len(text)
        told = f"{characters} that the model does not know ({shown})"
        tell(console, f"{entry['left_out']:.2%} of the text is left out: {told}.")
        text = known
    return entry, torch.from_numpy(vocabulary.encode(text))


def _count_look(folder: Path) -> int:
    """Add a look at the test split to the record of a run, and return the number of looks.

    Raises:
        UserError: if the record cannot be changed now: the run is training, or its folder is not writable.
    """
    try:
        with locked(folder):
            record = Record.load(folder)  # reread under the lock
            record.test_looks += 1
            record.save()
            return record.test_looks
    except UserError as error:
        raise UserError(
            f"The figure of the test split is not shown, since this look cannot be counted in the run's record: {error}"
        ) from error


def _keep(evaluated: Record, entry: dict[str, Any], *, is_last: bool) -> None:
    """Add an entry to the metrics of a finished run.

    Args:
        evaluated: the run's record, as it was before the weights were read.
        is_last: whether it is of the last checkpoint; a record holds the figures of no other.

    Raises:
        UserError: if the weights have been replaced, the run's own figures come from different code, or its folder is
            not writable.
    """
    with locked(evaluated.folder):
        record = Record.load(evaluated.folder)  # reread under the lock
        if record.status != "finished" or not is_last:
            return
        if record.finished != evaluated.finished:
            raise UserError("The run has been trained again since its weights were read: give the same command again.")
        data = {key: record.config["data"].get(key) for key in ("_target_", "tokenizer")}
        if names := changed_since(record, {"model": record.config["model"], "data": data}, EVALUATION):
            what = f"changed since: {', '.join(names[:3])}" if record.sources else "that of an earlier version"
            raise UserError(
                f"They come from different code than the run's own figures ({what}): "
                f"charlab.requalify({str(record.folder)!r}) tells whether today's code computes the same."
            )
        record.add_metric(entry)
        record.save()


def batch_size(config: Mapping[str, Any], model: LanguageModel) -> int:
    """Return the size of the batches in which the run itself was evaluated.

    This is the size of a micro-batch, which fits in memory here as it does in training; or of the whole batch, if the
    model draws random numbers for whole batches.
    """
    if model.likelihood == "bound":
        return int(config["data"]["batch_size"])
    return max(1, config["data"]["batch_size"] // parts_of_batch(config["trainer"]))


def _protocol(config: DictConfig, trained: Mapping[str, Any]) -> EvaluationProtocol:
    if config.protocol == "estimate":  # windows of whole batches, as in training, however that divided them
        whole = config.batch_size or trained["data"]["batch_size"]
        return Estimate(num_batches=config.num_batches, batch_size=whole, seed=config.seed)
    if config.protocol == "online":
        return Online(config.block_length, config.learning_rate, config.steps_per_block)
    return Sliding(stride=config.stride) if config.protocol == "sliding" else Blocks()
