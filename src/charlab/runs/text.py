"""The text that a run was trained and scored on, without torch or Lightning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from omegaconf import DictConfig

from charlab.configuration.build import literal
from charlab.data.corpora import Corpus
from charlab.data.encoding import slices_of
from charlab.errors import UserError
from charlab.runs.identity import load_corpus
from charlab.runs.record import Record

NLL = "nll.npy"


def own_config(record: Record, path: str | Path | None = None) -> DictConfig:
    """Return the configuration of a run, with its text's file at `path` if that is given."""
    config = literal(record.config)
    if path is not None:
        if "path" not in config.data.corpus:
            raise UserError(f"The text of {record.folder} is not from a file: leave out data.path.")
        config.data.path = config.data.corpus.path = str(path)
    return config


def own_corpus(record: Record, path: str | Path | None = None) -> Corpus:
    """Return the text of a run, whose file is at `path` now if that is given."""
    corpus = load_corpus(own_config(record, path))
    if corpus.sha256 != record.corpus["sha256"]:
        raise UserError(
            f"The text of {record.corpus['name']} has changed since {record.folder} was trained: restore it, say where "
            "it is with data.path=FILE, or score another text with data=textfile data.path=FILE."
        )
    return corpus


def own_slices(record: Record, corpus: Corpus) -> dict[str, slice]:
    """Return the characters of each split of a run's text, as a slice of it."""
    fractions = {key: value for key, value in record.config["data"].items() if key.endswith("_fraction")}
    return slices_of(corpus.length, **fractions)


def own_nll(record: Record) -> Float[np.ndarray, " N"]:
    """Return −log p of each character of the validation text but the first, by the protocol `blocks`, in nats."""
    path = record.folder / NLL
    try:
        return np.load(path)
    except FileNotFoundError as error:
        raise UserError(f"The run in {record.folder} did not keep the nll of each character ({NLL}).") from error
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is corrupt: restore it, or train the run again with force=true.") from error
