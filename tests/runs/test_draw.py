"""What a finished run lacks is computed, sampled and drawn on demand."""

import io
import shutil
import subprocess
import sys
from functools import partial

import pytest
from PIL import Image
from rich.console import Console

import charlab
from charlab.configuration.compose import compose
from charlab.errors import UserError
from charlab.notebook import Output
from charlab.runs import checkpoint, draw
from charlab.runs.display import print_summary
from charlab.runs.folder import CHECKPOINT
from charlab.runs.manage import browse
from charlab.runs.record import Record
from charlab.runs.setup import Parts

DRAWN = ("samples.txt", "loss.png", "attention")


@pytest.fixture
def bare(copied):
    """The record of a run without pictures."""
    for name in DRAWN:
        path = copied.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return copied


@pytest.mark.slow
def test_a_run_ends_with_what_it_was_asked_for(run_tiny):
    assert compose([]).at_end == []
    record = run_tiny("trainer.max_steps=2")
    assert [(entry["split"], entry["protocol"]) for entry in record.metrics][2:] == [("validation", "blocks")]
    assert not {path.name for path in record.folder.iterdir()} & set(DRAWN)
    asked = run_tiny("trainer.max_steps=2", "seed=2", "callbacks.samples.every_n_steps=1", "at_end=[loss_plot]")
    assert {path.name for path in asked.folder.iterdir()} & set(DRAWN) == {"samples.txt", "loss.png"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ((), set()),
        (("at_end=[samples]",), {"SampleText"}),
        (("callbacks.attention_maps.every_n_steps=2",), {"AttentionMaps"}),
        (("+logger.mine={_target_: lightning.pytorch.loggers.CSVLogger}",), {"SampleText", "AttentionMaps"}),
    ],
    ids=["neither", "a sample", "maps", "what a tracker may ask for"],
)
def test_a_callback_that_draws_nothing_costs_no_step_anything(overrides, tmp_path, more, kept):
    trainer = Parts(compose([*overrides, *more]), tmp_path, fresh=True).trainer
    assert {type(part).__name__ for part in trainer.callbacks} & {"SampleText", "AttentionMaps"} == kept


def test_what_a_run_does_at_its_end_is_no_part_of_its_identity(run_tiny, finished_run):
    assert run_tiny("at_end=[]", f"output_dir={finished_run.folder.parents[2]}").finished == finished_run.finished


def test_a_wrong_wish_is_said(run_tiny):
    with pytest.raises(UserError, match=r"at_end must be .*sliding"):
        run_tiny("at_end=[online]")


def test_a_sample_is_the_one_that_the_run_would_have_drawn(bare, finished_run):
    expected = (finished_run.folder / "samples.txt").read_text()
    assert draw.sample(bare) == expected
    assert (bare.folder / "samples.txt").read_text() == expected
    (bare.folder / "samples.txt").write_text("kept\n")
    assert draw.sample(bare) == "kept\n"


def test_there_is_no_sample_without_weights_and_no_error_either(bare, caplog):
    (bare.folder / CHECKPOINT).write_bytes(b"no checkpoint")
    assert draw.sample(bare) == ""
    assert "There is no sample of" in caplog.text
    (bare.folder / CHECKPOINT).unlink()
    assert draw.sample(bare) == ""


def test_a_card_has_a_sample(bare, finished_run):
    first = (finished_run.folder / "samples.txt").read_text().split()[0]
    assert first in bare._repr_html_().split("<pre")[1]


def test_a_notebook_gets_plain_lines_of_a_finished_run_and_of_its_figures(bare, run_tiny, monkeypatch, capsys):
    for module in ("display", "evaluate"):
        monkeypatch.setattr(f"charlab.runs.{module}.Output", partial(Output, force_jupyter=True))
    run_tiny()
    assert "This run is finished already" in capsys.readouterr().out
    charlab.evaluate(bare, device="cpu")
    assert "validation" in capsys.readouterr().out


