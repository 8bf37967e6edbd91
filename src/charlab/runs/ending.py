"""The end of a run: its final weights on the whole validation text, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from charlab.data.datamodule import CharacterDataModule
from charlab.evaluation.protocols import Blocks, Score, Sliding, evaluate
from charlab.files import write_atomically
from charlab.models.contract import LanguageModel
from charlab.runs.record import SCENE_LENGTH, Record
from charlab.training.loggers import RunLogger

# What TensorBoard shows beside the final metrics of each run.
HYPERPARAMETERS = ("model", "data", "optimizer", "scheduler", "objective", "averaging", "trainer", "seed")


def score_validation(record: Record, model: LanguageModel, data: CharacterDataModule, device: torch.device) -> None:
    """Adds to the record what the model scores on the whole validation text, by both protocols that cover it."""
    ids = data.ids("validation", device)
    sizes = {"context_length": data.context_length, "batch_size": data.micro_batch_size}
    blocks = evaluate(model, ids, Blocks(), **sizes)
    _keep_characters(record, blocks)
    sliding = evaluate(model, ids, Sliding(blocks=blocks), **sizes)
    record.metrics += [{"split": "validation", **score.as_dict()} for score in (blocks, sliding)]


def _keep_characters(record: Record, score: Score) -> None:
    """Saves what each character costs, in nats, and their sums by scene: what studies compare."""
    per_character = score.per_character
    assert per_character is not None
    write_atomically(record.folder / "nll.npy", lambda file: np.save(file, per_character))
    starts = np.arange(0, len(per_character), SCENE_LENGTH)
    record.scenes = np.add.reduceat(per_character, starts, dtype=np.float64).tolist()


def log_outcome(record: Record, loggers: Sequence[RunLogger], *, num_logged: int, weights: Mapping[str, float]) -> None:
    """Writes the final figures beside the curves, and the hyperparameters with them.

    Args:
        record: with all its metrics.
        loggers: which are closed thereafter.
        num_logged: how many of the metrics, from the first on, were logged in training.
        weights: what each member of a mixture weighs.
    """
    figures = {f"{entry['protocol']}/{entry['split']}/nll": entry["nll"] for entry in record.metrics}
    new = dict(list(figures.items())[num_logged:]) | {f"weight/{name}": weight for name, weight in weights.items()}
    clock = {"characters": record.characters_seen, "seconds": record.time["training_s"]}
    for logger in loggers:
        logger.log_metrics({**new, **clock}, record.steps)
    log_hyperparameters(record, loggers, figures)


def log_hyperparameters(record: Record, loggers: Sequence[RunLogger], figures: Mapping[str, float | None]) -> None:
    """Lists the run beside others with its settings and final figures, if it has any, and closes the loggers."""
    hyperparameters = {part: record.config[part] for part in HYPERPARAMETERS}
    for logger in loggers:
        logger.log_hyperparameters(hyperparameters, figures, record.steps)
        logger.finalize("success")
