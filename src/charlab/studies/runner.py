"""Run one cell of a study in its own process, wait for it to end, and record its outcome however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import IO, Any, Protocol

from charlab.errors import UserError
from charlab.runs.record import FILE_NAME
from charlab.runs.store import Store
from charlab.studies.outcomes import STOP_FILE, Fate, Outcome, cell_path, held
from charlab.studies.plan import Cell, Plan

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 15.0  # grace period after a signal, for a process to save and close its files
END_OF_LOG = 1500  # characters
ASKED_TO_END = (130, 143)  # exit codes after SIGINT and SIGTERM, once the run has saved its progress
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """A share of a machine for one cell at a time.

    Attributes:
        threads: most threads that a cell may compute with; None for one per core of the machine.
        cores: the cores to run on; empty to let the operating system choose.
        gpus: value of `CUDA_VISIBLE_DEVICES`; None to leave it unchanged.
    """

    threads: int | None = None
    cores: tuple[int, ...] = ()
    gpus: str | None = None

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables of a process in this slot, based on `base`.

        Lower thread limits in `base` are kept; OpenMP's limit applies to libraries without one of their own.
        """
        variables = dict(base)
        if self.threads is not None:
            given = {name: int(base[name]) for name in THREAD_VARIABLES if base.get(name, "").isdigit()}
            most = min(self.threads, given.get("OMP_NUM_THREADS", self.threads))
            variables |= {name: str(min(most, given.get(name, most))) for name in THREAD_VARIABLES}
        if self.gpus is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.gpus
        return variables


class Process(Protocol):
    """A started process that leads its process group; the part of `subprocess.Popen` that the runner needs."""

    pid: int
    returncode: int | Any

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raise `subprocess.TimeoutExpired` after `timeout` seconds."""


Start = Callable[[Path, IO[bytes], Slot], Process]
"""A function that starts a cell's process, given the cell's file, a log for the output, and a share of the machine."""


def start_interpreter(file: Path, log: IO[bytes], slot: Slot, command: Sequence[str] = ()) -> Process:
    """Start a cell in a new Python interpreter; `command` replaces `python -m charlab.studies.cell FILE`."""
    return subprocess.Popen(
        list(command) or [sys.executable, "-m", "charlab.studies.cell", str(file)],
        stdin=subprocess.PIPE,  # never written to: it closes when this process ends, and the cell then exits
        stdout=log,
        stderr=subprocess.STDOUT,
        env=cell_environment(slot),
        start_new_session=True,
    )


def cell_environment(slot: Slot) -> dict[str, str]:
    """Return the environment variables of a cell's process."""
    # Without SLURM's variables, Lightning would take a cell inside a SLURM job for one of the job's tasks.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    inherited["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))  # for the user's own modules
    inherited |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONSAFEPATH": "1"}
    return slot.environment(inherited)


def run_cell(
    study: Path,
    key: str,
    slot: Slot | None = None,
    *,
    start: Start = start_interpreter,
    stopped: Event | None = None,
    plan: Plan | None = None,
) -> Outcome | None:
    """Run a cell in its own process, wait for it to end, and record its outcome, however it ends.

    Args:
        slot: the cell's share of this machine; by default, the whole machine.
        stopped: event that ends the cell when it is set from another thread.
        plan: the study's plan, if the caller has it; it is read from the study's folder otherwise.

    Returns:
        The outcome, or None if the study was stopped before the cell began.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the cell has ended.
    """
    try:
        study = study.absolute()  # links are kept: next to the folder that one of them leads to are no runs
        plan = plan or Plan.load(study)
        try:
            cell = plan.cell(key)
        except KeyError:
            raise UserError(f"The study in {study} has no cell {key}: run the study's command again.") from None
        with held(cell_path(study, cell, ".lock")):
            if (study / STOP_FILE).exists() or (stopped is not None and stopped.is_set()):
                return None
            outcome = _Attempt(study, cell, slot or Slot(), start, stopped).run(plan.time_limit)
            if plan.fail_fast and outcome.fate not in ("finished", "interrupted"):
                (study / STOP_FILE).touch()
            return outcome
    except Exception as error:
        print(f"The cell {key} could not be run: {error}", file=sys.stderr)  # visible in the log of a cluster job
        raise


