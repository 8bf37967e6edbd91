"""Lightning's loggers, set up for runs that may be killed and resumed.

When a run resumes, the CSV file is truncated to its length at the time of the checkpoint, TensorBoard discards later
events (`purge_step`), and trackers continue the run that has the name of the run's folder; see `trackers`.
"""

from __future__ import annotations

import csv
import inspect
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.request import pathname2url

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import get_object
from jaxtyping import UInt8
from lightning.pytorch import Trainer
from lightning.pytorch import loggers as lightning
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from lightning.pytorch.utilities import rank_zero_only

from charlab.configuration.build import build, signature
from charlab.curves import COLUMNS, FILE_NAME
from charlab.errors import UserError
from charlab.training.callbacks.samples import SampleText
from charlab.training.trackers import connect, find_mlflow_run_id, settings_for, shows_texts
from charlab.types import fits

EXTRAS = ("wandb", "mlflow", "trackio")
RELOGGED_SECONDS = 60.0  # seconds of training before a kill that are logged again; W&B was seen to lose two
WATCHED = ("learning_rate", "gradient_norm", "characters_per_second", "characters", "seconds", "epoch")


def build_logger(
    name: str,
    node: Mapping[str, Any],
    folder: Path,
    resumed_step: int | None,
    tags: Sequence[str] = (),
    curves: str = "",
) -> Logger:
    """Return a logger for a run.

    By default, it writes into the run's folder and takes its name from that folder.

    Args:
        name: key of the logger in the configuration.
        node: configuration of the logger.
        folder: the run's folder.
        resumed_step: optimizer step of the checkpoint that the run resumes from; None for a new run, −1 if an earlier
            attempt may have left logs but no checkpoint.
        tags: labels of the run, for trackers.
        curves: folder of TensorBoard's events, relative to the run's folder; TensorBoard names the run after its path.

    Raises:
        UserError: if `node` does not describe a Lightning logger, or its package is not installed.
    """
    kind = get_object(node["_target_"])
    if not (isinstance(kind, type) and issubclass(kind, Logger)):
        raise UserError(f"logger.{name} is {node['_target_']}, which is not a Lightning logger: name one.")
    known = inspect.signature(kind).parameters
    chosen: dict[str, Any] = {}
    if "save_dir" in known:
        chosen["save_dir"] = str(folder)
    if issubclass(kind, lightning.TensorBoardLogger):
        chosen |= {"name": "", "version": "", "sub_dir": curves}
        if resumed_step is not None:
            chosen["purge_step"] = resumed_step + 1
    chosen |= settings_for(kind, folder, tags)
    chosen |= {key: value for key, value in node.items() if value is not None}
    try:
        if issubclass(kind, lightning.MLFlowLogger):
            chosen.setdefault("tracking_uri", f"file:{pathname2url(chosen['save_dir'])}")  # a folder may have a % or ?
            chosen["run_id"] = find_mlflow_run_id(chosen)
        return cast("Logger", build(chosen))
    except (ModuleNotFoundError, InstantiationException) as error:
        missing = error.__cause__ if isinstance(error, InstantiationException) else error
        if not isinstance(missing, ModuleNotFoundError):
            raise
        how = f'pip install "charlab[{name}]"' if name in EXTRAS else "pip install it"
        raise UserError(f"logger.{name} needs a package that is not installed ({missing}): {how}.") from error


def start_loggers(trainer: Trainer, config: Mapping[str, Any]) -> None:
    """Start the trackers' runs, and remove trackers that do not answer from the trainer's loggers.

    A tracker that shows texts gets a sample at the end, whatever `at_end` says. After a kill, the last measurements are
    logged to trackers again, because some of them write late.
    """
    own = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger | TensorBoardLogger)]
    trackers = [logger for logger in trainer.loggers if logger not in own]
    if trackers:
        answering = connect(trackers, config)
        left = [logger for logger in trainer.loggers if logger in own or logger in answering]
        trainer.loggers = left or [DummyLogger()]  # Lightning's callbacks that log refuse a trainer without a logger
        for logger in own:
            if isinstance(logger, CSVLogger):
                _relog_last_metrics(logger.path, answering)
        if any(shows_texts(logger) for logger in answering):
            for callback in trainer.callbacks:
                if isinstance(callback, SampleText):
                    callback.at_end = True


def _relog_last_metrics(file: Path, trackers: Sequence[Logger]) -> None:
    """Log the last measurements of a killed run to trackers again."""
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(line for line in lines if line.endswith("\n")))
    since = max((float(row["seconds"] or 0) for row in rows), default=0.0) - RELOGGED_SECONDS
    steps: dict[int, dict[str, float]] = {}
    for row in rows:
        if float(row["seconds"] or 0) >= since:
            metrics = steps.setdefault(int(row["step"]), {})
            metrics |= {key: float(row[key]) for key in ("characters", "seconds") if row[key]}
            metrics[row["metric"]] = float(row["value"])
    for step, metrics in steps.items():
        for tracker in trackers:
            tracker.log_metrics(metrics, step)


def close(loggers: Sequence[Logger], *, succeeded: bool) -> None:
    """Close loggers for good, so that the next run in this process starts new ones."""
    for logger in loggers:
        logger.finalize("success" if succeeded else "failed")
        if isinstance(logger, lightning.WandbLogger) and rank_zero_only.rank == 0:
            logger.experiment.finish(exit_code=int(not succeeded))


