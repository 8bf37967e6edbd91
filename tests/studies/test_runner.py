"""Whatever becomes of a cell's process is written down, and none outlives its watcher.

The processes are real; what they run replaces training.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from charlab.errors import UserError
from charlab.studies.definition import Arm
from charlab.studies.outcomes import STOP_FILE, Outcome, cell_path, sweeping
from charlab.studies.plan import Cell, Plan
from charlab.studies.runner import END_OF_LOG, Slot, run_cell, start_interpreter

WRITES_RECORD = """
import json, pathlib, sys
def record(status, error=None):
    folder = pathlib.Path({folder!r})
    folder.mkdir(parents=True, exist_ok=True)
    fields = {{"format": 1, "name": "n", "fingerprint": "f", "status": status, "error": error}}
    (folder / "record.json").write_text(json.dumps(fields))
"""


@pytest.fixture
def study(tmp_path):
    return tmp_path / "outputs" / "studies" / "example"


def save_plan(study, *, seeds=(1,), **changes):
    cells = tuple(Cell("arm", seed, f"run/{seed}", (f"seed={seed}",)) for seed in seeds)
    plan = Plan(
        name="example",
        hypothesis="",
        baseline="arm",
        arms=(Arm("arm", ()),),
        cells=cells,
        seeds=tuple(seeds),
        planned_seeds=len(seeds),
        **changes,
    )
    plan.save(study)
    return plan


def program(source):
    """Start cells whose process runs this source; it can call `record(status)`."""

    def start(file, log, slot):
        folder = file.parents[4] / "runs" / "run" / file.stem
        command = [sys.executable, "-S", "-c", WRITES_RECORD.format(folder=str(folder)) + textwrap.dedent(source)]
        return start_interpreter(file, log, slot, command)

    return start


def fate_of(study, source, **changes):
    plan = save_plan(study, **changes)
    outcome = run_cell(study, "arm/1", start=program(source))
    assert Outcome.load(study, plan.cells[0]) == outcome
    return outcome


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"  # nobody may have reaped it


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)
    return found


def test_finished(study):
    outcome = fate_of(study, "record('finished')")
    assert (outcome.fate, outcome.reason, outcome.exit_code) == ("finished", "", 0)
    assert outcome.seconds > 0
    assert outcome.process


def test_an_exception_is_told_with_its_traceback(study):
    outcome = fate_of(study, "raise ValueError('the sizes do not fit')")
    assert outcome.fate == "failed"
    assert outcome.exit_code == 1
    assert "ValueError: the sizes do not fit" in outcome.reason


def test_an_exception_that_the_record_tells(study):
    outcome = fate_of(study, "record('failed', 'The end of a traceback'); sys.exit(1)")
    assert (outcome.fate, outcome.reason) == ("failed", "The end of a traceback")


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_before_the_run_is_finished(study, code):
    outcome = fate_of(study, f"record('running'); print('so far'); sys.exit({code})")
    assert (outcome.fate, outcome.exit_code) == ("failed", code)
    assert f"exit code {code}" in outcome.reason
    assert "so far" in outcome.reason


@pytest.mark.parametrize("code", [130, 143])
def test_a_process_that_was_asked_to_end(study, code):
    outcome = fate_of(study, f"record('running'); sys.exit({code})")
    assert (outcome.fate, outcome.exit_code) == ("interrupted", code)


def test_a_run_left_elsewhere_is_not_finished(study):
    outcome = fate_of(study, "pass")
    assert outcome.fate == "failed"
    assert "left no run in" in outcome.reason


def test_divergence(study):
    outcome = fate_of(study, "record('diverged', 'The loss became nan at step 7'); sys.exit(1)")
    assert (outcome.fate, outcome.reason) == ("diverged", "The loss became nan at step 7")


def test_a_record_of_an_earlier_attempt_does_not_explain_this_one(study):
    fate_of(study, "record('diverged', 'The loss became nan'); sys.exit(1)")
    outcome = fate_of(study, "raise ImportError('no such module')")
    assert outcome.fate == "failed"
    assert "no such module" in outcome.reason


def test_killed_by_a_signal(study):
    outcome = fate_of(study, "import os; os.kill(os.getpid(), 9)")
    assert (outcome.fate, outcome.exit_code) == ("killed", -signal.SIGKILL)
    assert "SIGKILL" in outcome.reason
    assert "memory" not in outcome.reason


def test_a_kill_for_want_of_memory_is_suspected(study, monkeypatch):
    counts = iter([4, 5])
    monkeypatch.setattr("charlab.studies.runner._out_of_memory_kills", lambda: next(counts))
    outcome = fate_of(study, "import os; os.kill(os.getpid(), 9)")
    assert outcome.fate == "killed"
    assert "perhaps out of memory" in outcome.reason


def test_more_memory_than_there_is(study):
    outcome = fate_of(
        study,
        """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
        bytearray(2**30)
        """,
    )
    assert outcome.fate == "failed"
    assert "MemoryError" in outcome.reason


def test_the_time_limit_ends_even_who_does_not_want_to(study, monkeypatch):
    monkeypatch.setattr("charlab.studies.runner.SECONDS_TO_END", 0.2)
    outcome = fate_of(
        study,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        time_limit=0.5,
    )
    assert (outcome.fate, outcome.exit_code) == ("timed out", -signal.SIGKILL)
    assert "0.5 seconds" in outcome.reason
    assert outcome.seconds < 30


def test_a_program_that_is_not_there(study):
    save_plan(study)
    outcome = run_cell(study, "arm/1", start=lambda *given: start_interpreter(*given, ["/no/such/program"]))
    assert outcome.fate == "failed"
    assert "/no/such/program" in outcome.reason


def test_nothing_is_left_of_its_children(study):
    fate_of(
        study,
        """
        import subprocess
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        print(child.pid)
        record("finished")
        """,
    )
    child = int(cell_path(study, Plan.load(study).cells[0], ".log").read_text())
    wait_for(lambda: not is_alive(child))


def test_an_unknown_cell_and_an_unknown_study(study, capsys):
    save_plan(study)
    with pytest.raises(UserError, match="no cell arm/2"):
        run_cell(study, "arm/2")
    assert "The cell arm/2 could not be run" in capsys.readouterr().err
    with pytest.raises(UserError, match="no study"):
        run_cell(study.parent / "other", "arm/1")


def test_a_run_is_found_where_the_folder_of_studies_is_a_link(study, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    study.parents[1].mkdir()
    study.parent.symlink_to(tmp_path / "elsewhere")
    save_plan(study)

    def start(file, log, slot):
        source = WRITES_RECORD.format(folder=str(study.parents[1] / "runs" / "run" / "1")) + "record('finished')"
        return start_interpreter(file, log, slot, [sys.executable, "-S", "-c", source])

    assert run_cell(study, "arm/1", start=start).fate == "finished"


def test_one_failure_does_not_stop_the_others(study):
    save_plan(study, seeds=(1, 2))
    assert run_cell(study, "arm/1", start=program("sys.exit(1)")).fate == "failed"
    assert run_cell(study, "arm/2", start=program("record('finished')")).fate == "finished"


def test_fail_fast_keeps_the_others_from_beginning(study):
    plan = save_plan(study, seeds=(1, 2), fail_fast=True)
    assert run_cell(study, "arm/1", start=program("sys.exit(1)")).fate == "failed"
    assert (study / STOP_FILE).exists()
    assert run_cell(study, "arm/2", start=program("record('finished')")) is None
    assert Outcome.load(study, plan.cells[1]) is None


def test_a_finished_cell_does_not_stop_the_others(study):
    save_plan(study, seeds=(1, 2), fail_fast=True)
    run_cell(study, "arm/1", start=program("record('finished')"))
    assert run_cell(study, "arm/2", start=program("record('finished')")).fate == "finished"


SEES = "import os; print(sorted(os.sched_getaffinity(0)), os.environ.get('OMP_NUM_THREADS')); record('finished')"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin processes")
def test_a_cell_sees_its_share_of_the_cores(study, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = sorted(os.sched_getaffinity(0))
    plan = save_plan(study)
    run_cell(study, "arm/1", Slot(1, (cores[0],)), start=program(SEES))
    assert cell_path(study, plan.cells[0], ".log").read_text() == f"[{cores[0]}] 1\n"
    run_cell(study, "arm/1", start=program(SEES))
    assert cell_path(study, plan.cells[0], ".log").read_text() == f"{cores} None\n"
    assert sorted(os.sched_getaffinity(0)) == cores


def test_the_environment_of_a_slot():
    environment = Slot(2, (2, 3), "1").environment(
        {"PATH": "here", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    )
    assert environment == {
        "PATH": "here",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    assert "CUDA_VISIBLE_DEVICES" not in Slot(1).environment({})
    assert set(Slot(3).environment({"OMP_NUM_THREADS": "2"}).values()) == {"2"}


def test_a_cell_is_no_step_of_a_slurm_job(study, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    source = "import os; record('finished'); sys.exit(any(name.startswith('SLURM') for name in os.environ))"
    assert fate_of(study, source).fate == "finished"


def test_modules_that_can_be_imported_here_can_be_imported_there(study, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_model.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    assert fate_of(study, "import my_model; record('finished')").fate == "finished"


WORKER = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell turns off for what it starts in the background
import sys
from pathlib import Path
from charlab.studies import runner
runner.SECONDS_TO_END = 2.0
start = lambda *given: runner.start_interpreter(*given, [sys.executable, "-c", sys.argv[2]])
runner.run_cell(Path(sys.argv[1]), "arm/1", start=start)
"""
ENDS_WITH_WATCHER = (
    "from charlab.studies.cell import exit_with_watcher; exit_with_watcher(); import time; time.sleep(60)"
)


