"""Trackers of other people's: what is told to them, and that a silent one ends nothing."""

import logging
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from charlab.errors import UserError
from charlab.training import loggers, trackers
from charlab.training.callbacks.samples import SampleText
from charlab.training.loggers import CSVLogger, build_logger, start_loggers
from tests.helpers.tracker import Tracker


def test_a_tracker_that_stops_answering_is_told_no_more_and_said_once(caplog):
    silent, short = Tracker(), Tracker(answers=2)
    with caplog.at_level(logging.WARNING):
        assert trackers.connect([silent, short], {"seed": 1}) == [short]
        for step in range(5):
            short.log_metrics({"train/loss": 1.0}, step)
    assert short.heard == [0, 1]
    assert short.params == {"seed": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "Tracker does not answer (connection refused); the run continues without it.",
        "Tracker does not answer (connection reset); the run continues without it.",
    ]


def test_trackers_are_told_run_study_and_tags(monkeypatch):
    folder = Path("outputs/runs/gpt-play/0123456789ab")
    assert trackers.settings_for(WandbLogger, folder, ["fast"]) == {
        "id": "0123456789ab",
        "name": "gpt-play-0123456789ab",
        "group": None,
        "tags": ["fast"],
        "resume": "allow",
    }
    monkeypatch.setenv(trackers.STUDY, "heads")
    assert trackers.settings_for(WandbLogger, folder, [])["group"] == "heads"
    assert trackers.settings_for(MLFlowLogger, folder, ["fast"])["tags"] == {"fast": "true", "study": "heads"}
    assert trackers.settings_for(trackers.TrackioLogger, folder, []) == {"name": "0123456789ab", "group": "heads"}


class TextTracker(Tracker):
    def log_text(self, tag, text, step):
        """Shows texts."""


@pytest.mark.parametrize(
    ("tracker", "expected"),
    [(TextTracker(answers=1), True), (Tracker(answers=1), False), (TextTracker(), False), (CSVLogger(), False)],
)
def test_only_a_tracker_that_answers_and_shows_texts_asks_for_a_sample(tracker, expected, caplog):
    samples = SampleText(seed=1)
    samples.at_end = False
    trainer = Trainer(
        accelerator="cpu", logger=[tracker], callbacks=[samples], enable_checkpointing=False, enable_progress_bar=False
    )
    start_loggers(trainer, {})
    assert samples.at_end is expected


def test_after_a_kill_a_tracker_is_told_the_last_minute_again(tmp_path):
    curves = CSVLogger(str(tmp_path))
    for step, seconds in ((1, 10.0), (2, 50.0), (3, 109.5)):
        curves.log_metrics({"train/loss": step / 2, "characters": 8, "seconds": seconds}, step)
    curves.log_metrics({"train/nll": 2.5, "seconds": 109.5}, 3)
    curves.finalize("killed")
    with curves.path.open("a") as file:
        file.write("4,8,110.0,train/loss,1.")  # a line that was cut off
    told = []
    tracker = Tracker(answers=9)
    tracker.log_metrics = lambda metrics, step: told.append((step, metrics))
    trainer = Trainer(
        accelerator="cpu", logger=[curves, tracker], enable_checkpointing=False, enable_progress_bar=False
    )
    start_loggers(trainer, {})
    assert told == [
        (2, {"characters": 8.0, "seconds": 50.0, "train/loss": 1.0}),
        (3, {"characters": 8.0, "seconds": 109.5, "train/loss": 1.5, "train/nll": 2.5}),
    ]


def test_a_missing_package_is_one_sentence_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    node = {"_target_": "charlab.training.trackers.TrackioLogger"}
    with pytest.raises(UserError, match=r'^logger\.trackio needs a package .*: pip install "charlab\[trackio\]"\.$'):
        build_logger("trackio", node, tmp_path, None)


@pytest.mark.slow
def test_mlflow_writes_to_a_folder_of_ones_own(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    own = tmp_path / "own"
    node = {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "save_dir": str(own), "tracking_uri": None}
    assert build_logger("mlflow", node, tmp_path / "run", None).save_dir == str(own)


def test_a_folder_is_not_read_as_a_part_of_mlflows_address(tmp_path, monkeypatch):
    asked, folder = [], tmp_path / "50%25 off? #1"
    monkeypatch.setattr(loggers, "find_mlflow_run_id", lambda chosen: asked.append(chosen["tracking_uri"]))
    monkeypatch.setattr(loggers, "build", lambda chosen: asked.append(chosen["tracking_uri"]) or CSVLogger())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    build_logger("mlflow", {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": None}, folder, None)
    assert asked[0] == asked[1]
    address = urlparse(asked[0])
    assert (address.scheme, url2pathname(address.path)) == ("file", str(folder / "mlruns"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    build_logger("mlflow", {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "tracking_uri": None}, folder, None)
    assert asked[2] == "http://localhost:5000"
