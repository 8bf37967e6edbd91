"""The `charlab` command, as a shell starts it."""

import re
import subprocess
import sys

import pytest

import charlab
from charlab.__main__ import COMMANDS, main


def test_without_a_command_it_says_which_there_are(capsys):
    assert main([]) == 0
    usage = capsys.readouterr().out
    assert set(re.findall(r"^charlab (\w+) …", usage, flags=re.M)) == COMMANDS.keys()
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == usage


def test_it_says_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"charlab {charlab.__version__}\n"


@pytest.mark.parametrize(
    ("command", "hint"),
    [("trian", "did you mean train?"), ("model=gpt", "known are train, evaluate, generate, report.")],
)
def test_another_command_ends_in_one_sentence(command, hint, capsys):
    assert main([command]) == 2
    assert capsys.readouterr().err == f"There is no command {command!r}: {hint}\n"


def test_a_command_has_its_overrides_and_its_exit_code(capfd):
    assert main(["train", "data=play", "model=bigram", "--cfg", "job"]) == 0
    assert "_target_: charlab.models.bigram.Bigram" in capfd.readouterr().out
    assert main(["train", "data=play", "model=bigram", "model.typo=1"]) == 2


@pytest.mark.slow
def test_further_processes_of_a_run_know_their_command(tmp_path):
    command = [sys.executable, "-m", "charlab", "train", "data=play", "data.corpus.length=20000", "model=bigram"]
    settings = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "compute.threads=1"]
    brief = ["data.context_length=16", "data.batch_size=4", "trainer.max_steps=3", "estimate_batches=1"]
    result = subprocess.run([*command, *settings, *brief, f"output_dir={tmp_path}"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (record := next(tmp_path.glob("runs/*/*/record.json"))), result.stdout
    assert '"status": "finished"' in record.read_text()


def test_the_module_cli_names_the_command_instead():
    done = subprocess.run([sys.executable, "-m", "charlab.cli", "model=bigram"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "charlab train" in done.stderr
    assert done.stderr.count("\n") == 1
