"""How a process ends: by a signal, with a checkpoint, a sentence and a way to go on."""

import os
import pkgutil
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from charlab.runs.record import Record
from tests.helpers.tiny_runs import SCRIPT, TINY, assert_same_outcome, curves
from tests.helpers.warm import warm

MORE = ("trainer.max_steps=400", "evaluate_every=50", "callbacks.checkpointing.every_n_steps=null", "compute.threads=1")


@pytest.fixture
def command(text_path, tmp_path):
    def command(output, *more):
        paths = (f"data.path={text_path}", f"output_dir={tmp_path / output}")
        return [sys.executable, str(SCRIPT), *TINY, *MORE, *paths, *more]

    return command


def signalled(command, signum, tmp_path, output, environment=None):
    """Run a command, send it a signal in the middle of training, and return its exit code and what it said."""
    process = subprocess.Popen(
        warm(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    while process.poll() is None:
        found = list((tmp_path / output).glob("runs/*/*/metrics.csv"))
        if found and "\n60," in found[0].read_text():
            process.send_signal(signum)
            break
        time.sleep(0.002)
    said, _ = process.communicate()
    return process.returncode, said


def only_record(folder):
    (path,) = folder.glob("runs/*/*/record.json")
    return Record.load(path.parent)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_ends_a_run_with_a_checkpoint_and_the_same_command_goes_on(command, tmp_path, signum, code):
    subprocess.run(warm(command("whole")), check=True, capture_output=True)
    returned, said = signalled(command("ended"), signum, tmp_path, "ended")
    assert returned == code, said
    assert "is saved, and the same command resumes from there" in said
    record = only_record(tmp_path / "ended")
    assert record.status == "running"
    assert 60 <= record.steps < 400
    again = subprocess.run(warm(command("ended")), check=True, capture_output=True, text=True)
    assert f"continuing from step {record.steps}" in again.stdout
    assert_same_outcome(only_record(tmp_path / "ended"), only_record(tmp_path / "whole"))


STAGES = {  # what runs when the signal arrives, and what is saved by then
    "causality check": ("runs.train.check_causality", "nothing is saved yet"),
    "first validation": ("training.validation.score_window", "nothing is saved yet"),
    "final sample": ("training.callbacks.samples.write_atomically", "step 12 is saved"),
    "final figures": ("runs.train._Training._score_validation", "step 12 is saved"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_sigterm_outside_training_says_what_is_saved_and_the_same_command_goes_on(
    run_tiny, tmp_path, capsys, monkeypatch, stage
):
    running, saved = STAGES[stage]
    with monkeypatch.context() as patched:
        patched.setattr(f"charlab.{running}", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit) as ended:
            run_tiny("at_end=[samples]")
    assert ended.value.code == 143
    said = capsys.readouterr().out
    assert "Ended by SIGTERM" in said
    assert saved in said
    assert only_record(tmp_path / "outputs").status == "running"
    assert run_tiny().status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["causality check", "first validation", "final figures"])
def test_slurms_warning_outside_training_has_no_effect(run_tiny, monkeypatch, stage):
    place = f"charlab.{STAGES[stage][0]}"
    function, sent = pkgutil.resolve_name(place), []

    def warned(*arguments, **settings):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGUSR1))
        return function(*arguments, **settings)

    monkeypatch.setattr(place, warned)
    assert run_tiny().status == "finished"
    assert sent


@pytest.mark.slow
def test_slurms_warning_makes_a_checkpoint_and_leaves_no_trace(command, tmp_path):
    slurm = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "cell", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1"}
    returned, said = signalled(command("warned"), signal.SIGUSR1, tmp_path, "warned", slurm)
    assert returned == 0, said
    record = only_record(tmp_path / "warned")
    assert record.status == "finished"
    assert not list(record.folder.glob("**/hpc_ckpt*"))
    assert [int(step) for step, _, metric, _ in curves(record) if metric == "train/loss"] == list(range(1, 401))


@pytest.mark.slow
@pytest.mark.thorough
def test_a_process_that_dies_is_a_sentence_of_the_others(command, tmp_path):
    parts = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.max_steps=4000")
    given = command("lost", *parts, "callbacks.checkpointing.every_n_steps=20")
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        found = list((tmp_path / "lost").glob("runs/*/*/metrics.csv"))
        if found and "\n60," in found[0].read_text():
            (child,) = psutil.Process(process.pid).children()
            child.kill()
            break
        time.sleep(0.01)
    said, errors = process.communicate()
    assert process.returncode == 1
    assert re.search(r"Process 0 of 2 lost the others.*step \d+ is saved, and the same command resumes", said)
    assert "Traceback" not in errors
