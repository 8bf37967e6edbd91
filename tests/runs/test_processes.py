"""Two processes train one model (distributed data parallel, on two processors): real runs from the command line."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import charlab
from charlab.configuration.compose import compose
from charlab.data.windows import gather_windows, window_starts
from charlab.evaluation.protocols import Blocks, Estimate, evaluate
from charlab.models.bigram import Bigram
from charlab.runs.identity import fingerprint
from charlab.runs.record import Record
from charlab.seeding import derive_seed
from tests.helpers.tiny_runs import SCRIPT, TINY, assert_same_outcome, curves, event_steps
from tests.helpers.warm import warm

pytestmark = pytest.mark.slow  # each run starts two processes, one after the other

BIGRAM = ("model=bigram", *(override for override in TINY if not override.startswith("model")))
SGD = ("optimizer=sgd", "optimizer.lr=2.0", "optimizer.momentum=0")
PROCESSES = ("trainer=ddp", "trainer.accelerator=cpu", "compute.threads=1")


def command(folder, text_path, *overrides):
    return [sys.executable, str(SCRIPT), *overrides, *PROCESSES, f"data.path={text_path}", f"output_dir={folder}"]


def only_record(folder):
    (path,) = folder.glob("runs/*/*/record.json")
    return Record.load(path.parent)


def test_two_processes_and_accumulation_learn_what_one_loop_learns_from_the_same_windows(text_path, tmp_path):
    done = subprocess.run(
        warm(command(tmp_path, text_path, *BIGRAM, *SGD)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    record = only_record(tmp_path)
    assert record.status == "finished"
    assert record.machine["processes"] == 2
    assert record.fingerprint == fingerprint(compose([*BIGRAM, *SGD, f"data.path={text_path}"]))  # of one process
    assert record.steps == 12
    assert record.characters_seen == 12 * 4 * 8  # steps × windows × T

    model, vocabulary = charlab.load(record.folder)
    ids = torch.from_numpy(vocabulary.encode(text_path.read_text()))
    train, validation = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    torch.manual_seed(derive_seed(305, "initialization"))
    expected = Bigram(len(vocabulary))
    optimizer = torch.optim.SGD(expected.parameters(), lr=2.0)
    losses = []
    for step in range(12):
        starts = window_starts(305, step, batch_size=4, num_starts=len(train) - 8)
        loss = expected.loss(gather_windows(train, torch.from_numpy(starts), 8))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    logged = [float(value) for _, _, metric, value in curves(record) if metric == "train/loss"]
    assert logged == pytest.approx(losses, rel=1e-5)  # each step once, over both processes

    for split, part in (("train", train), ("validation", validation)):
        alone = evaluate(model, part, Estimate(num_batches=2, seed=305), context_length=8, batch_size=4)
        assert record.metric("estimate", split)["nll"] == pytest.approx(alone.nll, rel=1e-6)
        assert record.metric("estimate", split)["characters"] == alone.characters


def test_a_split_with_fewer_batches_than_processes_is_scored_by_all(text_path, tmp_path):
    size = int(0.02 * len(text_path.read_text()))  # of the dev split: one window in all
    few = ("data.batch_size=8", "data.dev_fraction=0.02", "estimate_batches=1", f"data.context_length={size - 1}")
    done = subprocess.run(
        warm(command(tmp_path, text_path, *BIGRAM, *few)),
        capture_output=True,
        text=True,
        timeout=300,  # seconds; waiting for each other, the processes would never end
    )
    assert done.returncode == 0, done.stderr
    record = only_record(tmp_path)
    model, vocabulary = charlab.load(record.folder)
    ids = torch.from_numpy(vocabulary.encode(text_path.read_text()))
    dev = evaluate(model, ids[:size], Blocks(), context_length=size - 1, batch_size=8)
    assert record.metric("blocks", "dev")["nll"] == pytest.approx(dev.nll, rel=1e-6)
    assert record.metric("blocks", "dev")["characters"] == dev.characters == size - 1


def test_killed_and_continued_each_process_goes_on_with_its_own_random_numbers(text_path, tmp_path):
    more = ("model.dropout=0.5", "trainer.max_steps=24", "evaluate_every=8")
    subprocess.run(warm(command(tmp_path / "whole", text_path, *TINY, *more)), check=True, capture_output=True)
    process = subprocess.Popen(
        command(tmp_path / "killed", text_path, *TINY, *more), stdout=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None:
        text = next(iter(path.read_text() for path in tmp_path.glob("killed/runs/*/*/metrics.csv")), "")
        if "\n8," in text:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL
    assert only_record(tmp_path / "killed").status == "running"
    again = subprocess.run(
        command(tmp_path / "killed", text_path, *TINY, *more), check=True, capture_output=True, text=True
    )
    assert again.stdout.count("continuing from step") == 1
    whole, killed = only_record(tmp_path / "whole"), only_record(tmp_path / "killed")
    assert_same_outcome(killed, whole)
    assert event_steps(killed.folder) == list(range(1, 25))


def test_a_process_that_is_lost_ends_the_other_with_a_sentence(text_path, tmp_path):
    process = subprocess.Popen(
        command(tmp_path, text_path, *BIGRAM, "trainer.max_steps=20000", "evaluate_every=50"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None:
        text = next(iter(path.read_text() for path in tmp_path.glob("runs/*/*/metrics.csv")), "")
        if "\n50," in text:
            listed = subprocess.run(
                ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
            )
            (other,) = (line.split()[0] for line in listed.stdout.splitlines() if "trainer=ddp" in line)
            os.kill(int(other), signal.SIGKILL)
            break
        time.sleep(0.01)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "Process 0 of 2 lost the others, one of which has ended: step" in said
    assert "is saved, and the same command resumes from there" in said
    assert "Traceback" not in said
