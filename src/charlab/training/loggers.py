"""Loggers whose files only ever grow at their end, so that a killed run can cut them back to its last checkpoint.

A checkpoint keeps `positions()`; whoever resumes from it calls `rewind(positions)` before training goes on. The
files then hold every measurement up to the checkpoint once, and nothing that came after it: curves have neither gap
nor repetition.
"""

from __future__ import annotations

import csv
import io
import os
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from jaxtyping import UInt8
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class RunLogger(Logger):
    """The base of charlab's loggers: it writes into one run's folder, on rank 0 only.

    Among the metrics, two names are reserved and say when the others were measured: `characters`, the characters
    that training had scored, and `seconds`, the training clock.

    Attributes:
        pattern: glob pattern of the files in the run's folder that belong to this logger.
    """

    pattern: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None
        self._file: BinaryIO | None = None

    def open(self, folder: str | Path) -> None:
        """Sets the run's folder, which must exist; nothing is written before there is something to log."""
        self._close()
        self._folder = Path(folder)

    def positions(self) -> dict[str, int]:
        """Returns the size in bytes of each of this logger's files, after writing them durably to the disk.

        The names are relative to the run's folder.
        """
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return {path.name: path.stat().st_size for path in self._own_files()}

    @rank_zero_only
    def rewind(self, positions: Mapping[str, int]) -> None:
        """Cuts this logger's files back to `positions`, as `positions()` gave them, and deletes the others.

        Files of other loggers that are listed are ignored; a file that has become shorter stays as it is.
        """
        self._close()
        for path in self._own_files():
            if path.name not in positions:
                path.unlink()
            elif path.stat().st_size > positions[path.name]:
                os.truncate(path, positions[path.name])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | None], step: int | None = None) -> None:
        """Writes `metrics`, measured after `step` optimizer steps; those that are None are left out."""
        values = {name: float(value) for name, value in metrics.items() if value is not None}
        characters, seconds = values.pop("characters", None), values.pop("seconds", None)
        self._log_scalars(values, step or 0, None if characters is None else int(characters), seconds)

    def log_text(self, tag: str, text: str, step: int) -> None:
        """Writes a text; a logger of numbers alone ignores it."""

    def log_image(self, tag: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Writes an image in red, green and blue; a logger of numbers alone ignores it."""

    def log_hyperparameters(
        self, hparams: Mapping[str, Any], metrics: Mapping[str, float | None], step: int = 0
    ) -> None:
        """Writes a finished run's hyper-parameters with its final metrics; a logger of curves alone ignores them."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: this is Lightning's call at the start of a run, before there are final metrics."""

    def finalize(self, status: str) -> None:
        """Closes the file; logging again opens it again."""
        self._close()

    @property
    def name(self) -> str | None:
        """None: a run's folder has its name already."""
        return None

    @property
    def version(self) -> str | None:
        """None: a run's folder has its fingerprint already."""
        return None

    @property
    def save_dir(self) -> str | None:
        """The run's folder."""
        return None if self._folder is None else str(self._folder)

    @abstractmethod
    def _log_scalars(
        self, values: Mapping[str, float], step: int, characters: int | None, seconds: float | None
    ) -> None:
        """Writes numbers and when they were measured."""

    @abstractmethod
    def _file_name(self) -> str:
        """Returns the name of the file to append to."""

    @abstractmethod
    def _preamble(self) -> bytes:
        """Returns what an empty file starts with."""

    def _append(self, data: bytes) -> None:
        if self._folder is None:
            raise RuntimeError(f"{type(self).__name__}.open(folder) has to be called before logging.")
        if self._file is None:
            self._file = (self._folder / self._file_name()).open("ab")
            if self._file.tell() == 0:
                self._file.write(self._preamble())
        self._file.write(data)
        self._file.flush()  # a SIGKILL loses nothing that the operating system has

    def _own_files(self) -> list[Path]:
        return [] if self._folder is None else sorted(self._folder.glob(self.pattern))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class CSVLogger(RunLogger):
    """Writes `metrics.csv`: one line per measurement, with the columns step, characters, seconds, metric, value.

    The format is long rather than wide because different things are measured at different steps: a wide file would
    be mostly empty cells, through which pandas and spreadsheets draw broken lines, and its columns would have to be
    known before the first measurement. In pandas, one curve is `df[df.metric == "train/loss"].plot("step", "value")`
    and the wide table is `df.pivot(index="step", columns="metric", values="value")`. Numbers are written in full, so
    that equal files mean equal runs.
    """

    pattern = "metrics.csv"
    columns: ClassVar = ("step", "characters", "seconds", "metric", "value")

    def _log_scalars(
        self, values: Mapping[str, float], step: int, characters: int | None, seconds: float | None
    ) -> None:
        when = (step, characters, None if seconds is None else f"{seconds:.3f}")
        self._append(_csv_lines([(*when, metric, repr(value)) for metric, value in values.items()]))

    def _file_name(self) -> str:
        return self.pattern

    def _preamble(self) -> bytes:
        return _csv_lines([self.columns])


def _csv_lines(rows: list[tuple[Any, ...]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


class TensorBoardLogger(RunLogger):
    """Writes TensorBoard's event files, `events.out.tfevents.0001` and so on: a new one each time a run is resumed.

    A number appears under its own name against steps, and again under `by_characters/…` against the characters
    that training had scored, on which models with different batches can be compared.
    """

    pattern = "events.out.tfevents.[0-9][0-9][0-9][0-9]"

    def open(self, folder: str | Path) -> None:
        """Sets the run's folder, which must exist, and imports TensorBoard, which takes a moment."""
        import charlab.training.events  # noqa: F401

        super().open(folder)
        self._current: str | None = None
        self._opened = time.time()

    @rank_zero_only
    def rewind(self, positions: Mapping[str, int]) -> None:
        """Cuts the event files back; what follows goes to a new file.

        A TensorBoard that is watching has read past the cut; it would lose its place in a file that grows again.
        """
        super().rewind(positions)
        self._current = None

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        """Writes a text, shown line by line in a fixed-width font."""
        from charlab.training import events

        self._append(events.text(tag, text, step))

    @rank_zero_only
    def log_image(self, tag: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Writes an image in red, green and blue."""
        from charlab.training import events

        self._append(events.image(tag, image, step))

    @rank_zero_only
    def log_hyperparameters(
        self, hparams: Mapping[str, Any], metrics: Mapping[str, float | None], step: int = 0
    ) -> None:
        """Adds a finished run to the HParams tab, which compares all runs below TensorBoard's folder.

        The final metrics are numbers under `at_end/…`, a name that sorts before all others because the tab opens
        with the first five metrics shown.
        """
        from charlab.training import events

        self._append(events.hyperparameters(hparams, started=self._opened, step=step))
        finals = {f"at_end/{name}": value for name, value in metrics.items() if value is not None}
        self._append(events.scalars(finals, step))

    def _log_scalars(
        self,
        values: Mapping[str, float],
        step: int,
        characters: int | None,
        seconds: float | None,
    ) -> None:
        from charlab.training import events

        self._append(events.scalars(values, step))
        if characters is not None:
            again = {f"by_characters/{name}": value for name, value in values.items()}
            self._append(events.scalars(again, characters))

    def _file_name(self) -> str:
        if self._current is None:
            number = max((int(path.suffix[1:]) for path in self._own_files()), default=0) + 1
            self._current = f"events.out.tfevents.{number:04d}"
        return self._current

    def _preamble(self) -> bytes:
        from charlab.training import events

        return events.beginning()
