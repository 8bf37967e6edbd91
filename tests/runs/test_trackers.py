"""Trackers of other people's: what they wrote is read back, after a kill as well."""

import json
import os
import struct
import subprocess
import sys
import time
from typing import NamedTuple

import psutil
import pytest

from charlab.runs.record import Record
from tests.helpers.tiny_runs import TINY, curves

pytestmark = [
    pytest.mark.slow,  # each starts a service of its own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LOSSES = ("train/loss", "train/nll", "validation/nll")
RESULT = "blocks/validation/nll"


class Told(NamedTuple):
    """What a tracker has of a run."""

    study: str | None
    tags: set[str] | None  # None: it has no tags
    seed: int  # the only part of the configuration
    points: dict[str, list[tuple[int, float]]]  # by metric: step and value
    samples: list[str]


def from_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{folder / 'mlruns'}")
    experiment = client.get_experiment_by_name("charlab")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == folder.name
    assert run.info.status == "FINISHED"
    found = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in (*LOSSES, RESULT)
    }
    tags = {name for name, value in run.data.tags.items() if value == "true"}
    paths = [file.path for file in client.list_artifacts(run.info.run_id, "sample")]
    samples = [(folder / "mlruns" / experiment.experiment_id / run.info.run_id / "artifacts" / path) for path in paths]
    texts = [sample.read_text() for sample in samples]
    return Told(run.data.tags.get("study"), tags, int(run.data.params["seed"]), found, texts)


def log_records(data):
    """Yield the records of a file in LevelDB's log format, as wandb writes it."""
    position, record = 7, b""
    while position < len(data):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def wandb_records(path, *, ended):
    """Return the records of a file of wandb's, whose own process may still write."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(300):
        records = [Record.FromString(data) for data in log_records(path.read_bytes())]
        if not ended or (records and records[-1].WhichOneof("record_type") == "exit"):
            break
        time.sleep(0.1)
    return records


def from_wandb(folder):
    found = {name: [] for name in (*LOSSES, RESULT)}
    ids, studies, tags, seeds, samples = set(), set(), set(), set(), []
    paths = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    for path in paths:
        for record in wandb_records(path, ended=path == paths[-1]):
            if record.run.run_id:
                ids.add(record.run.run_id)
                studies.add(record.run.run_group)
                tags |= set(record.run.tags)
            for item in [*record.run.config.update, *record.config.update]:
                if item.key == "seed":
                    seeds.add(json.loads(item.value_json))
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                for name in found:
                    if name in items:
                        found[name].append((int(float(items["trainer/global_step"])), float(items[name])))
                if "sample/path" in items:
                    table = json.loads((path.parent / "files" / json.loads(items["sample/path"])).read_text())
                    samples.append(table["data"][0][1])
    assert ids == {folder.name}
    (study,), (seed,) = studies, seeds
    return Told(study or None, tags, seed, found, samples)


def from_trackio(folder):
    import trackio

    (run,) = [run for run in trackio.Api().runs("charlab") if run.name == folder.name]
    logs = trackio.sqlite_storage.SQLiteStorage.get_logs("charlab", run.name)
    found = {name: [(entry["step"], entry[name]) for entry in logs if name in entry] for name in (*LOSSES, RESULT)}
    samples = [entry["sample"]["_value"] for entry in logs if "sample" in entry]
    texts = ["\n".join(line[4:] for line in sample.split("\n")[:-1]) for sample in samples]
    return Told(run.config["_Group"], None, run.config["seed"], found, texts)


TRACKERS = {"trackio": from_trackio, "mlflow": from_mlflow, "wandb": from_wandb}


def check(told, record):
    """Whether a tracker has the curves of the CSV file, the final figure and the sample.

    Equal values may be there twice at equal steps.
    """
    expected = {name: {} for name in (*LOSSES, RESULT)}
    for step, _, metric, value in curves(record):
        if metric in expected:
            expected[metric][int(step)] = float(value)
    assert expected[RESULT] == {record.steps: record.metric("blocks")["nll"]}
    for name, points in expected.items():
        assert {step for step, _ in told.points[name]} == set(points), name
        for step, value in told.points[name]:
            assert value == pytest.approx(points[step], rel=1e-6), (name, step)
    assert told.seed == record.seed
    assert {f"{text}\n" for text in told.samples} == {(record.folder / "samples.txt").read_text()}


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trackio")  # one for all tests, since trackio reads its name once


@pytest.fixture(params=TRACKERS)
def tracker(request, trackio_folder, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(trackio_folder))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip(request.param)
    return request.param


def test_a_tracker_holds_the_curves_and_its_run_is_continued_after_an_exception(run_tiny, interrupt_at, tracker):
    logger = f"logger=[csv,tensorboard,{tracker}]"
    restore = interrupt_at(15, RuntimeError("the power failed"))
    with pytest.raises(RuntimeError, match="power"):
        run_tiny(logger)
    restore()
    record = run_tiny(logger)
    check(TRACKERS[tracker](record.folder), record)


def test_mlflow_writes_where_the_environment_says_and_leaves_it_as_it_was(
    run_tiny, interrupt_at, tmp_path, monkeypatch
):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_tiny("logger=[csv,tensorboard,mlflow]")
    assert "MLFLOW_TRACKING_URI" not in os.environ  # of which the next process would make its own

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'shared'}")
    restore = interrupt_at(15, RuntimeError("the power failed"))
    with pytest.raises(RuntimeError, match="power"):
        run_tiny("logger=[csv,tensorboard,mlflow]", "seed=2")
    restore()
    record = run_tiny("logger=[csv,tensorboard,mlflow]", "seed=2")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"file:{tmp_path / 'shared'}"
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([client.get_experiment_by_name("charlab").experiment_id])
    assert run.info.run_name == record.folder.name


def test_the_run_of_a_tracker_is_continued_after_a_kill(tracker, text_path, tmp_path, monkeypatch):
    """Just after a checkpoint, with all that the run has started, as by a lost machine."""
    monkeypatch.setenv("CHARLAB_STUDY", "heads")  # as a study's cells have it
    command = [sys.executable, "-m", "charlab", "train", *TINY, f"data.path={text_path}", f"output_dir={tmp_path}"]
    command += [f"logger=[csv,{tracker}]", "tags=[fast,tiny]", "trainer.max_steps=150", "evaluate_every=50"]
    command += ["callbacks.checkpointing.every_n_steps=25"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (folders := [path.parent for path in tmp_path.glob("runs/*/*/metrics.csv")]) or (
        "\n51," not in (folders[0] / "metrics.csv").read_text()
    ):
        assert process.poll() is None
        time.sleep(0.005)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.wait()
    assert Record.load(folders[0]).status == "running"
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    told = TRACKERS[tracker](folders[0])
    assert told.study == "heads"
    assert told.tags in ({"fast", "tiny"}, None)
    check(told, Record.load(folders[0]))