@dataclass
class _Attempt:
    """One attempt to run a cell."""

    study: Path
    cell: Cell
    slot: Slot
    start: Start
    stopped: Event | None

    def run(self, time_limit: float | None) -> Outcome:
        self.store = Store(self.study.parents[1])
        self.started, self._clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        kills, record_before = _out_of_memory_kills(), self._record_time()
        with open(self._path(".log"), "wb") as log:
            try:
                with _affinity(self.slot.cores):
                    process = self.start(self._path(".yaml"), log, self.slot)
            except OSError as error:
                if self.stopped is not None and self.stopped.is_set():
                    return self._outcome("interrupted", "The study was interrupted.", None)
                return self._outcome("failed", f"The process could not be started: {error}.", None)
        self._clock = time.monotonic()  # started here: `start` may have had to start a fork server first
        try:
            self._outcome("running", "", process)
            fate, reason = self._wait(process, time_limit)
        except KeyboardInterrupt:
            _end(process, signal.SIGINT)
            self._outcome("interrupted", "The study was interrupted.", process)
            raise
        finally:
            _kill_rest(process)
        if fate == "finished":
            fate, reason = self._fate(process.returncode, record_before, kills)
        return self._outcome(fate, reason, process)

    def _wait(self, process: Process, time_limit: float | None) -> tuple[Fate, str]:
        """Wait until the process ends, or end it; return "finished" if it ended on its own, even with an error."""
        while True:
            left = SECONDS_BETWEEN_LOOKS
            if time_limit is not None:
                left = min(left, self._clock + time_limit - time.monotonic())
            try:
                process.wait(max(left, 0.0))
                return "finished", ""
            except subprocess.TimeoutExpired:
                pass
            if time_limit is not None and time.monotonic() >= self._clock + time_limit:
                _end(process, signal.SIGTERM)
                return "timed out", f"It took longer than the study's time limit of {time_limit:g} seconds."
            if self.stopped is not None and self.stopped.is_set():
                _end(process, signal.SIGINT)
                return "interrupted", "The study was interrupted."

    def _fate(self, exit_code: int, record_before: int, kills: int) -> tuple[Fate, str]:
        """Return the fate of a process that ended on its own."""
        if exit_code < 0:
            known = {number.value: number.name for number in signal.Signals}
            reason = f"Killed by {known.get(-exit_code, f'signal {-exit_code}')}"
            if -exit_code == signal.SIGKILL and _out_of_memory_kills() > kills:
                reason += ", perhaps out of memory: the system killed a process for that at the same time"
            return "killed", f"{reason}."
        if exit_code in ASKED_TO_END:
            return "interrupted", f"The process was asked to end (exit code {exit_code}); it resumes where it stopped."
        record = self.store.record_of(self.cell.run)
        if exit_code == 0 and record is not None and record.status == "finished":
            return "finished", ""
        if exit_code != 0 and record is not None and self._record_time() != record_before:
            if record.status == "diverged":
                return "diverged", record.error or ""
            if record.status == "failed" and record.error:
                return "failed", record.error
        log = _end_of(self._path(".log"))
        last = f" Its last line: {log.splitlines()[-1]}" if log else ""  # often only a reason's last line is shown
        why = f"The process ended with exit code {exit_code} before its run was finished.{last}"
        if exit_code == 0 and record is None:
            why = f"The process ended, but left no run in {self.store.folder(self.cell.run)}."
        return "failed", f"{log}\n{why}".strip()

    def _outcome(self, fate: Fate, reason: str, process: Process | None) -> Outcome:
        outcome = Outcome(
            fate=fate,
            reason=reason,
            seconds=round(time.monotonic() - self._clock, 3),
            exit_code=None if process is None else process.returncode,
            host=socket.gethostname(),
            process=None if process is None else process.pid,
            started=self.started,
        )
        outcome.save(self.study, self.cell)
        return outcome

    def _path(self, suffix: str) -> Path:
        return cell_path(self.study, self.cell, suffix)

    def _record_time(self) -> int:
        try:
            return (self.store.folder(self.cell.run) / FILE_NAME).stat().st_mtime_ns
        except OSError:
            return 0


def _end_of(log: Path) -> str:
    """Return the last lines of a log, without reading the rest, which may be larger than memory; "" if it is gone."""
    try:
        with log.open("rb") as file:
            file.seek(-min(file.seek(0, os.SEEK_END), 4 * END_OF_LOG), os.SEEK_END)  # a character has up to 4 bytes
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines)[-END_OF_LOG:].strip()


@contextlib.contextmanager
def _affinity(cores: Sequence[int]) -> Iterator[None]:
    """Pin this thread and the processes that it starts to these cores, if there are any, while the block runs."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


def _end(process: Process, first: signal.Signals) -> None:
    """Send a signal to a process and its children; kill them after a timeout or on a second Ctrl-C."""
    _signal_group(process, first)
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(SECONDS_TO_END)
    _kill_rest(process)


def _kill_rest(process: Process) -> None:
    """Kill what remains of a process and its children."""
    _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    if isinstance(process, subprocess.Popen) and process.stdin is not None:
        process.stdin.close()


def _signal_group(process: Process, number: signal.Signals) -> None:
    """Send a signal to a process and its children; on Windows, which has no process groups, end the process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended; macOS forbids it for a zombie
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, signal.SIGTERM)


def _out_of_memory_kills() -> int:
    """Return how many processes the kernel's out-of-memory killer has killed on this machine (Linux); 0 if unknown."""
    try:
        with open("/proc/vmstat", encoding="ascii") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
