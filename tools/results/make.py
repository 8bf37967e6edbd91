"""Make what is missing or stale: repeat the first points of a stale run, or train it, and keep it at once."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from charlab.errors import UserError
from charlab.quantities import count, duration
from charlab.runs.record import Record
from charlab.runs.requalify import Repetition, record_requalification, repeat
from charlab.runs.store import neighbors
from tools import read_json, write_json
from tools.results.states import State, has_figure
from tools.results.wanted import Wanted

ROUNDING = 1e-3  # relative; smaller differences from another machine's record may be accumulated rounding
LOG, UNSETTLED = "results.log", "unsettled.json"  # in the output folder

Keep = Callable[[Path, Path, Record | None], Record]
"""A function that adds a run's folder to an archive, in place of an earlier record, and returns the record."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which runs to make.

    Attributes:
        only: patterns of names or groups; empty for all.
        seconds: start nothing that is not expected to end within that time; None for no limit.
        requalify: whether to repeat the first points of stale runs before training them again.
        unsettled: whether to train runs again that differ little from the records of another machine.
    """

    only: Sequence[str] = ()
    seconds: float | None = None
    requalify: bool = True
    unsettled: bool = False

    def takes(self, state: State) -> bool:
        """Return whether a run is not current and is among the requested ones."""
        names = (state.wanted.name, state.wanted.group)
        asked = not self.only or any(fnmatch.fnmatch(name, pattern) for name in names for pattern in self.only)
        return asked and state.status != "current"


@dataclass
class Maker:
    """Make runs in the order of the list.

    Args:
        records: folder of the archive.
        output_dir: folder in which runs train; an unfinished run in it is resumed.
        keep: function that adds a finished run to the archive.
        program: the command that starts charlab.
    """

    records: Path
    output_dir: Path
    keep: Keep
    program: Sequence[str] = (sys.executable, "-m", "charlab")
    failed: int = field(default=0, init=False)

    def make(self, states: Sequence[State], choice: Choice) -> None:
        """Make every run that is chosen, and print a line for each. A run that fails does not stop the others."""
        deadline = None if choice.seconds is None else time.monotonic() + choice.seconds
        for state in filter(choice.takes, states):
            try:
                print(f"{state.wanted}: {self._made(state, choice, deadline)}", flush=True)
            except FailedError as error:
                self.failed += 1
                print(f"{state.wanted} failed: {error}", file=sys.stderr, flush=True)

    def unsettled(self, state: State) -> str | None:
        """Return by how much a run differs from the record of another machine, if so little that it may be rounding."""
        return read_json(self.output_dir / UNSETTLED).get(_key(state)) if state.status == "stale" else None

    def _made(self, state: State, choice: Choice, deadline: float | None) -> str:
        known = self.unsettled(state)
        if state.status == "stale" and state.is_same_run and choice.requalify and known is None:
            said, known = self._requalified(state)
            if said is not None:
                return said
        if known is not None and not choice.unsettled:
            return f"not settled on this machine, {known}; --unsettled trains it again."
        if deadline is not None and (state.seconds is None or time.monotonic() + state.seconds > deadline):
            expected = "an unknown time" if state.seconds is None else duration(state.seconds)
            return f"left for later, as it takes {expected}."
        return self._trained(state)

    def _requalified(self, state: State) -> tuple[str | None, str | None]:
        """Return a sentence if the record holds for today's code, else None; and the difference, if it is small."""
        assert state.record is not None
        record, run = state.record, state.wanted
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the repetition prints like a run
                repetition = repeat(self.records / record.name / record.fingerprint)
        except UserError:  # there is nothing to repeat, or it cannot be repeated
            return None, None
        if (repetition.identity.fingerprint, repetition.identity.code) != (run.fingerprint, run.code):
            return None, None
        if not repetition.differing:
            record_requalification(repetition)
            how = "to the last digit" if repetition.on_same_machine else "up to rounding"
            return f"today's code repeats its first {count(len(repetition.values), 'value')} {how}.", None
        if repetition.on_same_machine or repetition.first_difference > ROUNDING:
            return None, None
        file = self.output_dir / UNSETTLED
        known = read_json(file) | {_key(state): _difference(repetition)}
        write_json(file, known)
        return None, known[_key(state)]

    def _trained(self, state: State) -> str:
        began = time.monotonic()
        kept = self.keep(self.finish(state.wanted).folder, self.records, state.record)
        return f"{kept.metric('blocks')['nll']:.4f}, kept after {duration(time.monotonic() - began)}."

    def finish(self, run: Wanted) -> Record:
        """Train or resume a run in the output folder, and return its record with all figures.

        Raises:
            FailedError: if it fails.
        """
        record = self.train(run)
        for figure in run.figures:
            if not has_figure(record, figure):
                self._charlab("evaluate", f"run={record.folder}", *f"protocol={figure}".split())
        return Record.load(record.folder)

    def train(self, run: Wanted, *more: str) -> Record:
        """Train a run, as `finish`, and return its record; `more` are further overrides."""
        self._charlab("train", *run.overrides, f"output_dir={self.output_dir}", *more)
        home = self.output_dir.absolute() / "runs" / run.name / run.fingerprint
        found = [record for record in neighbors(home) if record.status == "finished" and record.is_by(run.code)]
        if not found:
            raise FailedError(f"there is no run {run.key} by today's code in {self.output_dir}.")
        return found[-1]

    def _charlab(self, *arguments: str) -> None:
        """Run a charlab command in its own process, with its output in the log.

        Raises:
            FailedError: if it fails; the last line that it printed is the message.
        """
        log = self.output_dir / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            begin = file.tell()
            # In its own session, so that Ctrl-C reaches only this process, which lets the run save its progress.
            process = subprocess.Popen(
                [*self.program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
            try:
                process.wait()
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if process.returncode != 0:
            with log.open("rb") as file:
                file.seek(begin)
                lines = file.read().decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
            raise FailedError(f"{last} (exit code {process.returncode}; all of it is in {log})")


class FailedError(UserError):
    """Raised when a run could not be made; the message says why."""


def _key(state: State) -> str:
    return f"{state.wanted.key} {state.wanted.code}"


def _difference(repetition: Repetition) -> str:
    step, metric = repetition.differing[0]
    return f"where {metric} at step {step} differs by {repetition.first_difference:.1e} from another machine's"


def table(states: Sequence[State], maker: Maker) -> str:
    """Return a table of the groups: how many runs are current, stale and missing, and how long making them takes."""
    lines = [f"{'':<40}{'current':>8}{'stale':>8}{'missing':>8}{'to make':>12}"]
    groups = list(dict.fromkeys(state.wanted.group for state in states))
    for group in [*groups, ""]:
        some = [state for state in states if group in ("", state.wanted.group)]
        statuses = [state.status for state in some]
        lacking = [state for state in some if state.status != "current" and maker.unsettled(state) is None]
        unknown = any(state.seconds is None for state in lacking)
        total = sum(state.seconds or 0.0 for state in lacking)
        time_to_make = f"{'> ' if unknown else ''}{duration(total)}" if lacking else "–"
        numbers = "".join(f"{statuses.count(status):>8}" for status in ("current", "stale", "missing"))
        lines.append(f"{group or 'all':<40}{numbers}{time_to_make:>12}")
    if number := sum(maker.unsettled(state) is not None for state in states):
        lines.append(f"{count(number, 'stale run')} not settled on this machine: only rounding may differ.")
    return "\n".join(lines)
