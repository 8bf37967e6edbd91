"""What makes two runs the same: a hash of everything that decides their outcome."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from charlab.configuration.build import build, plain
from charlab.data.corpus import Corpus
from charlab.runs.record import Record

# Of the trainer's settings, those that change what is learned; devices, launchers and logging do not.
DECISIVE_TRAINER_KEYS = ("max_steps", "max_seconds", "accumulate_grad_batches", "gradient_clip_val")


def fingerprint(config: DictConfig) -> str:
    """Returns 12 hexadecimal digits that two runs share exactly if they mean the same.

    The hash covers the resolved model, data, optimizer, scheduler, objective, averaging, precision, seed and budget,
    and the corpus's SHA-256 in place of where the corpus lies. Where nothing is chosen of what was added later, it
    is what it was before. The runs of an ensemble are known by their own fingerprints, not by where they lie.

    Raises:
        UserError: if the corpus cannot be loaded, or a run that the model is made of is not there.
    """
    parts: dict[str, Any] = {key: plain(config[key]) for key in ("model", "optimizer", "scheduler")}
    if runs := runs_of(parts["model"]):
        parts["model"] = {"runs": [Record.load(Path(run)).fingerprint for run in runs]}
    parts["model"] = _as_before(parts["model"])
    data = plain(config.data)
    data.pop("path", None)
    if data.get("order") == "random":
        del data["order"]
    if data["dev_fraction"]:
        data["dev_split"] = "first"  # it was the last part of the train text once
    data["corpus"] = load_corpus(config).sha256
    parts["data"] = data
    parts |= {key: plain(config[key]) for key in ("objective", "averaging") if config[key] is not None}
    parts["seed"] = config.seed
    parts["trainer"] = {key: config.trainer.get(key) for key in DECISIVE_TRAINER_KEYS}
    parts["trainer"]["precision"] = _precision(config.trainer)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _as_before(model: Any) -> Any:
    """Returns a model's configuration, and that of its parts, without what was added later and is not chosen."""
    if isinstance(model, list):
        return [_as_before(part) for part in model]
    if not isinstance(model, dict):
        return model
    if model.get("_target_") == "charlab.models.ngram_embedding.NGramEmbedding" and model.get("dropout") == 0:
        model = {key: value for key, value in model.items() if key != "dropout"}
    return {key: _as_before(part) for key, part in model.items()}


def runs_of(model: dict[str, Any]) -> list[str]:
    """Returns the folders of the finished runs that a model's configuration is made of: an ensemble's, if any."""
    return model["runs"] if model["_target_"] == "charlab.models.mixture.Ensemble" else []


def load_corpus(config: DictConfig) -> Corpus:
    """Returns the corpus that `config.data.corpus` names, read once in a process.

    Raises:
        UserError: if it cannot be found or read.
    """
    return _load_corpus(json.dumps(plain(config.data)["corpus"], sort_keys=True))


@functools.lru_cache(maxsize=2)
def _load_corpus(corpus_config: str) -> Corpus:
    return build(json.loads(corpus_config)).load()


def _precision(trainer: Any) -> str:
    """Returns the precision that the run computes in; torch is asked only where the device decides it."""
    if trainer.precision != "auto":
        return trainer.precision
    if trainer.accelerator == "cpu":
        return "float32"
    from charlab.training.device import resolve_device, resolve_precision

    return resolve_precision("auto", resolve_device(trainer.accelerator))


# The folder of a run is named by it; Hydra resolves that before the run begins.
OmegaConf.register_new_resolver("fingerprint", lambda *, _root_: fingerprint(_root_), replace=True)