@pytest.mark.slow
def test_a_missing_figure_is_computed_and_added(bare, finished_run, run_tiny, tmp_path):
    figure = bare.metric("sliding")
    kept = Record.load(bare.folder)
    assert (kept.metric("sliding"), kept.time) == (figure, finished_run.time)
    at_its_end = run_tiny("at_end=[sliding]", f"output_dir={tmp_path / 'others'}")
    assert at_its_end.fingerprint == bare.fingerprint
    assert at_its_end.metrics[-1] == {**figure, "nll": pytest.approx(figure["nll"], abs=1e-9)} | {
        key: pytest.approx(figure[key]) for key in ("bpc", "perplexity")
    }


@pytest.mark.parametrize("missing", [("online",), ("blocks", "test")])
def test_a_figure_that_has_its_price_is_not_computed_unasked(bare, missing):
    with pytest.raises(UserError, match="compute it by charlab evaluate"):
        bare.metric(*missing)
    assert Record.load(bare.folder).test_looks == 0


@pytest.mark.slow
def test_a_finished_run_asked_for_more_is_not_trained_again(bare, run_tiny, capsys):
    again = run_tiny("at_end=[sliding,samples,loss_plot]")
    assert "finished already" in capsys.readouterr().out
    assert (again.has_figure("sliding"), again.finished) == (True, bare.finished)
    assert all((bare.folder / name).exists() for name in ("samples.txt", "loss.png"))


def test_a_run_is_drawn_by_a_command(bare, tmp_path):
    console = Console(file=io.StringIO(), width=80)
    assert browse(["draw", bare.folder.name[:8], f"output_dir={tmp_path / 'outputs'}"], console) == 0
    printed = [(line[:10].strip(), line[11:]) for line in console.file.getvalue().splitlines()]
    assert [what for what, _ in printed] == ["loss plot", "sample", "attention"]
    for path in (path for _, path in printed if path.endswith(".png")):
        with Image.open(path) as picture:
            assert picture.size > (100, 100)
    with pytest.raises(UserError, match="draw takes the runs"):
        browse(["draw"], console)


def test_no_maps_are_drawn_by_other_code(bare, monkeypatch, caplog):
    monkeypatch.setattr(draw, "changed_since", lambda record, part: ["studentparts"])
    assert browse(["draw", str(bare.folder)], Console(file=io.StringIO(), width=80)) == 0
    assert not (bare.folder / "attention").exists()
    assert "There are no attention maps of" in caplog.text
    assert caplog.text.count("its model has changed since: studentparts") == 2  # of the sample as well


@pytest.mark.parametrize("command", ["draw", "show"])
def test_code_in_a_runs_folder_is_imported_if_that_is_trusted(bare, tmp_path, monkeypatch, command):
    trusted, load = [], checkpoint.load

    def watched(run, *, trust=False, **options):
        trusted.append(trust)
        return load(run, trust=trust, **options)

    monkeypatch.setattr(checkpoint, "load", watched)
    console = Console(file=io.StringIO(), width=80)
    for more in ([], ["trust=true"]):
        assert browse([command, str(bare.folder), f"output_dir={tmp_path}", *more], console) == 0
    assert [trusted[0], any(trusted)] == [False, True]


def test_the_command_that_draws_a_run_of_a_notebook_trusts_it(bare, capsys):
    for name, said in ((None, ""), ("definitions.py", " trust=true")):
        if name is not None:
            (bare.folder / name).touch()
        print_summary(bare, Console(width=200))
        assert f"charlab runs draw {bare.folder}{said}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_is_looked_at_without_lightning(bare):
    program = """
import sys
from pathlib import Path
import charlab
from charlab.cli import main
from charlab.runs.draw import sample
from charlab.runs.record import Record
folder = sys.argv[1]
assert sample(Record.load(Path(folder)))
assert main(["generate", f"run={folder}", "length=5", "device=cpu"]) == 0
assert main(["evaluate", f"run={folder}", "device=cpu"]) == 0
assert main(["verify", folder]) == 0
assert "torch" in sys.modules
sys.exit("lightning" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, str(bare.folder)], check=True)
