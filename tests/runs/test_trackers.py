"""Trackers of other people's: what they wrote is read back, after a kill as well."""

import struct
import time

import pytest

from tests.runs.test_train import curves

pytestmark = [
    pytest.mark.slow,  # each starts a service of its own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LOSSES = ("train/loss", "train/nll", "validation/nll")


def expected(record):
    """Returns what the CSV file has: step and value by metric."""
    found = {name: [] for name in LOSSES}
    for step, _, metric, value in curves(record):
        if metric in found:
            found[metric].append((int(step), float(value)))
    return found


def from_mlflow(folder):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{folder / 'mlruns'}")
    experiment = client.get_experiment_by_name("charlab")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == folder.name
    return {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in LOSSES}


def log_records(data):
    """Yields the records of a file in LevelDB's log format, as wandb writes it."""
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


def from_wandb(folder):
    from wandb.proto.wandb_internal_pb2 import Record

    found = {name: [] for name in LOSSES}
    ids = set()
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for _ in range(300):  # wandb's own process may still write
            records = [Record.FromString(data) for data in log_records(path.read_bytes())]
            if records and records[-1].WhichOneof("record_type") == "exit":
                break
            time.sleep(0.1)
        for record in records:
            if record.run.run_id:
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                for name in LOSSES:
                    if name in items:
                        found[name].append((int(float(items["trainer/global_step"])), float(items[name])))
    assert ids == {folder.name}
    return found


def from_trackio(folder):
    import trackio

    (run,) = trackio.Api().runs("charlab")
    assert run.name == folder.name
    assert run.config["seed"] == 305
    logs = trackio.sqlite_storage.SQLiteStorage.get_logs("charlab", run.name)
    assert any("sample" in entry for entry in logs)
    found = {name: [] for name in LOSSES}
    for entry in logs:
        for name in LOSSES:
            if name in entry:
                found[name].append((entry["step"], entry[name]))
    return found


TRACKERS = {"trackio": from_trackio, "mlflow": from_mlflow, "wandb": from_wandb}


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_holds_the_curves_and_its_run_is_continued_after_a_kill(
    run_tiny, interrupt_at, tracker, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(tracker)
    logger = f"logger=[csv,tensorboard,{tracker}]"
    restore = interrupt_at(15, RuntimeError("the power failed"))
    with pytest.raises(RuntimeError, match="power"):
        run_tiny(logger, "at_end=[samples]")
    restore()
    record = run_tiny(logger, "at_end=[samples]")
    found = TRACKERS[tracker](record.folder)
    for name, points in expected(record).items():
        assert {step for step, _ in found[name]} == {step for step, _ in points}
        for step, value in found[name]:  # equal values twice at equal steps are allowed
            assert value == pytest.approx(dict(points)[step], rel=1e-6), (name, step)
