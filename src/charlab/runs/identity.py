"""The identity of a run: a fingerprint of its configuration, and the code that runs it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from charlab.configuration.build import build, literal, plain
from charlab.configuration.overrides import SWEEP_KEYS
from charlab.data.corpora import Corpus, files_of, home_expanded
from charlab.errors import UserError
from charlab.runs import definitions
from charlab.runs.code import changed, code_hash, sources_of
from charlab.runs.folder import find_folder
from charlab.runs.main_source import MAIN
from charlab.runs.record import FILE_NAME, Record, member_models, runs_of
from charlab.runs.source import digest_of

OBSERVING_KEYS = (
    *("hydra", "name", "tags", "note", "output_dir", "force", "resume", "at_end", "plot", "logger"),
    *(*SWEEP_KEYS, "typed", "cell"),  # settings of a sweep; the last two are in records of the first version
    *(
        f"trainer.{name}"
        for name in (
            *("logger", "default_root_dir", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"),
            *("log_every_n_steps", "profiler", "enable_autolog_hparams", "model_registry"),
        )
    ),
)
"""Keys that change no figure of a run. Everything else is part of the fingerprint."""

OBSERVING_CALLBACKS = {
    "charlab.training.callbacks.attention_maps.AttentionMaps",
    "charlab.training.callbacks.checkpointing.Checkpointing",
    "charlab.training.callbacks.divergence.Divergence",
    "charlab.training.callbacks.progress.ProgressDisplay",
    "charlab.training.callbacks.samples.SampleText",
    *(f"lightning.pytorch.callbacks.{name}" for name in ("LearningRateMonitor", "DeviceStatsMonitor", "ModelSummary")),
    *(f"lightning.pytorch.callbacks.{name}" for name in ("RichModelSummary", "RichProgressBar", "TQDMProgressBar")),
}
"""Callbacks that only observe. All others are part of the fingerprint."""

SCHEDULES = "charlab.training.schedules."  # no schedule in this module reads the result of an evaluation

WORK_DIVISION_KEYS = (
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
    *("trainer.accumulate_grad_batches", "compute.threads", "compute.compile"),
)
"""Keys that only divide the work or set its pace. They change no figure if the budget is in steps."""

COUNTED_IN_BATCHES = ("limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval")
ACCUMULATION, STRATEGY = "trainer.accumulate_grad_batches", "trainer.strategy"
BATCH_DIVISION_KEYS = (ACCUMULATION, "trainer.devices", "trainer.num_nodes")
"""Keys that count if a setting of Lightning's is a number of batches, which each of them divides further."""