class CSVLogger(Logger):
    """Write `metrics.csv`: one line per measurement, with the columns step, characters, seconds, metric, value.

    The format is long rather than wide because metrics are measured at different steps: a wide file would be mostly
    empty cells, which break the lines of plots, and would need all columns before the first measurement. In pandas,
    `df[df.metric == "train/loss"].plot("step", "value")` plots one curve and
    `df.pivot(index="step", columns="metric", values="value")` returns the wide table. Numbers are written in full
    precision, so equal files mean equal runs.

    Two columns say when a metric was measured: `characters`, the characters scored in training so far, and `seconds`,
    the training clock.

    Args:
        save_dir: folder to write the file into.
    """

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__()
        self.path = Path(save_dir) / FILE_NAME
        self._file: BinaryIO | None = None

    @property
    def name(self) -> str:
        """Empty: the run's folder already has the name."""
        return ""

    @property
    def version(self) -> str:
        """Empty, like the name."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write the metrics measured after `step` optimizer steps, except those that are None."""
        values = {name: float(value) for name, value in metrics.items() if value is not None and name != "epoch"}
        characters, seconds = values.pop("characters", None), values.pop("seconds", None)
        when = (
            int(step or 0),
            None if characters is None else int(characters),
            None if seconds is None else f"{seconds:.3f}",
        )
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            if self._file.tell() == 0:
                self._file.write(_csv_lines([COLUMNS]))
        self._file.write(_csv_lines([(*when, metric, repr(value)) for metric, value in values.items()]))
        self._file.flush()  # once the operating system has the data, a SIGKILL loses nothing

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's record holds the hyperparameters."""

    def finalize(self, status: str) -> None:
        """Close the file; logging reopens it."""
        self._close()

    def position(self) -> int:
        """Flush the file to disk and return its size in bytes; 0 if there is no file yet."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self.path.stat().st_size if self.path.exists() else 0

    @rank_zero_only
    def rewind(self, position: int) -> None:
        """Truncate the file to an earlier `position`; remove it at position 0, and leave a shorter file unchanged."""
        self._close()
        if position == 0:
            self.path.unlink(missing_ok=True)
        elif self.position() > position:
            os.truncate(self.path, position)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _csv_lines(rows: list[tuple[Any, ...]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


class TensorBoardLogger(lightning.TensorBoardLogger):
    """Lightning's logger, with loss curves listed first and a row per finished run in the HParams tab.

    TensorBoard groups tags by their first part and sorts them by name, so the losses of all texts are `nll/train`,
    `nll/validation` and `nll/dev`, and tags that are not losses go under `watch/` and `views/`. The tab Custom Scalars
    has the losses of all texts in one chart.
    """

    _has_layout = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write the metrics measured after `step` optimizer steps, except those that are None."""
        if not self._has_layout:
            self._has_layout = True
            charts = {"nats per character": ["Multiline", [f"nll/{split}" for split in ("train", "validation", "dev")]]}
            self.experiment.add_custom_scalars({"loss": charts | {"training": ["Multiline", ["train/loss"]]}})
        super().log_metrics({_tag(name): value for name, value in metrics.items() if value is not None}, step)

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        """Write a text, displayed line by line in a fixed-width font."""
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self.experiment.add_text(tag, "\n".join(f"    {line}" for line in lines), step)  # Markdown's code block

    @rank_zero_only
    def log_image(self, tag: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Write an RGB image."""
        self.experiment.add_image(f"views/{tag}", image, step, dataformats="HWC")

    @rank_zero_only
    def log_outcome(
        self, hparams: Mapping[str, Any], metrics: Mapping[str, float | None], step: int, *, succeeded: bool
    ) -> None:
        """Add an ended run to the HParams tab, which compares all runs below TensorBoard's log directory.

        `SummaryWriter.add_hparams` would also write an experiment summary that declares all columns. TensorBoard reads
        only the first such summary it finds, and hides every column that only other runs have, so none is written.

        Args:
            hparams: hyperparameters; nested ones get dotted names. A key has the same type in all runs: numbers stay
                numbers unless their constructor also accepts text, everything else becomes text. Values that are None
                or not finite are left out.
            metrics: final metrics, written as columns `result.…`; as scalars, each would be a chart with one point.
            step: number of optimizer steps.
            succeeded: whether the run finished.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

        start = SessionStartInfo()
        results = {f"result.{name}": value for name, value in metrics.items()}
        for name, value in {**_flatten(hparams), **results}.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                if math.isfinite(value):
                    start.hparams[name].number_value = value
            elif value is not None:
                start.hparams[name].string_value = str(value).lower() if isinstance(value, bool) else str(value)
        end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS if succeeded else api_pb2.STATUS_FAILURE)
        session = {
            metadata.SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start),
            metadata.SESSION_END_INFO_TAG: HParamsPluginData(session_end_info=end),
        }
        values = [
            Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
            for tag, data in session.items()
        ]
        figures = "\n".join(
            f"{name:28}{'not finite' if value is None else f'{value:.4f}'}" for name, value in metrics.items()
        )
        self.log_text("result", figures, step)  # also opens the file again, which Lightning closes after training
        self.experiment.file_writer.add_summary(Summary(value=values), step)
        self.experiment.flush()

    @rank_zero_only
    def save(self) -> None:
        """Flush the events. Lightning's `hparams.yaml` is not written: the run's record holds the hyperparameters."""
        self.experiment.flush()


def _tag(name: str) -> str:
    if name in WATCHED:
        return f"watch/{name}"
    return re.sub(r"^(\w+)/nll$", r"nll/\1", name)


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    known = signature(nested["_target_"]) if "_target_" in nested else None
    for name, value in nested.items():
        annotation = known.annotations.get(name, Any) if known is not None else Any
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif type(value) in (int, float) and annotation is not Any and (fits("", annotation) or fits(True, annotation)):
            flat[f"{prefix}{name}"] = str(value)  # 1 device in one run may be "auto" in another
        else:
            flat[f"{prefix}{name}"] = value
    return flat
