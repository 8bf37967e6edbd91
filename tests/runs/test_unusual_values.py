"""Runs whose figures are not finite, whose first weights are unusual, or whose terminal is: what they say."""

import math
import os
import subprocess
import sys

import pytest
from rich.console import Console

import charlab
from charlab.configuration.compose import compose
from charlab.errors import UserError
from charlab.runs.evaluate import evaluate_run
from charlab.runs.generate import generate_from_run
from charlab.runs.record import Record
from charlab.training.callbacks.divergence import DivergedError
from tests.helpers.warm import warm

EM = (
    "data=textfile",
    "data.batch_size=64",
    "data.context_length=32",
    "model=hmm",
    "model.num_states=4",
    "model.parameterization=log_probabilities",
    "optimizer=em",
    "optimizer.smoothing=0",
    "optimizer.lr=1",
    "trainer.accelerator=cpu",
    "trainer.max_steps=8",
    "logger=csv",
)


@pytest.fixture(scope="module")
def impossible_run(tmp_path_factory):
    """A run by exact EM whose validation text has a character that its train text lacks."""
    folder = tmp_path_factory.mktemp("impossible")
    (folder / "letters.txt").write_text("abcab cba bca\n" * 1000 + "zzz" + "abcab cba bca\n" * 10)
    return charlab.run(*EM, f"data.path={folder / 'letters.txt'}", f"output_dir={folder / 'outputs'}")


def test_a_text_that_the_model_finds_impossible_is_neither_a_leak_nor_divergence(impossible_run):
    assert impossible_run.status == "finished"
    assert impossible_run.causality["leaks"] is False
    (blocks,) = (entry for entry in impossible_run.metrics if entry["protocol"] == "blocks")
    assert blocks["nll"] is None
    assert "finds this text impossible" in blocks["reason"]
    assert "optimizer.smoothing" in blocks["reason"]


@pytest.mark.parametrize(
    "protocol", ["blocks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sliding", "online"))]
)
def test_every_protocol_says_so(impossible_run, protocol):
    console = Console(record=True, width=300)
    score = evaluate_run(compose([f"run={impossible_run.folder}", f"protocol={protocol}"], "evaluate"), console)
    assert score.nll == math.inf
    printed = console.export_text()
    assert printed.count("finds this text impossible") == 1
    assert "leak" not in printed
    again = Record.load(impossible_run.folder).metrics
    entries = [entry for entry in again if (entry["protocol"], entry["split"]) == (protocol, "validation")]
    assert len(entries) == 1  # replaces the earlier figures


def test_an_impossible_prompt_is_named_as_such(impossible_run):
    with pytest.raises(UserError, match=r"finds this text impossible.*another prompt.*optimizer\.smoothing"):
        generate_from_run(compose([f"run={impossible_run.folder}", "prompt=z", "device=cpu"], "generate"))


@pytest.mark.slow
def test_em_whose_training_text_becomes_impossible_is_told_of_smoothing(tmp_path):
    (tmp_path / "letters.txt").write_text("abcab cba bca\n" * 800 + "zzz" + "abcab cba bca\n" * 100)
    with pytest.raises(DivergedError, match=r"set optimizer\.smoothing above 0"):
        charlab.run(*EM, f"data.path={tmp_path / 'letters.txt'}", f"output_dir={tmp_path / 'outputs'}")


@pytest.mark.slow
def test_a_first_loss_far_above_guessing_is_said_once(run_tiny, capsys):
    tied = ("model.tied_embeddings=true", "model/initialization=torch", "model.embed_dim=128")
    run_tiny(*tied, "trainer.max_steps=1")
    assert capsys.readouterr().out.count("shares the weights of its embedding") == 1


@pytest.mark.slow
def test_first_weights_that_are_no_numbers_end_the_run_before_training(run_tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.nn.init.normal_", lambda weight, **_: weight.data.fill_(math.inf))
    with pytest.raises(UserError, match=r"initial values of \S+ are infinite or NaN.*not the learning rate"):
        run_tiny()
    (path,) = tmp_path.rglob("record.json")
    assert Record.load(path.parent).status == "failed"


@pytest.mark.slow
def test_a_script_whose_output_is_ascii_trains_a_model_of_bounds(tmp_path):
    (tmp_path / "script.py").write_text("""
import charlab

brief = ["data=play", "data.corpus.length=3000", "data.context_length=8", "trainer=cpu", "trainer.max_steps=1"]
record = charlab.run("model=masked_diffusion", "model.embed_dim=8", "model.num_layers=1", *brief)
print(charlab.evaluate(record, device="cpu").likelihood)
""")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(warm([sys.executable, "script.py"]), capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout
    assert done.stdout.endswith(b"bound\n")


@pytest.mark.slow
def test_a_terminal_of_ascii_ends_no_run(tmp_path):
    (tmp_path / "accents.txt").write_text("é≤ü×—\n" * 300)
    command = ["-m", "charlab", "train", "model=masked_diffusion", "model.embed_dim=8", "model.num_layers=1"]
    command += ["data=textfile", "data.path=accents.txt", "data.context_length=8", "trainer=cpu", "trainer.max_steps=3"]
    command += ["at_end=[sliding,samples]"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    options = {"capture_output": True, "cwd": tmp_path, "env": environment}
    done = subprocess.run(warm([sys.executable, *command]), **options)
    output = done.stdout.decode("ascii")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("outputs/runs/*/*/record.json")
    record = Record.load(path.parent)
    assert (record.status, record.steps) == ("finished", 3)
    assert set((path.parent / "samples.txt").read_text(encoding="utf-8").strip()) & set("é≤ü×—")
    assert "sample" in output
    assert output.rstrip().splitlines()[-1].startswith("result")
    assert f"? {math.exp(record.metric('sliding')['nll']):.3f} perplexity" in " ".join(output.split())
