"""The file of a cell holds all that its process needs."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from charlab.configuration.compose import compose
from charlab.runs.identity import fingerprint
from charlab.runs.record import Record
from charlab.studies.cell import write_cell
from charlab.studies.expansion import run_values

TEXTS = st.text(st.sampled_from("a1e.${}\\: \n'\"é~") | st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS.filter(lambda key: "$" not in key), parts),
    max_leaves=6,
)


@given(values=st.dictionaries(st.sampled_from("abc"), VALUES))
def test_values_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, values: dict) -> None:
    file = tmp_path_factory.mktemp("cell") / "1.yaml"
    write_cell(file, values, Path("folder"), [])
    read = OmegaConf.create(yaml.safe_load(file.read_text(encoding="utf-8"))["config"])
    assert OmegaConf.to_container(read, resolve=True) == values


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """The file of a run of one step."""
    text = ("data=play", "data.corpus.length=20000", "data.context_length=8", "data.batch_size=2")
    short = ("trainer=cpu", "trainer.max_steps=1", "callbacks.samples.length=3", "estimate_batches=1")
    config = compose(["model=bigram", *text, *short], return_hydra_config=True)
    folder = tmp_path / "runs" / fingerprint(config)
    write_cell(tmp_path / "cell.yaml", run_values(config), folder, ["model=bigram"])
    return tmp_path / "cell.yaml"


def run(cell: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "charlab.studies.cell", str(cell)]
    return subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


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
