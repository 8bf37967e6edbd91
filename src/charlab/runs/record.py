"""A run's record: everything that is known about it, in one JSON file."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from charlab.errors import UserError
from charlab.files import write_atomically

FILE_NAME = "record.json"
FORMAT = 2
FORMER_FORMAT = 1  # read, but not resumed: its batch size was that of one device and micro-batch
SCENE_LENGTH = 2000  # characters
# Of an entry of `metrics`; the rest says how it was measured.
FIGURES = ("nll", "bpc", "perplexity", "standard_error", "reason")

Status = Literal["running", "finished", "failed", "diverged"]


@dataclass
class Record:
    """What a run was, how far it got, and what came out.

    Attributes:
        folder: the run's folder; not stored.
        name: the experiment's name, or model and corpus.
        fingerprint: see `charlab.runs.identity`.
        status: "running" also after a kill, until the run is continued.
        error: why it failed or diverged.
        overrides: the command line that makes the run again.
        config: the resolved configuration.
        seed: the run's seed.
        corpus: name, SHA-256 and number of characters.
        machine: device, its name, precision, threads, processes.
        versions: of Python and of the libraries that compute.
        code: a hash of the source that its figures come from; see `charlab.runs.code`.
        sources: that source: a digest of each module, the version of each distribution.
        begun_by: hashes of other code by which it was begun, where it was told to go on by this one.
        requalified: entries for other code that has repeated its first logged points: `code`, `points`, `date`.
        git_commit: of the code; None outside a repository.
        parameters: number of parameters, those of finished members of an ensemble included.
        steps: optimizer steps done.
        characters_seen: characters scored in training.
        flops_per_step: floating-point operations of one optimizer step, counted; None where they cannot be.
        time: seconds spent on `setup_s`, `training_s`, `evaluation_s` and `compilation_s`, over all attempts.
        peak_memory_bytes: of the device on a GPU, of the process otherwise.
        metrics: one entry per protocol and split; `scripts/evaluate.py` adds to them.
        scenes: nats of each stretch of `SCENE_LENGTH` characters of the validation text by `blocks`, in its order, the
            last one shorter: what it takes to ask whether a difference would hold on other text.
        callbacks: classes of those that neither charlab nor Lightning has, which may do anything to training.
        best: step and nll of the evaluation that was the best on the dev split, whose weights `checkpoints/best.ckpt`
            holds; None without such a split. What is reported above is of the final weights.
        causality: whether the model looks at what it is to predict.
        floor: entropy of each split in nats per character, where it is known.
        started: when the run first began, and `finished` when it ended (ISO 8601, UTC).
    """

    folder: Path
    name: str
    fingerprint: str
    status: Status = "running"
    error: str | None = None
    overrides: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    corpus: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    code: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
    begun_by: list[str] = field(default_factory=list)
    requalified: list[dict[str, Any]] = field(default_factory=list)
    git_commit: str | None = None
    parameters: int = 0
    steps: int = 0
    characters_seen: int = 0
    flops_per_step: int | None = None
    time: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    scenes: list[float] = field(default_factory=list)
    callbacks: list[str] = field(default_factory=list)
    best: dict[str, Any] | None = None
    causality: dict[str, Any] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    started: str | None = None
    finished: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what `record.json` holds: strict JSON, in which numbers that are not finite are null.

        Which they are is listed under `not_finite`, by dotted path.
        """
        values = asdict(self)
        values.pop("folder")
        not_finite: dict[str, str] = {}
        values = _finite(values, "", not_finite)
        return {"format": FORMAT, **values, **({"not_finite": not_finite} if not_finite else {})}

    def save(self) -> None:
        """Write the record into its folder, atomically."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.folder / FILE_NAME, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Read the record in `folder`, also one of a former version of charlab.

        Raises:
            UserError: if there is none, or it is corrupt or of a later version.
        """
        path = folder / FILE_NAME
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")), folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"There is no run in {folder}: name a folder that holds a {FILE_NAME}.") from error
        except (ValueError, KeyError, TypeError, AttributeError, LookupError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} is corrupt: restore it, or delete the folder and run again.") from error

    @classmethod
    def of(cls, values: dict[str, Any], folder: Path) -> Record:
        """Return the record that these values, as `record.json` holds them, describe.

        Raises:
            UserError: if they are of a later version.
            KeyError, TypeError: if they are no record.
        """
        written = values["format"]
        if written not in (FORMER_FORMAT, FORMAT):
            raise UserError(f"{folder / FILE_NAME} was written by a later version of charlab: read it with that one.")
        for dotted, number in values.get("not_finite", {}).items():
            *parents, leaf = dotted.split(".")
            owner: Any = values
            for key in parents:
                owner = owner[int(key) if isinstance(owner, list) else key]
            owner[int(leaf) if isinstance(owner, list) else leaf] = float(number)
        record = cls(folder=folder, **{key: values[key] for key in values if key not in ("format", "not_finite")})
        if written == FORMER_FORMAT:
            _make_batch_global(record.config)
        return record

    def is_by(self, code: str) -> bool:
        """Return whether its figures are those of this code: it trained the run, or has repeated its beginning."""
        return code == self.code or any(entry["code"] == code for entry in self.requalified)

    def add_metric(self, entry: dict[str, Any]) -> None:
        """Adds figures, in place of those that are there by the same protocol and settings on the same split."""
        known = [_measured_how(former) for former in self.metrics]
        if (how := _measured_how(entry)) in known:
            self.metrics[known.index(how)] = entry
        else:
            self.metrics.append(entry)

    def metric(self, protocol: str, split: str = "validation") -> dict[str, Any]:
        """Returns the figures by one protocol on one split; by several settings, those of the run itself come first.

        Raises:
            UserError: if the run has none.
        """
        for entry in self.metrics:
            if entry["protocol"] == protocol and entry["split"] == split:
                return entry
        raise UserError(f"The run in {self.folder} has no {protocol} figure on {split}: run scripts/evaluate.py.")


def _measured_how(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns an entry of `metrics` without its figures."""
    return {key: value for key, value in entry.items() if key not in FIGURES}


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that decide a run's numbers."""
    libraries = ("charlab", "torch", "lightning", "hydra-core", "omegaconf", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in libraries}


def _finite(value: Any, path: str, not_finite: dict[str, str]) -> Any:
    """Return a value with None for each number that is not finite; note these by dotted path."""
    if isinstance(value, dict):
        return {str(key): _finite(part, f"{path}.{key}", not_finite) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part, f"{path}.{index}", not_finite) for index, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        not_finite[path.removeprefix(".")] = str(value)
        return None
    return value


def _make_batch_global(config: dict[str, Any]) -> None:
    """Give a former configuration the batch size of today: windows per optimizer step, over all micro-batches."""
    data, trainer = config.get("data"), config.get("trainer")
    if data and trainer and "batch_size" in data:
        devices, nodes = (trainer.get(key) for key in ("devices", "num_nodes"))
        for factor in (trainer.get("accumulate_grad_batches"), devices, nodes):
            data["batch_size"] *= factor if isinstance(factor, int) and factor > 0 else 1


def git_commit() -> str | None:
    """Returns the commit of charlab's own code, with "+changes" if files differ from it; None if it is unknown."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"],
            cwd=Path(__file__).parent,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
