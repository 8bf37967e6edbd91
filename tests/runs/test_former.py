"""A run of the first version of charlab, kept in `tests/runs/former`: read by everything, and never resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import charlab
from charlab import cli
from charlab.errors import UserError
from charlab.evaluation.protocols import Blocks, evaluate
from charlab.runs.record import Record

FORMER = Path(__file__).parent / "former"
TEXT = FORMER / "words.txt"


@pytest.fixture
def former(tmp_path, monkeypatch):
    """The folder of the run, where it would be; the working folder has its text."""
    monkeypatch.chdir(FORMER)
    run = tmp_path / "outputs" / "runs" / "former" / json.loads((FORMER / "record.json").read_text())["fingerprint"]
    return shutil.copytree(FORMER, run)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_its_batch_size_is_read_as_the_product(former):
    stored = json.loads((former / "record.json").read_text())
    assert stored["format"] == 1
    assert (stored["config"]["data"]["batch_size"], stored["config"]["trainer"]["accumulate_grad_batches"]) == (2, 2)
    record = Record.load(former)
    assert record.config["data"]["batch_size"] == 4
    record.save()
    assert Record.load(former).config["data"]["batch_size"] == 4


def test_it_is_loaded_and_scores_what_it_did(former):
    model, vocabulary = charlab.load(former)
    text = TEXT.read_text()
    ids = torch.from_numpy(vocabulary.encode(text))[int(0.9 * len(text)) :]
    nll = evaluate(model, ids, Blocks(), context_length=8, batch_size=4).nll
    assert nll == pytest.approx(Record.load(former).metric("blocks")["nll"], abs=1e-6)


def test_it_is_evaluated_and_its_figures_are_left_alone(former, capsys):
    before = files(former)
    assert cli.evaluate([f"run={former}", "device=cpu", "protocol=blocks"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{Record.load(former).metric('blocks')['nll']:.4f}" in printed
    assert "They come from different code than the run's own figures (that of an earlier version)" in printed
    assert files(former) == before


def test_it_generates(former, capsys):
    assert cli.generate([f"run={former}", "device=cpu", "prompt=be", "length=20"]) == 0
    assert capsys.readouterr().out.startswith("be")


def command(former):
    return [
        *("model=gpt", "data=textfile", f"data.path={TEXT}", "data.context_length=8", "data.batch_size=4"),
        *("data.dev_fraction=0.1", "model.embed_dim=8", "model.num_layers=1", "model.mixer.num_heads=2"),
        *("trainer.accelerator=cpu", "trainer.max_steps=8", "trainer.accumulate_grad_batches=2"),
        *("callbacks=null", "logger=csv", "name=former", f"output_dir={former.parents[2]}"),
    ]


@pytest.mark.slow
def test_the_same_command_is_a_new_run(former, capsys):
    before = files(former)
    record = charlab.run(*command(former))
    assert "finished already" not in capsys.readouterr().out
    assert record.folder != former
    assert files(former) == before


@pytest.mark.parametrize("status", ["finished", pytest.param("running", marks=pytest.mark.slow)])
def test_it_is_not_resumed(former, status):
    stored = json.loads((former / "record.json").read_text())
    (former / "record.json").write_text(json.dumps(stored | {"status": status}))
    before = files(former)
    with pytest.raises(UserError, match="holds another run, former with the fingerprint"):
        charlab.run(*command(former), f"hydra.run.dir={former}")
    assert files(former) == before


@pytest.mark.slow
def test_it_is_a_member_of_an_ensemble(former, capsys):
    settings = [override for override in command(former) if not override.startswith("model")]
    record = charlab.run("model=ensemble", f"model.runs=[{former}]", *settings, "name=ensemble")
    assert f"The run {former} was trained by different code" in " ".join(capsys.readouterr().out.split())
    assert record.metric("blocks")["nll"] == pytest.approx(Record.load(former).metric("blocks")["nll"], abs=1e-5)
