"""Lightning's loggers, as a run that may be killed and go on needs them.

CSV: the file is cut back to where it was when the checkpoint was written. TensorBoard: `purge_step` tells it to forget
what came after. Trackers: the run is known by the name of its folder and is continued.
"""

from __future__ import annotations

import csv
import inspect
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from hydra.utils import get_class
from jaxtyping import UInt8
from lightning.pytorch import loggers as lightning
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from charlab.configuration.build import build
from charlab.errors import UserError

WATCHED = ("learning_rate", "gradient_norm", "characters_per_second", "characters", "seconds", "epoch")


def build_logger(name: str, node: Mapping[str, Any], folder: Path, resumed_step: int | None) -> Logger:
    """Return a logger for a run.

    Where the configuration leaves them open, it writes into the run's folder and goes by that folder's name.

    Args:
        name: its key in the configuration.
        node: its part of the configuration.
        folder: the run's folder.
        resumed_step: the optimizer step of the checkpoint that the run goes on from; None for a new one, and −1 where
            there may be logs of an attempt that ended before its first checkpoint.

    Raises:
        UserError: if it is no logger of Lightning's kind, or a library is missing.
    """
    kind = get_class(node["_target_"])
    known = inspect.signature(kind).parameters
    chosen: dict[str, Any] = {}
    if "save_dir" in known:
        chosen["save_dir"] = str(folder)
    if issubclass(kind, lightning.TensorBoardLogger):
        chosen |= {"name": "", "version": ""}
        if resumed_step is not None:
            chosen["purge_step"] = resumed_step + 1
    elif issubclass(kind, lightning.WandbLogger):
        chosen |= {"id": folder.name, "name": f"{folder.parent.name}-{folder.name}", "resume": "allow"}
    elif issubclass(kind, lightning.MLFlowLogger):
        chosen |= {"run_name": folder.name}
    elif issubclass(kind, lightning.CSVLogger):
        chosen |= {"name": "", "version": ""}
    given = {key: value for key, value in node.items() if value is not None}
    try:
        if issubclass(kind, lightning.MLFlowLogger):
            chosen["save_dir"] = str(folder / "mlruns")
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which it asks for, of files in a folder
            chosen["run_id"] = _former_run({**chosen, **given}, folder.name)
        logger = build({**chosen, **given})
    except ModuleNotFoundError as error:
        raise UserError(f"logger.{name} needs a package that is not installed ({error}): pip install it.") from error
    if not isinstance(logger, Logger):
        raise UserError(f"logger.{name} is a {kind.__name__}, which is no logger of Lightning's: name one.")
    return logger


def close(loggers: Sequence[Logger], *, succeeded: bool) -> None:
    """Close loggers for good, so that another run in this process begins its own."""
    for logger in loggers:
        logger.finalize("success" if succeeded else "failed")
        if isinstance(logger, lightning.WandbLogger) and rank_zero_only.rank == 0:
            logger.experiment.finish(exit_code=int(not succeeded))


def _former_run(settings: Mapping[str, Any], name: str) -> str | None:
    """Return MLflow's own id of the run that an earlier attempt began; None if there was none."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(settings.get("tracking_uri") or f"file:{settings['save_dir']}")
    experiment = client.get_experiment_by_name(settings.get("experiment_name", "lightning_logs"))
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return runs[0].info.run_id if runs else None


class CSVLogger(Logger):
    """Writes `metrics.csv`: one line per measurement, with the columns step, characters, seconds, metric, value.

    The format is long rather than wide because different things are measured at different steps: a wide file would
    be mostly empty cells, through which pandas and spreadsheets draw broken lines, and its columns would have to be
    known before the first measurement. In pandas, one curve is `df[df.metric == "train/loss"].plot("step", "value")`
    and the wide table is `df.pivot(index="step", columns="metric", values="value")`. Numbers are written in full, so
    that equal files mean equal runs.

    Two metrics are columns of their own and say when the others were measured: `characters`, the characters that
    training had scored, and `seconds`, the training clock.

    Args:
        save_dir: the folder of the file.
    """

    file_name: ClassVar[str] = "metrics.csv"
    columns: ClassVar = ("step", "characters", "seconds", "metric", "value")

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__()
        self.path = Path(save_dir) / self.file_name
        self._file: BinaryIO | None = None

    @property
    def name(self) -> str:
        """Empty: a run's folder has its name already."""
        return ""

    @property
    def version(self) -> str:
        """Empty, as the name."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write `metrics`, measured after `step` optimizer steps; those that are None are left out."""
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
                self._file.write(_csv_lines([self.columns]))
        self._file.write(_csv_lines([(*when, metric, repr(value)) for metric, value in values.items()]))
        self._file.flush()  # a SIGKILL loses nothing that the operating system has

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's record has them."""

    def finalize(self, status: str) -> None:
        """Close the file; logging again opens it again."""
        self._close()

    def position(self) -> int:
        """Return the size of the file in bytes, once it is safely on the disk; 0 if there is none yet."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self.path.stat().st_size if self.path.exists() else 0

    @rank_zero_only
    def rewind(self, position: int) -> None:
        """Cut the file back to a former `position`, or remove it; one that has become shorter stays as it is."""
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
    """Lightning's, with the loss curves first, and a row for the run among the hyperparameters when it has ended.

    TensorBoard sorts by name, so whatever is no loss goes under `watch/` and `views/`.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write `metrics`, measured after `step` optimizer steps; those that are None are left out."""
        named = {f"watch/{name}" if name in WATCHED else name: v for name, v in metrics.items() if v is not None}
        super().log_metrics(named, step)

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        """Write a text, shown line by line in a fixed-width font."""
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self.experiment.add_text(tag, "\n".join(f"    {line}" for line in lines), step)  # a code block

    @rank_zero_only
    def log_image(self, tag: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Write an image in red, green and blue."""
        self.experiment.add_image(f"views/{tag}", image, step, dataformats="HWC")

    @rank_zero_only
    def log_outcome(
        self, hparams: Mapping[str, Any], metrics: Mapping[str, float | None], step: int, *, succeeded: bool
    ) -> None:
        """Add an ended run to the HParams tab, which compares all runs below TensorBoard's folder.

        No experiment summary is written, in which `SummaryWriter.add_hparams` describes all columns: TensorBoard
        believes the first one that it finds, and then hides what other runs have besides.

        Args:
            hparams: nested ones get dotted names. A key has one type in all runs: numbers stay numbers, all else is
                text; what is None or not finite is left out.
            metrics: final figures.
            step: optimizer steps done.
            succeeded: whether the run finished.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

        start = SessionStartInfo()
        for name, value in _flatten(hparams).items():
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
        self.log_metrics({f"watch/at_end/{name}": value for name, value in metrics.items()}, step)
        self.experiment.file_writer.add_summary(Summary(value=values), step)
        self.experiment.flush()

    @rank_zero_only
    def save(self) -> None:
        """Flush what was logged; the run's record has the hyperparameters."""
        self.experiment.flush()


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