@pytest.fixture
def worker(study):
    """A process that runs a cell which takes a minute."""
    plan = save_plan(study)
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(study), ENDS_WITH_WATCHER], stderr=subprocess.DEVNULL)
    wait_for(lambda: (outcome := Outcome.load(study, plan.cells[0])) and outcome.fate == "running")
    time.sleep(0.2)  # for the cell's interpreter to start
    yield process
    process.kill()
    process.wait()


def test_a_cell_ends_when_its_worker_is_killed(study, worker):
    cell = Plan.load(study).cells[0]
    running = Outcome.load(study, cell)
    assert is_alive(running.process)
    worker.kill()
    worker.wait()
    wait_for(lambda: not is_alive(running.process))
    outcome = Outcome.load(study, cell)
    assert (outcome.fate, outcome.process) == ("interrupted", running.process)
    assert "gone" in outcome.reason


@pytest.mark.slow
def test_an_interrupted_worker_ends_its_cell(study, worker):
    cell = Plan.load(study).cells[0]
    running = Outcome.load(study, cell)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(10) != 0
    assert not is_alive(running.process)
    outcome = Outcome.load(study, cell)
    assert outcome.fate == "interrupted"
    assert json.loads((study / "cells" / "arm" / "1.json").read_text())["fate"] == "interrupted"


