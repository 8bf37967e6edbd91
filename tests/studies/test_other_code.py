"""A real study whose model is edited: while it runs, and between two of its runs."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from charlab import cli
from charlab.runs.record import Record
from tests.helpers import student

pytestmark = pytest.mark.slow

# The first cell edits a module of the model that it trains, after having loaded it.
EDITS_ITSELF = """
import os
import sys
from pathlib import Path


def readout(x):
    file = Path(__file__)
    if x.requires_grad and x.device.type == "cpu" and os.getpid() != int(os.environ["PLANNER"]):
        file.write_text(file.read_text().replace("return 1.0 * x", "return 2.0 * x"))
    return 1.0 * x
"""


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    student.write(tmp_path / "student")
    (tmp_path / "student" / "studentparts.py").write_text(EDITS_ITSELF)
    monkeypatch.syspath_prepend(tmp_path / "student")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PLANNER", str(os.getpid()))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "outputs"
    student.forget()


def sweep(outputs: Path, *more: str) -> int:
    student.forget()
    settings = ("data=play", "data.corpus.length=20000", "data.context_length=8", "data.batch_size=4", "trainer=cpu")
    short = ("trainer.max_steps=2", "estimate_batches=1", "callbacks=null", "logger=csv", "launcher.at_once=1")
    model = ("model=bigram", "model._target_=studentmodel.Mine", "name=student", "seed=1,2")
    return cli.train(["-m", *model, *settings, *short, f"output_dir={outputs}", *more])


def records(outputs: Path) -> list[Record]:
    found = [Record.load(path.parent) for path in outputs.glob("runs/student/*/record.json")]
    return sorted(found, key=lambda record: (record.seed, record.finished or ""))


def test_an_edit_is_caught_marked_and_made_again(outputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep(outputs) == 1
    assert "The code of this run was edited after its study was planned" in capfd.readouterr().out
    (first,) = records(outputs)
    assert (first.seed, first.status) == (1, "finished")
    kept = (first.folder / "record.json").read_bytes()

    assert sweep(outputs, "study.rerun=[]") == 0  # today's code runs what is missing, and marks what there is
    assert "1 of these results is from older code; study.rerun=[older] runs it again." in capfd.readouterr().out
    same, second = records(outputs)
    assert (same.seed, second.seed) == (1, 2)
    assert second.code != first.code

    assert sweep(outputs) == 0
    printed = capfd.readouterr().out
    assert " ".join(printed.split()).startswith(
        "1 cell of this study was run by different code (changed since: studentparts): the earlier runs are kept"
    )
    assert "older code" not in printed
    former, again, second = records(outputs)
    assert (former.seed, again.seed, second.seed) == (1, 1, 2)
    assert (former.folder, (former.folder / "record.json").read_bytes()) == (first.folder, kept)
    assert again.code == second.code != former.code
    assert again.fingerprint == former.fingerprint
    assert again.metric("blocks")["nll"] != former.metric("blocks")["nll"]

    kept = {record.folder: (record.folder / "record.json").read_bytes() for record in records(outputs)}
    student.edit(outputs.parent / "student" / "studentparts.py", "return 2.0 * x", "return 4.0 * x")
    assert sweep(outputs, "force=true") == 0  # new runs next to those by other code, which force does not replace
    assert len(records(outputs)) == 5
    assert {folder: (folder / "record.json").read_bytes() for folder in kept} == kept