TIME_BUDGETS = ("budget.max_seconds", "trainer.max_time")
EVALUATED_WHEN = ("evaluate_every", "trainer.val_check_interval", "trainer.check_val_every_n_epoch")
LOGGED_WHEN = "trainer.log_every_n_steps"
SHARES = (
    *("overfit_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
    *("val_check_interval", "swa_epoch_start"),
)
"""Settings of Lightning's in which 1 is one batch or epoch, and 1.0 all of them."""

PATH_KEYS = ("path", "file", "folder", "run", "runs")  # last words of the keys of paths
CHARACTERS = "charlab.data.tokenizers.characters"
PRECISIONS = {
    **dict.fromkeys(("32", "32-true"), "float32"),
    **dict.fromkeys(("64", "64-true"), "float64"),
    **dict.fromkeys(("bf16", "bf16-mixed"), "bfloat16"),
    **dict.fromkeys(("16", "16-mixed"), "float16"),
}
"""Other names of a precision, as Lightning understands them."""


@dataclass(frozen=True)
class Identity:
    """The identity of a run.

    Attributes:
        fingerprint: hash of the configuration; see `fingerprint`.
        sources: digest of each module, and version of each distribution, behind the run's figures.
    """

    fingerprint: str
    sources: Mapping[str, str]

    @property
    def code(self) -> str:
        """A hash of the sources."""
        return code_hash(self.sources)


def identify(config: DictConfig) -> Identity:
    """Return a run's identity.

    Raises:
        UserError: if the corpus cannot be loaded, a member of the model is missing, or a source file cannot be read or
            was edited since this process loaded it.
    """
    return Identity(fingerprint(config), sources(config))


def sources(config: DictConfig) -> dict[str, str]:
    """Return the sources of a run's figures, including those of an ensemble's members."""
    values = fingerprinted_config(config)
    return sources_of({"run": values, "members": member_models(values.get("model", {}))})


def members_of_other_code(config: DictConfig) -> dict[str, list[str]]:
    """Return the members of an ensemble that were trained by different code, each with the sources that differ."""
    records = {run: Record.load(Path(run)) for run in runs_of(plain(config.model))}
    found = {run: changed_since(record, {"model": record.config["model"]}) for run, record in records.items()}
    return {run: names for run, names in found.items() if names}


def changed_since(record: Record, part: Mapping[str, Any], always: Sequence[str] = ()) -> list[str]:
    """Return the sources of a part of a run's configuration that have changed since the run.

    There are none if today's code has reproduced the run (`charlab.requalify`).

    Args:
        part: the part, such as the configuration of the model.
        always: modules to include in any case.
    """
    now = sources_of(part, always)
    former = {name: record.sources.get(name, "") for name in now}
    names = definitions.names_in(part)
    if names and (digest := _digest_of_definitions(record, names)) is not None:
        former[MAIN] = digest
    found = changed(former, now)
    reproduced = found and record.requalified and record.is_by(code_hash(sources(literal(record.config))))
    return [] if reproduced else found


def _digest_of_definitions(record: Record, names: Sequence[str]) -> str | None:
    """Return the digest of the definitions behind names of a notebook, as a run used them; None if they are not kept.

    The record has a single digest, of all that the run used of the notebook: its model, callbacks and other parts.
    """
    with contextlib.suppress(OSError, ValueError):
        text = (record.folder / definitions.FILE_NAME).read_text(encoding="utf-8")
        if digest_of(text) == record.sources.get(MAIN):
            return digest_of(definitions.extract(names, text))
    return None


def fingerprint(config: DictConfig) -> str:
    """Return a hash of 12 hexadecimal digits that is equal for two runs if and only if their configurations agree.

    The hash covers the resolved configuration, except for keys that only observe and, if the budget is in steps, keys
    that only divide the work. The corpus is represented by its SHA-256, any other file by its contents, and a run (such
    as a member of an ensemble) by its own fingerprint and code.

    Args:
        config: a composed `conf/train.yaml`.
    """
    values = fingerprinted_config(config)
    model = values.get("model")
    if isinstance(model, dict):
        for run in runs_of(model):
            Record.load(Path(run))  # raises if it is missing
    values["data"].pop("path", None)
    values["data"]["corpus"] = load_corpus(config).sha256
    values["trainer"]["precision"] = _precision(config.trainer)
    values = _by_content(values)
    for key, folder in origins(config).items():
        record = Record.load(folder)
        values[key] = {"run": record.fingerprint, "code": record.code}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def fingerprinted_config(config: DictConfig) -> dict[str, Any]:
    """Return the part of a configuration that the fingerprint covers. Reads no files."""
    values = {str(key): _resolved(config, str(key)) for key in config if key not in OBSERVING_KEYS}
    values = {key: value for key, value in values.items() if value is not None}
    if _get(values, "data.tokenizer._target_") == CHARACTERS:  # as in runs from before there were other tokenizers
        drop(values, "data.tokenizer")
    by_time = _follows_clock(values)
    reads_log = _reads_training_loss(values)
    limits = [_get(values, f"trainer.{key}") for key in COUNTED_IN_BATCHES]
    by_batches = any(isinstance(limit, int | float) and (limit > 1 or repr(limit) == "1") for limit in limits)
    kept = [*([LOGGED_WHEN] if reads_log else []), *(BATCH_DIVISION_KEYS if by_batches else [])]
    if _get(values, ACCUMULATION) not in (None, 1) and not all(map(_is_known, _acting_anywhere(values))):
        kept.append(ACCUMULATION)  # a user's own callback may act on each micro-batch
    if _changes_gradients(_get(values, STRATEGY)):
        kept.append(STRATEGY)
    for key in OBSERVING_KEYS if by_time else OBSERVING_KEYS + WORK_DIVISION_KEYS:
        if key not in kept:
            drop(values, key)
    if "callbacks" in values:
        values["callbacks"] = _acting(values["callbacks"])
    chooses_best = values["data"].get("dev_fraction")  # the best checkpoint, of those that are evaluated
    if not (_reads_evaluations(values) or chooses_best):
        for key in EVALUATED_WHEN:
            drop(values, key)
    return _canonical(values)


def _resolved(config: DictConfig, key: str) -> Any:
    return plain(config[key]) if OmegaConf.is_config(config[key]) else config[key]


def _acting(callbacks: Any) -> list[Any]:
    """Return those callbacks of a group, of a list or alone, that can change a figure."""
    group = callbacks or []
    if isinstance(group, dict):
        group = [group] if "_target_" in group else list(group.values())
    return [part for part in group if part is not None and _get(part, "_target_") not in OBSERVING_CALLBACKS]


def _changes_gradients(strategy: Any) -> bool:
    """Return whether a strategy may do more than divide the work, as those with hooks and a user's own may."""
    if not isinstance(strategy, dict):
        return False
    given = [key for key, value in strategy.items() if value is not None]
    return not _is_known(strategy) or any(key.startswith(("ddp_comm", "model_averaging")) for key in given)


def _acting_anywhere(values: dict[str, Any]) -> list[Any]:
    return [*_acting(values.get("callbacks")), *_acting(_get(values, "trainer.callbacks"))]


def reads_evaluations(config: DictConfig) -> bool:
    """Return whether a step may depend on evaluations, which a callback or a plateau scheduler may read."""
    return _reads_evaluations({key: _resolved(config, key) for key in ("callbacks", "scheduler", "trainer")})


def _reads_evaluations(values: dict[str, Any]) -> bool:
    if _acting_anywhere(values):
        return True
    return not (values.get("scheduler") or {}).get("_target_", SCHEDULES).startswith(SCHEDULES)


def _reads_training_loss(values: dict[str, Any]) -> bool:
    """Return whether a callback may choose by `train/loss`, the mean over the steps since the previous log entry.

    A user's own callback may read it even if it does not say so.
    """
    parts = _acting_anywhere(values)
    chosen_by = [_get(part, "monitor") or (None if _is_known(part) else "train/loss") for part in parts]
    return "train/loss" in chosen_by


def _is_known(part: Any) -> bool:
    """Return whether a part is charlab's or Lightning's."""
    return str(_get(part, "_target_")).partition(".")[0] in ("charlab", "lightning", "pytorch_lightning")


def _follows_clock(values: dict[str, Any]) -> bool:
    """Return whether the pace of a run decides how many steps it takes, or when what it reads is evaluated."""
    if any(_get(values, key) not in (None, float("inf")) for key in TIME_BUDGETS):
        return True
    parts = _acting_anywhere(values)
    if any(str(_get(part, "_target_")).endswith(".Timer") and _get(part, "duration") is not None for part in parts):
        return True
    is_timed = isinstance(_get(values, "trainer.val_check_interval"), str | dict)  # "00:00:10:00", or its parts
    return is_timed and bool(_reads_evaluations(values) or _get(values, "data.dev_fraction"))


def _get(values: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def drop(values: dict[str, Any], dotted: str) -> None:
    """Remove a dotted key from nested values, if it is there."""
    parent, _, leaf = dotted.rpartition(".")
    owner = _get(values, parent) if parent else values
    if isinstance(owner, dict):
        owner.pop(leaf, None)


def _canonical(value: Any, key: str = "") -> Any:
    """Return a value with integral floats as integers, so that 1.0 and 1 are equal unless they are `SHARES`."""
    if isinstance(value, dict):
        return {str(name): _canonical(part, str(name)) for name, part in value.items()}
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    is_all = key in SHARES and value == 1
    return int(value) if isinstance(value, float) and value.is_integer() and not is_all else value


def _by_content(value: Any, key: str = "") -> Any:
    """Return a value with the path of every file or run's folder replaced by a hash of its contents.

    A text is a path if it has a separator or a suffix, or if its key says so (`path`, `file`, `words_file`, `runs`, …);
    any other, such as "auto", means the same whatever the working folder contains.
    """
    if isinstance(value, dict):
        return {name: part if name == "_target_" else _by_content(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_by_content(part, key) for part in value]
    if not isinstance(value, str) or not value or "\0" in value or "\n" in value:
        return value
    if key.rpartition("_")[2] not in PATH_KEYS and not os.path.dirname(value) and not os.path.splitext(value)[1]:
        return value
    path = os.path.expanduser(value)
    if os.path.isfile(os.path.join(path, FILE_NAME)):
        record = Record.load(Path(path))
        return {"run": record.fingerprint, "code": record.code}
    if os.path.isfile(path):
        status = os.stat(path)
        return {"sha256": _sha256(os.path.abspath(path), status.st_mtime_ns, status.st_size)}
    return value


@functools.lru_cache(maxsize=64)
def _sha256(path: str, modified: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def origins(config: DictConfig) -> dict[str, Path]:
    """Return the folders of the finished runs that a run starts from, by key: `init_from`, `extend`."""
    found = {}
    for key in ("init_from", "extend"):
        if config.get(key) is not None:
            home = Path(config.get("output_dir") or "outputs", "runs")  # an archive keeps no output_dir
            found[key] = find_folder(config[key], home).absolute()
            record = Record.load(found[key])
            if record.status != "finished":
                raise UserError(f"{key}={config[key]} is {record.status}: start from a finished run.")
    return found


def load_corpus(config: DictConfig) -> Corpus:
    """Return the corpus that `config.data.corpus` describes, cached per process."""
    corpus = plain(config.data)["corpus"]
    path = corpus.get("path")
    files = [] if path is None else files_of(path)
    files += _files_named({key: value for key, value in corpus.items() if key != "path"})
    stamps = tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files if os.path.isfile(f))
    is_own = all(target.startswith("charlab.") for target in definitions.targets(corpus))
    code = "" if is_own else code_hash(sources_of(corpus, ()))  # of a user's loader, which may be edited and reloaded
    return _load_corpus(json.dumps(corpus, sort_keys=True), stamps, code)


def _files_named(value: Any, key: str = "") -> Iterator[Path]:
    """Yield the files that a loader's arguments may name; those in a folder only if the key is that of a path."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _files_named(part, str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _files_named(part, key)
    elif isinstance(value, str) and os.path.isdir(home_expanded(value)) and key.rpartition("_")[2] in PATH_KEYS:
        with contextlib.suppress(UserError):  # an empty folder, which its loader may fill
            yield from files_of(value)
    elif isinstance(value, str):
        yield home_expanded(value)


@functools.lru_cache(maxsize=2)
def _load_corpus(corpus_config: str, stamps: tuple[tuple[str, int, int], ...], code: str) -> Corpus:
    return build(json.loads(corpus_config)).load()


def _precision(trainer: Any) -> str:
    """Return the precision of a run. Imports torch only if the precision depends on the device."""
    if trainer.precision != "auto":
        return PRECISIONS.get(str(trainer.precision), str(trainer.precision))
    if trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and _has_no_gpu()):
        return "float32"
    from charlab.training.device import resolve_device, resolve_precision

    precision = resolve_precision("auto", resolve_device(trainer.accelerator))
    return PRECISIONS.get(precision, precision)


def _has_no_gpu() -> bool:
    """Return whether this is a Linux machine without any GPU driver."""
    return sys.platform == "linux" and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")))