def test_a_cell_is_ended_from_another_thread(study, monkeypatch):
    plan = save_plan(study)
    monkeypatch.setattr("charlab.studies.runner.SECONDS_BETWEEN_LOOKS", 0.05)
    outcomes, stopped = [], threading.Event()
    sleep = program("import time; time.sleep(60)")
    thread = threading.Thread(target=lambda: outcomes.append(run_cell(study, "arm/1", start=sleep, stopped=stopped)))
    thread.start()
    wait_for(lambda: (outcome := Outcome.load(study, plan.cells[0])) and outcome.fate == "running")
    stopped.set()
    thread.join(60)  # a process that is asked to end while it starts is killed after a while
    assert (outcomes[0].fate, outcomes[0].reason) == ("interrupted", "The study was interrupted.")
    assert not is_alive(outcomes[0].process)
    assert run_cell(study, "arm/1", start=program("record('finished')"), stopped=stopped) is None


def test_one_sweep_at_a_time(study, monkeypatch):
    monkeypatch.setattr("charlab.studies.outcomes.SECONDS_TO_PROBE", 0.1)
    with sweeping(study), pytest.raises(UserError, match="Another process"), sweeping(study):
        pass
    with sweeping(study):
        pass


def test_only_the_end_of_a_long_log_is_read(study):
    reason = fate_of(study, "print('x' * 2_000_000); print('Step 7'); sys.exit(3)").reason
    assert set(reason.splitlines()[0]) == {"x"}
    assert reason.endswith("Its last line: Step 7")
    assert len(reason) < 2 * END_OF_LOG


def test_a_log_that_was_removed_is_no_error(study):
    log = study / "cells" / "arm" / "1.log"
    outcome = fate_of(study, f"import os; os.remove({str(log)!r}); sys.exit(3)")
    assert outcome.fate == "failed"
    assert outcome.reason == "The process ended with exit code 3 before its run was finished."


def test_a_reason_ends_with_what_happened_not_with_what_was_printed_before(study):
    reason = fate_of(study, "print('Step 7'); sys.exit(3)").reason
    expected = "The process ended with exit code 3 before its run was finished. Its last line: Step 7"
    assert reason.splitlines() == ["Step 7", expected]
