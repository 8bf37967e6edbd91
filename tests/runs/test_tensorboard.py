"""What TensorBoard calls the runs, and that nothing depends on it."""

import shutil

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

import charlab
from charlab.configuration.overrides import folder_name_of
from charlab.runs.folder import events_folder, remove
from tests.helpers.tiny_runs import TINY

SHORT = ("trainer.max_steps=4", "trainer.accumulate_grad_batches=1", "~callbacks.attention_maps")


@pytest.fixture
def run(text_path, tmp_path):
    """Run it in this process, with TensorBoard's events."""
    return lambda *more: charlab.run(*TINY, *SHORT, f"data.path={text_path}", f"output_dir={tmp_path}", *more)


def shown(logdir) -> dict[str, list[int]]:
    """Ask TensorBoard for the names of the runs below a folder, and the steps of their training loss."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    return {name: [event.step for event in multiplexer.Scalars(name, "train/loss")] for name in multiplexer.Runs()}


@pytest.mark.slow
def test_tensorboard_names_runs_by_what_differs(run, tmp_path):
    records = [run("seed=2", f"optimizer.lr={rate}") for rate in ("0.01", "0.003")]
    names = shown(tmp_path / "runs")
    assert list(names.values()) == [[1, 2, 3, 4]] * 2
    for record, rate in zip(records, ("0.01", "0.003"), strict=True):
        (name,) = (name for name in names if record.fingerprint in name)
        assert name.startswith(f"gpt-textfile/{record.fingerprint}/lr={rate},words.txt,")
        assert name.endswith(",seed=2")
    (alone,) = shown(records[0].folder)  # the command that the summary prints
    assert alone.startswith("lr=0.01,")


@pytest.mark.slow
@pytest.mark.parametrize("former", [False, True])
def test_a_resumed_run_goes_on_in_the_same_curve(run, interrupt_at, tmp_path, former):
    again = interrupt_at(3, RuntimeError("stop"))
    with pytest.raises(RuntimeError):
        run("optimizer.lr=0.01", "seed=2")
    (record,) = tmp_path.glob("runs/*/*/record.json")
    if former:  # of a version that had the events in the run's own folder
        place = events_folder(record.parent)
        for path in place.iterdir():
            shutil.move(path, record.parent)
        place.rmdir()
    before = shown(tmp_path / "runs")
    again()
    run("seed=2", "optimizer.lr=1e-2")  # the same, in other words
    after = shown(tmp_path / "runs")
    assert list(after) == list(before)
    assert list(after.values()) == [[1, 2, 3, 4]]


@pytest.mark.slow
def test_a_repeated_run_has_its_new_curve_alone_and_removal_leaves_nothing(run, tmp_path):
    record = run("optimizer.lr=0.01")
    run("optimizer.lr=1e-2", "force=true")
    assert list(shown(record.folder).values()) == [[1, 2, 3, 4]]
    assert [path.name for path in record.folder.glob("*seed=*")] == [events_folder(record.folder).name]
    assert events_folder(record.folder).name.startswith("lr=1e-2,")
    remove(record.folder)
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model=gpt", "optimizer.lr=0.01"], "lr=0.01"),  # the title has the model
        (["model=gru", "+model.num_layers=2"], "num_layers=2,gru"),
        (["optimizer.lr=1", "optimizer.lr=2"], "lr=2"),
        (["model/position=rotary", "~averaging", "objective=null"], "objective=null,averaging=null,rotary"),
        (["logger=csv", "logger.csv.x=1", "output_dir=/a", "loggers=1"], "loggers=1"),
        (["data.path=/some where/ä ö.txt", "data.path2=../b:c.txt"], "b-c.txt,ä-ö.txt"),
        (["a.n=1", "b.n=2"], "b.n=2,a.n=1"),
        (["x='a,b'", "y=[1, 2]", "z={k: 1/2}"], "k-1-2,y=1-2,a-b"),
        ([], ""),
    ],
)
def test_a_name_says_what_was_overridden(overrides, name):
    assert folder_name_of(overrides, ("logger", "output_dir"), "gpt-play") == name


def test_a_name_fits_any_file_system_and_stays_unique():
    long = [f"model.width{i}={'é' * 30}" for i in range(20)]
    names = {folder_name_of([*long, f"optimizer.lr={rate}"], (), "") for rate in (1, 2)}
    assert len(names) == 2
    assert all(name.startswith("lr=") and len(name.encode()) <= 120 for name in names)
    assert folder_name_of(["first=1", *long], (), "") != folder_name_of(["first=2", *long], (), "")
