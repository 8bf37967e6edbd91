"""A laboratory for small character-level language models.

In a notebook:

    import charlab

    record = charlab.run("experiment=part1/bigram", "trainer.max_steps=100")
    model, vocabulary = charlab.load(record.folder)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from charlab.data.vocabulary import Vocabulary
    from charlab.models.contract import LanguageModel
    from charlab.runs.record import Record

__all__ = ["load", "run"]


def run(*overrides: str) -> Record:
    """Trains and evaluates one model, as `python scripts/train.py OVERRIDES` does, and returns the run's record.

    Args:
        overrides: what would stand on the command line, one string each.

    Raises:
        charlab.errors.UserError: if an override is wrong; nothing has been written then.
    """
    from charlab.cli import run as run_overrides  # noqa: PLC0415  (importing charlab must not import torch)

    return run_overrides(list(overrides))


def load(run: str | Path, **options: Any) -> tuple[LanguageModel, Vocabulary]:
    """Returns the trained model of a run's folder, in evaluation mode, and its vocabulary.

    Args:
        run: the run's folder, or a checkpoint file.
        options: `checkpoint` ("last" or "best") and `device`; see `charlab.runs.checkpoint.load`.
    """
    from charlab.runs.checkpoint import load as load_run  # noqa: PLC0415

    return load_run(run, **options)
