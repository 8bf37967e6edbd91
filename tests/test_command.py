"""The `charlab` command, as a shell starts it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import charlab
from charlab.cli import COMMANDS, main
from charlab.command import command, remember_call
from tests.helpers.warm import warm

ROOT = Path(__file__).parents[1]


def test_without_a_command_it_says_which_there_are(capsys):
    assert main([]) == 0
    usage = capsys.readouterr().out
    assert set(re.findall(r"^charlab ([\w-]+) +…", usage, flags=re.M)) == COMMANDS.keys()
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == usage


def test_its_help_fits_a_screen_and_names_a_first_step(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert "  charlab train experiment=quickstart" in lines


def test_it_says_its_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"charlab {charlab.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command, capfd, monkeypatch):
    monkeypatch.setattr("sys.argv", ["charlab"])
    assert main([command, "--help"]) == 0
    told = capfd.readouterr()
    assert f"charlab {command}" in told.out
    assert told.err == ""


@pytest.mark.parametrize(
    ("command", "hint"),
    [("trian", "did you mean train?"), ("model=gpt", f"known are {', '.join(COMMANDS)}.")],
)
def test_another_command_ends_in_one_sentence(command, hint, capsys):
    assert main([command]) == 2
    assert capsys.readouterr().err == f"There is no command {command!r}: {hint}\n"


def test_a_command_has_its_overrides_and_its_exit_code(capfd):
    assert main(["train", "data=play", "model=bigram", "--cfg", "job"]) == 0
    assert "_target_: charlab.models.bigram.Bigram" in capfd.readouterr().out
    assert main(["train", "data=play", "model=bigram", "model.typo=1"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "program"),
    [
        ("charlab", "train"),
        ("python -m charlab", "evaluate"),
        ("python scripts/", "train"),
    ],
)
def test_a_printed_command_has_the_form_of_the_one_that_was_typed(form, program, tmp_path):
    script = form.endswith("/")
    started = {
        "charlab": [f"{tmp_path}/charlab", program],
        "python -m charlab": ["-m", "charlab", program],
        "python scripts/": [f"scripts/{program}.py"],
    }
    installed = "import sys; from charlab.__main__ import main; sys.exit(main())"  # what pip writes
    (tmp_path / "charlab").write_text(installed)
    called = warm([sys.executable, *started[form], "--help"])
    done = subprocess.run(called, capture_output=True, text=True, check=True, cwd=ROOT)
    start = f"python scripts/{program}.py" if script else f"{form} {program}"
    assert re.search(f"^  {re.escape(start)} ", done.stdout, flags=re.M)
    other = "charlab train" if form != "charlab" else "python "
    assert not re.search(f"^ *{re.escape(other)}", done.stdout, flags=re.M)


def test_a_printed_command_is_quoted_and_known_to_the_cells_of_a_study(monkeypatch):
    monkeypatch.setenv("CHARLAB_CALLED_BY", "")
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])
    monkeypatch.chdir(ROOT)
    remember_call()
    monkeypatch.setattr("sys.argv", ["-c"])  # as in another process
    assert command("evaluate", "run=a b") == "python scripts/evaluate.py 'run=a b'"
    assert command("runs") == "python -m charlab runs"
    monkeypatch.delenv("CHARLAB_CALLED_BY")
    monkeypatch.setattr("sys.argv", ["ipykernel_launcher.py"])
    assert command("evaluate", "run=a") == "charlab evaluate run=a"
    assert shlex.split(command("train", "name=it's")) == ["charlab", "train", "name=it's"]


@pytest.mark.slow
def test_further_processes_of_a_run_know_their_command(tmp_path):
    command = [sys.executable, "-m", "charlab", "train", "data=play", "data.corpus.length=20000", "model=bigram"]
    settings = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "compute.threads=1"]
    brief = ["data.context_length=16", "data.batch_size=4", "trainer.max_steps=3", "estimate_batches=1"]
    result = subprocess.run(
        warm([*command, *settings, *brief, f"output_dir={tmp_path}"]), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (record := next(tmp_path.glob("runs/*/*/record.json"))), result.stdout
    assert '"status": "finished"' in record.read_text()


def test_the_module_cli_asks_for_a_command():
    done = subprocess.run(warm([sys.executable, "-m", "charlab.cli", "model=bigram"]), capture_output=True, text=True)
    assert done.returncode == 2
    assert "known are train," in done.stderr
    assert done.stderr.count("\n") == 1
