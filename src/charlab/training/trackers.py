"""Experiment trackers: Weights & Biases, MLflow, trackio, or any other Lightning logger.

A tracker's run is named after the run's folder, and continues after a kill. A tracker that cannot be reached, or stops
answering, never ends training: after one warning, the run continues without it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from lightning.pytorch import loggers as lightning
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

STUDY = "CHARLAB_STUDY"  # environment variable with the name of the study whose cell a process runs
MLFLOW_URI = "MLFLOW_TRACKING_URI"
CALLS = ("log_metrics", "log_hyperparams", "log_text", "log_image", "save", "finalize", "after_save_checkpoint")


class TrackioLogger(Logger):
    """Log to trackio, whose dashboard `trackio show` opens.

    Args:
        name: name of the run; a run of that name is continued.
        group: name of the group that the run belongs to, such as a study.
        project: the project that runs are listed under.
        server_url: address of a trackio server; None for files on this machine.

    Raises:
        ModuleNotFoundError: if trackio is not installed.
    """

    def __init__(
        self,
        name: str | None = None,
        group: str | None = None,
        *,
        project: str = "charlab",
        server_url: str | None = None,
    ) -> None:
        super().__init__()
        if find_spec("trackio") is None:
            raise ModuleNotFoundError("No module named 'trackio'")
        self._settings: dict[str, Any] = {"project": project, "name": name, "group": group, "server_url": server_url}
        self._config: dict[str, Any] = {}
        self._run: Any = None
        self._is_announced = False

    @property
    def name(self) -> str | None:
        """The project."""
        return self._settings["project"]

    @property
    def version(self) -> str | None:
        """The name of the run."""
        return self._settings["name"]

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`, started when it is first used."""
        if self._run is None:
            import trackio

            # trackio announces the run at every start; once is enough.
            with contextlib.redirect_stdout(io.StringIO()) if self._is_announced else contextlib.nullcontext():
                self._run = trackio.init(**self._settings, config=self._config, resume="allow", embed=False)
            self._is_announced = True
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        """Store the configuration, which trackio takes when the run starts."""
        self._config = dict(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the metrics measured after `step` optimizer steps."""
        self.experiment.log({name: float(value) for name, value in metrics.items()}, step=step)

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        """Log a text."""
        import trackio

        self.experiment.log({tag: trackio.Markdown("".join(f"    {line}\n" for line in text.split("\n")))}, step=step)

    @rank_zero_only
    def save(self) -> None:
        """Make trackio write everything logged so far, which it otherwise does up to half a second later."""
        self.finalize("running")

    def finalize(self, status: str) -> None:
        """End the run, the only way to make trackio write everything logged; further logging continues it."""
        if self._run is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                self._run.finish()
            self._run = None


def settings_for(kind: type, folder: Path, tags: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a tracker that identify the run: name, study and tags."""
    study = os.environ.get(STUDY)
    if issubclass(kind, lightning.WandbLogger):
        name = f"{folder.parent.name}-{folder.name}"
        return {"id": folder.name, "name": name, "group": study, "tags": list(tags), "resume": "allow"}
    if issubclass(kind, lightning.MLFlowLogger):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow requires it for a file store
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # seven by default, which takes minutes
        labels = dict.fromkeys(tags, "true") | ({"study": study} if study else {})
        server = {"tracking_uri": os.environ[MLFLOW_URI]} if os.environ.get(MLFLOW_URI) else {}
        return {"run_name": folder.name, "save_dir": str(folder / "mlruns"), "tags": labels, **server}
    return {"name": folder.name, "group": study} if issubclass(kind, TrackioLogger) else {}


def find_mlflow_run_id(arguments: Mapping[str, Any]) -> str | None:
    """Return MLflow's id of the run that an earlier attempt started; None if there is none, or no answer."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(arguments["tracking_uri"])
        experiment = client.get_experiment_by_name(arguments.get("experiment_name", "lightning_logs"))
        if experiment is None:
            return None
        name = arguments["run_name"]
        runs = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
        return runs[0].info.run_id if runs else None
    except MlflowException:  # `connect` will warn
        return None


def connect(trackers: Sequence[Logger], config: Mapping[str, Any]) -> list[Logger]:
    """Start the runs of trackers, log the run's configuration, and return the trackers that answer.

    From now on, the first failing call to a tracker becomes a warning, and later calls do nothing.
    """
    answering = []
    for tracker in trackers:
        try:
            with _environment_kept():
                tracker.log_hyperparams(dict(config))
                _ = getattr(tracker, "experiment", None)
        except Exception as error:
            _warn(tracker, error)
        else:
            _disable_on_error(tracker)
            answering.append(tracker)
    return answering


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Undo the block's changes to the environment, by which MLflow and W&B make later processes join this run."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


def _disable_on_error(tracker: Logger) -> None:
    failed = False

    def disabled_on_error(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal failed
            if failed:
                return None
            try:
                return method(*args, **kwargs)
            except Exception as error:
                failed = True
                _warn(tracker, error)
                return None

        return call

    for name in CALLS:
        if hasattr(tracker, name):
            setattr(tracker, name, disabled_on_error(getattr(tracker, name)))


def _warn(tracker: Logger, error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    logging.getLogger("charlab").warning(
        "%s does not answer (%.200s); the run continues without it.", type(tracker).__name__, reason
    )


def log_text(logger: Logger, tag: str, text: str, step: int) -> None:
    """Log a text with any logger that shows texts."""
    if isinstance(logger, lightning.WandbLogger):
        logger.log_text(tag, columns=["step", "text"], data=[[step, text]], step=step)
    elif isinstance(logger, lightning.MLFlowLogger):
        logger.experiment.log_text(logger.run_id, text, f"{tag}/{step:09}.txt")
    elif hasattr(logger, "log_text"):  # TensorBoard, trackio
        logger.log_text(tag, text, step)


def shows_texts(logger: Logger) -> bool:
    """Return whether `log_text` does anything for a logger."""
    return isinstance(logger, lightning.MLFlowLogger) or hasattr(logger, "log_text")


def log_image(logger: Logger, tag: str, image: UInt8[np.ndarray, "height width 3"], step: int) -> None:
    """Log an image with any logger that shows images."""
    if isinstance(logger, lightning.WandbLogger):
        logger.log_image(tag, [image], step=step)
    elif isinstance(logger, lightning.MLFlowLogger):
        logger.experiment.log_image(logger.run_id, image, f"{tag}/{step:09}.png")
    elif hasattr(logger, "log_image"):  # TensorBoard
        logger.log_image(tag, image, step)


def shows_images(logger: Logger) -> bool:
    """Return whether `log_image` does anything for a logger."""
    return isinstance(logger, lightning.MLFlowLogger) or hasattr(logger, "log_image")
