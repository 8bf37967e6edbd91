"""Running one cell of a study: a process of its own, watched, whose fate is written down whatever it is."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from charlab.configuration.overrides import quoted
from charlab.errors import UserError
from charlab.runs.record import FILE_NAME, Record
from charlab.studies.guard import end_with_parent
from charlab.studies.locks import cell_lock, held, is_held, sweep_lock
from charlab.studies.outcome import Fate, Outcome, log_path
from charlab.studies.plan import Cell, Plan
from charlab.studies.slots import Capacity, Slot, claim

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 15.0  # for a process that was asked to end, to close its files
END_OF_LOG = 1500  # characters
STOP_FILE = "stop"  # in the study's folder: no further cell is to be begun

Command = Callable[[Cell, Path], Sequence[str]]
"""From a cell and the folder of all outputs to the command that runs it."""


def train_command(cell: Cell, output_dir: Path) -> list[str]:
    """Returns the command that trains a cell's model."""
    return [sys.executable, "-m", "charlab.cell", *cell.overrides, f"output_dir={quoted(str(output_dir))}"]


def run_cell(
    study: Path,
    key: str,
    launcher: Mapping[str, Any] | None = None,
    *,
    command: Command = train_command,
) -> Outcome | None:
    """Runs a cell in a process of its own, waits for its end and writes down what became of it.

    Whatever the process does, this returns: a cell's death is an outcome, not an error.

    Args:
        study: the study's folder, which holds its plan.
        key: the cell's, "ARM/SEED".
        launcher: the configuration of the Hydra launcher that this is a job of. The cell then ends when the sweep does,
            except on a cluster. Without, there is no sweep, and one cell at a time.
        command: what runs the cell.

    Returns:
        the outcome, or None if the study was stopped, or its sweep was gone, before the cell was begun.

    Raises:
        UserError: if there is no such study or cell.
        KeyboardInterrupt: if this process was interrupted; the cell is ended first.
    """
    if multiprocessing.current_process().name.startswith("LokyProcess-"):
        end_with_parent()
    try:
        return _run_cell(study.resolve(), key, launcher, command)
    except Exception as error:
        print(f"The cell {key} could not be run: {error}", file=sys.stderr)  # launchers keep errors to themselves
        raise


def _run_cell(study: Path, key: str, launcher: Mapping[str, Any] | None, command: Command) -> Outcome | None:
    plan = Plan.load(study)
    cell = next((cell for cell in plan.cells if cell.key == key), None)
    if cell is None:
        raise UserError(f"The study in {study} has no cell {key}: give the study's command again.")
    capacity = Capacity.of(launcher or {})
    with held(cell_lock(study, cell)), claim(study, capacity.at_once, deal_gpus=not capacity.assigns_gpus) as slot:
        sweep = sweep_lock(study) if launcher is not None and not capacity.outlives_sweep else None
        if (study / STOP_FILE).exists() or (sweep is not None and not is_held(sweep)):
            return None
        output_dir = study.parents[1]
        attempt = _Attempt(study, cell, slot, output_dir / "runs" / cell.run)
        outcome = attempt.run(command(cell, output_dir), plan.time_limit, sweep)
        if plan.fail_fast and outcome.fate not in ("finished", "interrupted"):
            (study / STOP_FILE).touch()
        return outcome


@dataclass
class _Attempt:
    """One attempt at a cell."""

    study: Path
    cell: Cell
    slot: Slot
    run_folder: Path

    def run(self, command: Sequence[str], time_limit: float | None, sweep: Path | None) -> Outcome:
        self.started, self._clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        kills, record_before = _out_of_memory_kills(), self._record_time()
        with open(log_path(self.study, self.cell), "wb") as log:
            try:
                process = self._start(command, log)
            except OSError as error:
                return self._outcome("failed", f"The process could not be started: {error}.", None)
            try:
                self._outcome("running", "", process)
                fate, reason = self._wait(process, time_limit, sweep)
            except KeyboardInterrupt:
                _end(process, signal.SIGINT)
                self._outcome("interrupted", "Whoever ran the study interrupted it.", process)
                raise
            finally:
                _kill_rest(process)
        if fate == "finished":
            fate, reason = self._fate(process.returncode, record_before, kills)
        return self._outcome(fate, reason, process)

    def _start(self, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        # A study's cell is not a step of a SLURM job, which Lightning would take it for.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        inherited["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))  # a user's own models lie there
        inherited |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "PYTHONSAFEPATH": "1"}
        with _affinity(self.slot.cores):
            return subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,  # never written to: it closes when this process is gone (see guard.py)
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.slot.environment(inherited),
                start_new_session=True,
            )

    def _wait(self, process: subprocess.Popen[bytes], time_limit: float | None, sweep: Path | None) -> tuple[Fate, str]:
        """Waits for the process to end, or ends it; the fate is "finished" if it has ended by itself, in any way."""
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
            if sweep is not None and not is_held(sweep):
                _end(process, signal.SIGTERM)
                return "interrupted", "The process that ran the study is gone."

    def _fate(self, exit_code: int, record_before: int, kills: int) -> tuple[Fate, str]:
        """Returns what became of a process that ended by itself."""
        if exit_code < 0:
            reason = f"Killed by {_signal_name(-exit_code)}"
            if -exit_code == signal.SIGKILL and _out_of_memory_kills() > kills:
                reason += ", perhaps out of memory: the system has killed a process for that meanwhile"
            return "killed", f"{reason}."
        record = None
        with contextlib.suppress(UserError):
            record = Record.load(self.run_folder)
        if exit_code == 0 and record is not None and record.status == "finished":
            return "finished", ""
        if exit_code != 0 and record is not None and self._record_time() != record_before:
            if record.status == "diverged":
                return "diverged", record.error or ""
            if record.status == "failed" and record.error:
                return "failed", record.error
        log = self._end_of_log()
        if exit_code == 0 and record is None:
            return "failed", (
                f"{log}\nThe process ended, but left no run in {self.run_folder}: was the study planned on a "
                "machine with another kind of device? Then set trainer.precision."
            ).strip()
        last = f" Its last line: {log.splitlines()[-1]}" if log else ""  # all of it, for who sees the reason's end only
        return (
            "failed",
            f"{log}\nThe process ended with exit code {exit_code} before its run was finished.{last}".strip(),
        )

    def _outcome(self, fate: Fate, reason: str, process: subprocess.Popen[bytes] | None) -> Outcome:
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

    def _record_time(self) -> int:
        try:
            return (self.run_folder / FILE_NAME).stat().st_mtime_ns
        except OSError:
            return 0

    def _end_of_log(self) -> str:
        text = log_path(self.study, self.cell).read_text(encoding="utf-8", errors="replace")
        return text[-END_OF_LOG:].strip()


@contextlib.contextmanager
def _affinity(cores: Sequence[int]) -> Any:
    """Has processes that are started meanwhile run on these cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


def _end(process: subprocess.Popen[bytes], first: signal.Signals) -> None:
    """Asks a process and its children to end; kills them if they take too long or somebody is impatient."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, first)
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.wait(SECONDS_TO_END)
    _kill_rest(process)


def _kill_rest(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of a process and its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _out_of_memory_kills() -> int:
    """Returns how many processes of this machine the Linux kernel has killed for want of memory; 0 if unknown."""
    try:
        with open("/proc/vmstat", encoding="ascii") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
