"""Cells that are forked: as quick as a fork, and as separate as new processes."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

import charlab.seeding
from charlab.configuration.compose import compose
from charlab.runs.record import Record
from charlab.studies.cell import write_cell
from charlab.studies.definition import Arm
from charlab.studies.forks import KEEPER, Forks
from charlab.studies.outcomes import Outcome, cell_path
from charlab.studies.plan import Cell, Plan
from charlab.studies.planner import run_values
from charlab.studies.runner import Slot, cell_environment, run_cell
from tests.helpers.warm import warm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="cells are forked on Linux only")]

SPY = """
import json, os, signal, sys, time, torch
from charlab.models.bigram import Bigram

def seen():
    with open(f"/proc/{os.getppid()}/environ", encoding="utf-8") as file:
        variables = dict(line.split("=", 1) for line in file.read().split(chr(0)) if "=" in line)
    return {
        "leader": os.getpid() == os.getpgrp() == os.getsid(0),
        "cores": sorted(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "variable": os.environ.get("OMP_NUM_THREADS"),
        "cuda": torch.cuda.is_initialized(),
        "preloaded": "charlab.training.module" in sys.modules,
        "server": os.getppid(),
        "server_path": variables.get("PYTHONPATH"),
        "stdin": os.readlink("/proc/self/fd/0"),
    }

class Spy(Bigram):
    def __init__(self, vocab_size, *, does):
        super().__init__(vocab_size)
        if "PYTHONSAFEPATH" not in os.environ:  # not in a cell: the configuration is checked
            return
        print(json.dumps(seen()), flush=True)
        if does == "sleep":
            time.sleep(600)
        if does == "fill memory":
            import resource
            resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
            bytearray(2**40)
        if does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def forks():
    with closing(Forks()) as forks:
        yield forks


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Four cells of a study: one that trains, and some that do something else."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "spy.py").write_text(SPY)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    text = ("data=play", "data.corpus.length=20000", "data.context_length=8", "data.batch_size=2")
    short = ("trainer=cpu", "trainer.max_steps=1", "callbacks.samples.length=3", "estimate_batches=1")
    study, cells = tmp_path / "outputs" / "studies" / "spies", []
    for does in ("train", "sleep", "fill memory", "die"):
        config = compose(
            ["model=bigram", "model._target_=spy.Spy", f"+model.does={does}", *text, *short], return_hydra_config=True
        )
        cells.append(Cell(does.replace(" ", "_"), 305, f"spies/{Path(config.hydra.run.dir).name}", ()))
        folder = tmp_path / "outputs" / "runs" / cells[-1].run
        write_cell(cell_path(study, cells[-1], ".yaml"), run_values(config), folder, [])
    arms = tuple(Arm(cell.arm, ()) for cell in cells)
    Plan(name="spies", baseline="train", arms=arms, cells=tuple(cells), seeds=(305,), planned_seeds=1).save(study)
    return study


def log(study, arm):
    return (study / "cells" / arm / "305.log").read_text()


def said(study, arm):
    return json.loads(log(study, arm).splitlines()[0])


def run(study, arm, forks, slot=Slot(1)):  # noqa: B008  (it is frozen)
    return run_cell(study, f"{arm}/305", slot, start=forks.start)


def test_a_fork_is_like_a_new_process(study, forks, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    core = max(os.sched_getaffinity(0))
    outcome = run(study, "train", forks, Slot(1, (core,)))
    assert (outcome.fate, outcome.exit_code) == ("finished", 0), log(study, "train")
    seen = said(study, "train")
    server, _ = seen.pop("server"), seen.pop("server_path")
    assert seen == {
        "leader": True,
        "cores": [core],
        "threads": 1,
        "variable": "1",
        "cuda": False,
        "preloaded": True,
        "stdin": "/dev/null",
    }
    with open(f"/proc/{server}/cmdline", encoding="utf-8") as command:
        assert "forkserver" in command.read()
    assert len(os.listdir(f"/proc/{server}/task")) == 1  # no thread is there to be lost in a fork
    run(study, "die", forks, Slot(3))
    assert said(study, "die")["threads"] == 3


def test_a_fork_trains_to_the_same_bits_as_a_new_interpreter(study, forks):
    (cell,) = [cell for cell in Plan.load(study).cells if cell.arm == "train"]
    records = []
    for start in ({"start": forks.start}, {}):
        assert run_cell(study, cell.key, Slot(1), **start).fate == "finished"
        folder = study.parents[1] / "runs" / cell.run
        records.append(Record.load(folder).metrics)
        shutil.rmtree(folder)
    assert records[0] == records[1]
    assert records[0]


def test_the_death_of_one_harms_no_other(study, forks):
    outcomes = {}
    threads = {
        arm: threading.Thread(target=lambda arm=arm: outcomes.update({arm: run(study, arm, forks)}))
        for arm in ("sleep", "fill_memory", "die", "train")
    }
    for thread in threads.values():
        thread.start()
    for arm in ("fill_memory", "die", "train"):
        threads[arm].join()
    assert {arm: outcome.fate for arm, outcome in outcomes.items()} == {
        "fill_memory": "failed",
        "die": "killed",
        "train": "finished",
    }
    (sleeping,) = [cell for cell in Plan.load(study).cells if cell.arm == "sleep"]
    os.kill(Outcome.load(study, sleeping).process, signal.SIGTERM)
    threads["sleep"].join()
    assert (outcomes["sleep"].fate, outcomes["sleep"].exit_code) == ("killed", -signal.SIGTERM)
    assert "There is not enough memory" in outcomes["fill_memory"].reason
    assert "SIGKILL" in outcomes["die"].reason
    assert len({said(study, arm)["server"] for arm in outcomes}) == 1


def test_a_changed_file_replaces_the_server(study, forks):
    run(study, "die", forks)
    former = said(study, "die")["server"]
    run(study, "die", forks)
    assert said(study, "die")["server"] == former
    file = charlab.seeding.__file__
    status = os.stat(file)
    try:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
        run(study, "die", forks)
    finally:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert said(study, "die")["server"] != former


@pytest.mark.thorough
def test_the_server_finds_what_the_users_path_has(study, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    with closing(Forks()) as forks:
        run(study, "die", forks)
    entries = said(study, "die")["server_path"].split(os.pathsep)
    assert entries[1:] == [str(tmp_path / "modules")]


@pytest.mark.thorough
def test_without_a_server_cells_start_in_new_interpreters_and_that_is_said_once(study, monkeypatch, capfd):
    monkeypatch.setattr("charlab.studies.forks.KEEPER", "raise SystemExit('there is no server here')")
    with closing(Forks()) as forks:
        assert run(study, "train", forks).fate == "finished", log(study, "train")
        assert run(study, "die", forks).fate == "killed"
    assert capfd.readouterr().err.count("there is no server here") == 1


def keepers():
    """Return the processes that keep a fork server."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"forks import keep" in path.read_bytes():
                found.add(path)
    return found


def test_a_server_that_no_cell_needs_ends_with_the_study():
    before, forks = keepers(), Forks()
    forks.prepare()
    assert len(keepers() - before) == 1
    forks.close()
    end = time.monotonic() + 30
    while keepers() - before:  # the server itself may need a moment to be gone
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_server_that_has_ended_is_not_waited_for(tmp_path, monkeypatch):
    with closing(Forks()) as forks, (tmp_path / "log").open("wb") as output:
        forks.prepare()
        (keeper,) = forks._keepers
        keeper._process.kill()
        keeper._process.wait()
        keeper._reader.join()
        keeper._process.stdin.close()
        monkeypatch.setattr(keeper._process, "stdin", io.BytesIO())  # as a pipe that still takes what nobody reads
        with pytest.raises(OSError, match="the fork server has ended"):
            keeper.start(tmp_path / "cell.yaml", output, Slot(1))


def test_a_server_that_ends_before_it_starts_a_cell_is_replaced(study):
    with closing(Forks()) as forks:
        run(study, "die", forks)
        former = said(study, "die")["server"]
        (keeper,) = forks._keepers
        os.kill(keeper._process.pid, signal.SIGSTOP)  # so that the request is sent, but not read
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(run(study, "train", forks)))
        thread.start()
        end = time.monotonic() + 30
        while len(keeper._awaited) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        keeper._process.kill()
        thread.join()
    assert [outcome.fate for outcome in outcomes] == ["finished"], outcomes
    assert said(study, "train")["server"] != former


def test_a_cell_ends_with_its_keeper(study):
    with closing(Forks()) as forks:
        outcomes = []
        thread = threading.Thread(target=lambda: outcomes.append(run(study, "sleep", forks)))
        thread.start()
        end = time.monotonic() + 60
        while not (study / "cells/sleep/305.log").exists() or "server" not in log(study, "sleep"):
            assert time.monotonic() < end
            time.sleep(0.05)
        server = said(study, "sleep")["server"]
        keeper = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(keeper, signal.SIGKILL)
        thread.join(30)
        assert (outcomes[0].fate, outcomes[0].exit_code) == ("killed", -signal.SIGKILL)
        while Path(f"/proc/{outcomes[0].process}").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert run(study, "die", forks).fate == "killed"  # by itself: another server has been started


def test_no_cell_outlives_a_study_that_is_killed_while_another_cell_starts(study):
    """The keeper then has a reply that it cannot send."""
    file, output = (str(cell_path(study, Plan.load(study).cell("sleep/305"), suffix)) for suffix in (".yaml", ".log"))
    Path(output).touch()
    environment = cell_environment(Slot(1))
    request = {"file": file, "log": output, "cores": [], "environment": environment}
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        keeper.stdin.write(json.dumps([0, request]).encode() + b"\n")
        keeper.stdin.flush()
        replies = [json.loads(keeper.stdout.readline()) for _ in range(2)]
        assert [what for what, _, _ in replies] == ["files", "pid"]
        end = time.monotonic() + 60
        while "server" not in log(study, "sleep"):
            assert time.monotonic() < end
            time.sleep(0.05)
        keeper.stdout.close()
        keeper.stdin.write(json.dumps([1, request]).encode() + b"\n")
        keeper.stdin.close()
        keeper.wait(60)
        assert not Path(f"/proc/{replies[1][2]}").exists()
    finally:
        keeper.kill()


SCRIPT = """
import charlab

print("TOP")
results = charlab.study(
    *("model=bigram", "data=play", "data.corpus.length=20000", "data.context_length=8", "data.batch_size=2"),
    *("trainer=cpu", "trainer.max_steps=1", "callbacks.samples.length=3", "estimate_batches=1"),
    *("optimizer.lr=0.1,0.2", "seed=1,2", "launcher.at_once=2"),
)
print("STATES", sorted(result.status for result in results.cells))
"""


def test_a_script_without_a_guard_is_run_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        warm([sys.executable, "script.py"]), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TOP") == 1
    assert "STATES ['finished', 'finished', 'finished', 'finished']" in done.stdout
    logs = list((tmp_path / "outputs/studies").glob("*/cells/*/*.log"))
    assert len(logs) == 4
    assert not any("TOP" in log.read_text() for log in logs)
