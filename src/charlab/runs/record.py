"""The record of a run: everything that is known about it, in one JSON file."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from charlab.command import command
from charlab.curves import FILE_NAME as CURVES
from charlab.curves import read_curves
from charlab.errors import UserError
from charlab.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from charlab.runs.surprisal import Surprisal

FILE_NAME = "record.json"
FORMAT = 2
FORMER_FORMAT = 1  # read but not resumed, because its batch size was per device and micro-batch
SCENE_LENGTH = 2000  # characters
ENSEMBLE = "charlab.models.mixture.Ensemble"
SPLITS = ("train", "validation", "dev", "test")  # of a run's own text
# Keys of an entry of `metrics` that are results; the other keys say how they were measured.
FIGURES = ("nll", "bpc", "perplexity", "standard_error", "reason")

Status = Literal["running", "finished", "failed", "diverged", "tried"]


@dataclass(repr=False)
class Record:
    """The settings, progress and results of a run.

    Attributes:
        folder: the run's folder; not saved.
        name: name of the experiment, or of the model and corpus.
        fingerprint: hash of the configuration; see `charlab.runs.identity`.
        status: state of the run. A killed run stays "running" until it is resumed; a run with `debug` or
            `trainer.fast_dev_run` ends as "tried", so that it never counts as a result.
        error: why the run failed or diverged.
        overrides: command line that reproduces the run.
        config: the resolved configuration.
        seed: the run's seed.
        corpus: name, SHA-256 and number of characters.
        machine: device, its name, precision, threads and processes.
        versions: versions of Python and of the libraries that affect numbers.
        code: hash of the source behind the figures; see `charlab.runs.code`.
        sources: that source, as the digest of each module and the version of each distribution.
        begun_by: hashes of earlier code, if the run was resumed with different code (`resume=any_code`).
        requalified: one entry (`code`, `fingerprint`, `points`, `tolerance`, `date`) for each other code that
            reproduced the first logged points.
        git_commit: commit of the repository in the working folder; None outside one.
        parameters: number of parameters, including those of an ensemble's finished members.
        steps: number of optimizer steps.
        characters_seen: characters scored in training.
        flops_per_step: floating-point operations of an optimizer step; None if they cannot be counted.
        clock: training seconds when each of the first steps was reached; empty without a budget in seconds.
        time: seconds spent on `setup_s`, `training_s`, `evaluation_s` and `compilation_s`, over all attempts.
        peak_memory_bytes: peak memory of the device on a GPU, of the process otherwise.
        metrics: results, one entry per protocol and split; `charlab evaluate` adds entries.
        scenes: total nll, in nats, of each stretch of `SCENE_LENGTH` characters of the validation text by the protocol
            `blocks`, in order (the last one may be shorter). Studies use them to test whether a difference generalizes
            to other text.
        test_looks: number of times that the test split was scored.
        callbacks: classes of callbacks that belong to neither charlab nor Lightning, and may change training.
        best: step and nll of the best evaluation on the dev split, whose weights are in `checkpoints/best.ckpt`; None
            without a dev split. `metrics` are those of the final weights.
        causality: result of the check whether the model sees what it has to predict.
        floor: entropy of each split in nats per character, if known.
        started: time when the run first started (ISO 8601, UTC).
        finished: time when the run finished (ISO 8601, UTC).
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
    clock: list[float] = field(default_factory=list)
    time: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    scenes: list[float] = field(default_factory=list)
    test_looks: int = 0
    callbacks: list[str] = field(default_factory=list)
    best: dict[str, Any] | None = None
    causality: dict[str, Any] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    started: str | None = None
    finished: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the contents of `record.json`: strict JSON, in which numbers that are not finite are null.

        The original values are listed under `not_finite`, by dotted path.
        """
        values = asdict(self)
        values.pop("folder")
        not_finite: dict[str, str] = {}
        values = _finite(values, "", not_finite)
        return {"format": FORMAT, **values, **({"not_finite": not_finite} if not_finite else {})}

    def save(self) -> None:
        """Write the record into its folder atomically."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(self.folder / FILE_NAME, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: Path) -> Record:
        """Return the record in `folder`, which may be from an earlier version of charlab.

        Raises:
            UserError: if the record is missing, corrupt or from a later version.
        """
        path = folder / FILE_NAME
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8")), folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"There is no run in {folder}: name a folder that holds a {FILE_NAME}.") from error
        except UserError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is corrupt: restore it, or delete the folder and run again.") from error

    @classmethod
    def of(cls, values: dict[str, Any], folder: Path) -> Record:
        """Return the record described by the contents of a `record.json`.

        Raises:
            UserError: if the record is from a later version.
            KeyError, TypeError: if the values are not a record.
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

    def table(self) -> pd.DataFrame:
        """Return the figures as a table: a row for each split and protocol, in nats and bits per character."""
        import pandas as pd

        columns = ["split", "protocol", "nll", "bpc", "perplexity", "standard_error", "likelihood"]
        return pd.DataFrame([{key: entry.get(key) for key in columns} for entry in self.metrics], columns=columns)

    def curves(self) -> pd.DataFrame:
        """Return all measurements during training: a row for each, with step, characters, seconds, metric and value."""
        return read_curves(self.folder / CURVES)

    def plot(self, *, log_steps: bool = False) -> Figure:
        """Return a matplotlib figure of the training and validation loss over the optimizer steps.

        Args:
            log_steps: whether to use a logarithmic scale for the steps.
        """
        from charlab.notebook import show_figures
        from charlab.runs.plots import draw_loss

        show_figures()
        return draw_loss(
            self.curves(),
            title=self.name,
            floor=self.floor.get("validation"),
            likelihood="bound" if any(entry["likelihood"] == "bound" for entry in self.metrics) else "exact",
            leaks=bool(self.causality.get("leaks")),
            log_steps=log_steps,
        )

    def surprisal(self, start: int = 0, length: int = 3000, *, trust: bool = False) -> Surprisal:
        """Return a passage of the validation text, which a notebook shows colored by the nll of each character.

        See `charlab.runs.surprisal.surprisal` for the arguments.
        """
        from charlab.runs.surprisal import surprisal

        return surprisal(self, start, length, trust=trust)

    def __repr__(self) -> str:
        """Return the run's name, state and folder."""
        return f"<Record of {self.name}, {self.status}, in {self.folder}>"

    def _repr_html_(self) -> str:
        """Return a card for a notebook."""
        from charlab.runs.display import card

        return card(self)

    def is_by(self, code: str) -> bool:
        """Return whether `code` trained the run or has reproduced its first points, so that its figures hold for it."""
        return code == self.code or any(entry["code"] == code for entry in self.requalified)

    @property
    def fingerprints(self) -> set[str]:
        """The run's fingerprint, and those that its configuration had when it was requalified."""
        return {self.fingerprint, *(entry["fingerprint"] for entry in self.requalified if "fingerprint" in entry)}

    def add_metric(self, entry: dict[str, Any]) -> None:
        """Add an entry to `metrics`, replacing one with the same protocol, settings and split."""
        known = [_measured_how(former) for former in self.metrics]
        if (how := _measured_how(entry)) in known:
            self.metrics[known.index(how)] = entry
        else:
            self.metrics.append(entry)

    def has_figure(self, protocol: str, split: str = "validation") -> bool:
        """Return whether `metric` has a figure by the usual settings, or another one and no weights to compute it."""
        found = self.find_figure(protocol, split)
        return found is not None and (self._is_usual(found) or not self._has_weights)

    def find_figure(self, protocol: str, split: str = "validation") -> dict[str, Any] | None:
        """Return the entry of `metrics` for a protocol and split, by the usual settings if possible; None without one.

        In earlier versions, another text that was called like a split had an entry of that name.
        """
        found = [
            entry
            for entry in self.metrics
            if entry["protocol"] == protocol and entry["split"] == split and not (split in SPLITS and "sha256" in entry)
        ]
        return next(filter(self._is_usual, found), found[0] if found else None)

    def _is_usual(self, entry: dict[str, Any]) -> bool:
        """Return whether an entry is by the context of training and half of it as the stride, not by others' choice."""
        length = (self.config.get("data") or {}).get("context_length")
        stride = None if length is None else max(1, length // 2)
        return entry.get("context_length") in (None, length) and entry.get("stride") in (None, stride)

    @property
    def _has_weights(self) -> bool:
        return self.status == "finished" and (self.folder / "checkpoints" / "last.ckpt").is_file()

    def metric(self, protocol: str, split: str = "validation", *, trust: bool = False) -> dict[str, Any]:
        """Return the entry of `metrics` for a protocol and split; the run's own settings take precedence.

        A figure that a finished run lacks is computed and added to its record, except figures of the test split and
        figures by `online`, which only `charlab evaluate` computes.

        Args:
            trust: whether code that the run's folder holds may run for it; see `charlab.load`.

        Raises:
            UserError: if there is no such entry, and none can be computed.
        """
        if not self.has_figure(protocol, split) and protocol != "online" and split != "test":
            self._complete(protocol, split, trust)
        if (entry := self.find_figure(protocol, split)) is not None:
            return entry
        from charlab.configuration.overrides import quoted_if_needed

        run = f"run={quoted_if_needed(str(self.folder))}"
        computing = command("evaluate", run, f"protocol={protocol}", f"split={split}")
        raise UserError(f"The run in {self.folder} has no {protocol} figure on {split}: compute it by {computing}.")

    def _complete(self, protocol: str, split: str, trust: bool) -> None:
        """Compute a figure that a finished run lacks, if it still has its weights."""
        if not self._has_weights:
            return
        from charlab.configuration.compose import compose
        from charlab.configuration.overrides import quoted
        from charlab.runs.evaluate import evaluate_run

        chosen = [f"run={quoted(str(self.folder))}", f"protocol={protocol}", f"split={split}"]
        chosen += ["trust=true"] if trust else []
        evaluate_run(compose(chosen, "evaluate"), Console(file=io.StringIO(), force_jupyter=False))
        self.metrics = Record.load(self.folder).metrics


def runs_of(model: Mapping[str, Any]) -> list[str]:
    """Return the folders of the finished runs that an ensemble consists of; none for any other model.

    Raises:
        UserError: if they are not a list of texts, such as a single run without brackets.
    """
    runs = model.get("runs") if model.get("_target_") == ENSEMBLE else []
    if not (isinstance(runs, list) and all(isinstance(run, str) for run in runs)):
        raise UserError(f"model.runs must be a list of the folders of runs, model.runs=[RUN,RUN], not {runs!r}.")
    return list(runs)


def member_models(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the configuration of the model of each finished run that an ensemble consists of.

    Raises:
        UserError: if a run is missing.
    """
    return [Record.load(Path(run)).config["model"] for run in runs_of(model)]


def now() -> str:
    """Return the current time in the format of a record: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _measured_how(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of `metrics` without its results."""
    return {key: value for key, value in entry.items() if key not in FIGURES}


def _finite(value: Any, path: str, not_finite: dict[str, str]) -> Any:
    """Return a value with None for each number that is not finite; add these numbers to `not_finite`."""
    if isinstance(value, dict):
        return {str(key): _finite(part, f"{path}.{key}", not_finite) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part, f"{path}.{index}", not_finite) for index, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        not_finite[path.removeprefix(".")] = str(value)
        return None
    return value


def parts_of_batch(trainer: Mapping[str, Any]) -> int:
    """Return into how many micro-batches the settings of a trainer divide a batch, as far as they are numbers."""
    factors = (trainer.get(key) for key in ("accumulate_grad_batches", "devices", "num_nodes"))
    return math.prod(factor for factor in factors if isinstance(factor, int) and factor > 0)


def _make_batch_global(config: dict[str, Any]) -> None:
    """Convert the batch size of a format 1 configuration to windows per optimizer step."""
    data, trainer = config.get("data"), config.get("trainer")
    if data and trainer and "batch_size" in data:
        data["batch_size"] *= parts_of_batch(trainer)
