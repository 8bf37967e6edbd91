"""The file of a cell holds all that its process needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from charlab.configuration.compose import compose
from charlab.runs.identity import fingerprint, identify
from charlab.runs.record import Record
from charlab.studies.cell import write_cell
from charlab.studies.planner import run_values
from tests.helpers import student
from tests.helpers.warm import warm

TEXTS = st.text(st.sampled_from("a1e.${}\\: \n'\"é~") | st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS.filter(lambda key: "$" not in key), parts),
    max_leaves=6,
)


@pytest.mark.slow
@given(values=st.dictionaries(st.sampled_from("abc"), VALUES))
def test_values_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, values: dict) -> None:
    file = tmp_path_factory.mktemp("cell") / "1.yaml"
    write_cell(file, values, Path("folder"), [])
    read = OmegaConf.create(yaml.safe_load(file.read_text(encoding="utf-8"))["config"])
    assert OmegaConf.to_container(read, resolve=True) == values


ONE_STEP = (
    *("model=bigram", "data=play", "data.corpus.length=20000", "data.context_length=8", "data.batch_size=2"),
    *("trainer=cpu", "trainer.max_steps=1", "callbacks.samples.length=3", "estimate_batches=1"),
)


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """The file of a run of one step."""
    config = compose(ONE_STEP, return_hydra_config=True)
    folder = tmp_path / "runs" / fingerprint(config)
    write_cell(tmp_path / "cell.yaml", run_values(config), folder, ["model=bigram"])
    return tmp_path / "cell.yaml"


TINY = (
    *("model=bigram", "data=play", "data.corpus.length=20000", "data.context_length=8", "data.batch_size=2"),
    *("trainer=cpu", "trainer.max_steps=1", "callbacks=null", "estimate_batches=1"),
)


@pytest.mark.slow
def test_a_cell_whose_code_was_edited_after_its_plan_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student.write(tmp_path / "student")
    monkeypatch.syspath_prepend(tmp_path / "student")
    config = compose([*TINY, "model._target_=studentmodel.Mine"], return_hydra_config=True)
    identity = identify(config)
    student.forget()
    folder, cell = tmp_path / "runs" / identity.fingerprint, tmp_path / "cell.yaml"
    write_cell(cell, run_values(config), folder, [], identity.code)
    student.edit(tmp_path / "student" / "studentparts.py", "1.0 * x", "2.0 * x")
    done = run(cell)
    assert done.returncode == 2
    assert done.stderr.startswith("The code of this run was edited after its study was planned")
    assert len(done.stderr.splitlines()) == 1
    assert not folder.exists()
    student.edit(tmp_path / "student" / "studentparts.py", "2.0 * x", "1.0 * x  # a comment")
    assert run(cell).returncode == 0
    record = Record.load(folder)
    assert (record.status, record.code) == ("finished", identity.code)


NOTEBOOK = """
import linecache, sys
from pathlib import Path
from charlab.configuration.compose import compose
from charlab.runs.identity import identify
from charlab.studies.cell import write_cell
from charlab.studies.planner import run_values
text = open("model.py").read()
linecache.cache["/tmp/ipykernel_1/1.py"] = (len(text), None, text.splitlines(keepends=True), "/tmp/ipykernel_1/1.py")
exec(compile(text, "/tmp/ipykernel_1/1.py", "exec"), sys.modules["__main__"].__dict__)
{before}
config = compose({overrides}, return_hydra_config=True)
identity = identify(config)
write_cell(Path("cell.yaml"), run_values(config), Path("runs", identity.fingerprint), [], identity.code)
print(identity.fingerprint, identity.code)
"""
MINE = "model._target_=__main__.Mine"
WITH_WEIGHTS = [*(override for override in TINY if override != "callbacks=null"), "~callbacks.samples", MINE]
TRAIN_MEMBER = f"import charlab\nmember = charlab.run(*{WITH_WEIGHTS})"
ENSEMBLE = '["model=ensemble", f"model.runs=[{member.folder.absolute()}]", ' + f"*{TINY[1:]}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "overrides"),
    [("", str([*TINY, MINE])), (TRAIN_MEMBER, ENSEMBLE)],
    ids=["a model", "an ensemble"],
)
def test_a_class_of_a_notebook_is_trained_in_a_cell(tmp_path: Path, before: str, overrides: str) -> None:
    (tmp_path / "model.py").write_text(
        "def readout(x):\n    return x\n\n" + student.MODEL.replace("from studentparts import readout", "import math")
    )
    command = warm([sys.executable, "-c", NOTEBOOK.format(before=before, overrides=overrides)])
    planned = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stderr
    fingerprint, code = planned.stdout.split()[-2:]
    done = run(tmp_path / "cell.yaml")
    assert done.returncode == 0, done.stderr
    record = Record.load(tmp_path / "runs" / fingerprint)
    assert (record.status, record.fingerprint, record.code) == ("finished", fingerprint, code)
    assert "class Mine(AutoregressiveModel)" in (record.folder / "definitions.py").read_text()


def run(cell: Path) -> subprocess.CompletedProcess[str]:
    command = warm([sys.executable, "-m", "charlab.studies.cell", str(cell)])
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return subprocess.run(
        command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_cell_is_a_command_that_anyone_can_give(cell: Path) -> None:
    done = run(cell)
    assert done.returncode == 0, done.stderr
    (folder,) = (cell.parent / "runs").iterdir()
    record = Record.load(folder)
    assert (record.status, record.steps, record.overrides) == ("finished", 1, ["model=bigram"])
    assert (record.fingerprint, folder.name) == (folder.name, record.fingerprint)
    assert not {"study", "search", "launcher", "hydra", "dry_run"} & set(record.config)


@pytest.mark.slow
def test_a_cell_that_is_not_the_planned_run_refuses(cell: Path) -> None:
    described = yaml.safe_load(cell.read_text())
    described["config"]["seed"] = 1
    cell.write_text(yaml.safe_dump(described))
    done = run(cell)
    assert done.returncode == 2
    assert done.stderr.startswith("The run would not be the one that was planned")
    assert len(done.stderr.splitlines()) == 1
    assert not (cell.parent / "runs").exists()


@pytest.mark.slow
def test_the_cell_of_a_trial_scores_dev_text(tmp_path: Path) -> None:
    config = compose([*ONE_STEP, "data.dev_fraction=0.05"], return_hydra_config=True)
    folder = tmp_path / "runs" / fingerprint(config)
    write_cell(tmp_path / "cell.yaml", run_values(config), folder, [], split="dev")
    done = run(tmp_path / "cell.yaml")
    assert done.returncode == 0, done.stderr
    assert Record.load(folder).has_figure("blocks", "dev")
