"""Show a study on the terminal: its progress while cells run, and a summary at the end."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from charlab.command import command
from charlab.curves import FILE_NAME as CURVES
from charlab.notebook import Live as AnyLive
from charlab.notebook import NotebookLive
from charlab.quantities import clock, count
from charlab.runs.folder import events_folder
from charlab.studies.cell import read_cell
from charlab.studies.definition import SHORTENED
from charlab.studies.outcomes import Outcome, cell_path, last_line
from charlab.studies.plan import Cell
from charlab.studies.state import StudyResults

SECONDS_BETWEEN_LOOKS = 0.5
MOST_SHOWN = 4  # running cells
PAUSE = 20  # times as long as a look at the cells takes, which is slow with thousands of them
STYLES = {
    "finished": "green",
    "missing": "dim",
    "running": "cyan",
    "interrupted": "yellow",
    "held back": "cyan",
    "not needed": "dim",
}


@contextmanager
def showing(study: Path, cells: Sequence[Cell], console: Console) -> Iterator[Progress]:
    """Show the progress of cells while the block runs: a bar on a terminal or in a notebook, else a line per cell.

    Progress is read from the study's folder, so the cells may run on any machine.
    """
    progress = Progress(study, cells)
    draws = console.is_terminal and not console.is_dumb_terminal
    live: AnyLive | None = None
    if console.is_jupyter:
        live = NotebookLive(progress.state)
    elif draws:
        live = Live(get_renderable=progress.bar, console=console, auto_refresh=False, transient=True)
    stopped = threading.Event()

    def watch() -> None:
        while True:
            last, since = stopped.is_set(), time.perf_counter()
            for cell, outcome in progress.look():
                if live is None or outcome.fate != "finished":
                    console.print(progress.line(cell, outcome), markup=False, highlight=False, soft_wrap=True)
            if live is not None:
                live.refresh()
            if last:
                return
            stopped.wait(max(SECONDS_BETWEEN_LOOKS, PAUSE * (time.perf_counter() - since)))

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    if live is not None:
        live.start()
    thread.start()
    try:
        yield progress
    finally:
        stopped.set()
        thread.join()
        if live is not None:
            live.stop()


class Progress:
    """Track the progress of a study's cells from the creation of this object."""

    def __init__(self, study: Path, cells: Sequence[Cell]) -> None:
        self.study, self.cells = study, cells
        self._former = {cell: Outcome.load(study, cell) for cell in cells}
        self._started = time.monotonic()
        self._running_since: dict[Cell, float] = {}
        self._most_at_once = 1
        self._budgets: dict[Cell, tuple[float, float]] = {}
        self.ended: dict[Cell, Outcome] = {}

    def look(self) -> list[tuple[Cell, Outcome]]:
        """Read the outcomes again and return the new ones."""
        new = []
        for cell in self.cells:
            if cell in self.ended:
                continue
            outcome = Outcome.load(self.study, cell)
            if outcome is None or outcome == self._former[cell]:
                continue
            if outcome.fate == "running":
                self._running_since.setdefault(cell, time.monotonic())
                continue
            self._running_since.pop(cell, None)
            self.ended[cell] = outcome
            new.append((cell, outcome))
        self._most_at_once = max(self._most_at_once, len(self._running_since))
        return new

    @property
    def running(self) -> list[Cell]:
        """The cells that are running."""
        return list(self._running_since)

    @property
    def failed(self) -> int:
        """The number of cells that ended without a result."""
        return sum(outcome.fate != "finished" for outcome in self.ended.values())

    def seconds_left(self) -> float | None:
        """Estimate the remaining time from the finished cells; return None before the first has finished."""
        took = {cell: outcome.seconds for cell, outcome in self.ended.items() if outcome.fate == "finished"}
        now = time.monotonic()
        left = {cell: 0.0 for cell in self.cells if cell not in self.ended}
        left |= {cell: now - since for cell, since in self._running_since.items()}
        return seconds_left(took, left, self._most_at_once)

    def line(self, cell: Cell, outcome: Outcome) -> str:
        """Return the line for a cell that has ended."""
        why = f" ({reason})" if (reason := last_line(outcome.reason)) else ""
        took = f" after {clock(outcome.seconds)}" if outcome.exit_code is not None else ""  # else unknown
        return "  ".join([self._count, f"{cell.key} {outcome.fate}{took}{why}", *self._left()])

    def state(self) -> tuple[float, str]:
        """Return the share of the cells that have ended, and a line for a notebook."""
        running = f"running: {', '.join(cell.key for cell in self.running)}" if self.running else ""
        parts = [f"{self._count} cells", f"{self.failed} failed" if self.failed else "", running, *self._left()]
        return len(self.ended) / max(1, len(self.cells)), "  ·  ".join(filter(None, parts))

    def bar(self) -> RenderableType:
        """Return the progress bar for a terminal."""
        counts = [f"{len(self.ended) - self.failed} done", f"{len(self._running_since)} running"]
        counts += [f"{self.failed} failed"] if self.failed else []
        times = [clock(time.monotonic() - self._started), *self._left()]
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=max(1, len(self.cells)), completed=len(self.ended))
        grid.add_row(Text(f"{self._count} cells", style="bold"), bar, Text("  ".join(times)))
        lines = [", ".join(counts), *(f"  {cell.key}  {self._doing(cell)}" for cell in self.running[:MOST_SHOWN])]
        more = len(self.running) - MOST_SHOWN
        lines += [f"  and {more} more"] if more > 0 else []
        return Group(grid, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _doing(self, cell: Cell) -> str:
        """Return the last logged step of a running cell, and its remaining training time."""
        logged = _last_logged(self.study.parents[1] / "runs" / cell.run / CURVES)
        if logged is None:
            return "starting"
        if cell not in self._budgets:
            config: dict[str, Any] = {}
            with contextlib.suppress(OSError):  # a file that is out of reach must not end the study
                config = read_cell(cell_path(self.study, cell, ".yaml"))["config"]
            steps, most = (
                (config.get(part) or {}).get(key) for part, key in (("trainer", "max_steps"), ("budget", "max_seconds"))
            )
            self._budgets[cell] = (steps if steps and steps > 0 else math.inf, most or math.inf)
        step, seconds = logged
        steps, most = self._budgets[cell]
        left = min(seconds * (steps - step) / step if step else math.inf, most - seconds)
        return f"step {step:,}" + (f"  {clock(max(0.0, left))} left" if math.isfinite(left) else "")

    @property
    def _count(self) -> str:
        return f"{len(self.ended)}/{len(self.cells)}"

    def _left(self) -> list[str]:
        seconds = self.seconds_left()
        return [f"{clock(seconds)} left"] if seconds else []


def _last_logged(metrics: Path) -> tuple[int, float] | None:
    """Return the step and the training clock of the last measurement in a file; None if there is none."""
    try:
        with metrics.open("rb") as file:
            file.seek(-min(file.seek(0, os.SEEK_END), 1000), os.SEEK_END)
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError, IndexError):  # half a line, or the header
            fields = line.split(b",")
            if line.endswith(b"\n"):
                return int(fields[0]), float(fields[2])
    return None


def seconds_left(took: Mapping[Cell, float], left: Mapping[Cell, float], at_once: int) -> float | None:
    """Estimate how long the remaining cells will take.

    Args:
        took: duration of each finished cell in seconds; an arm without finished cells counts as an average arm.
        left: seconds that each remaining cell has been running so far.

    Returns:
        Seconds, or None if no cell has finished.
    """
    if not took:
        return None
    by_arm: dict[str, list[float]] = defaultdict(list)
    for cell, seconds in took.items():
        by_arm[cell.arm].append(seconds)
    means = {arm: statistics.fmean(seconds) for arm, seconds in by_arm.items()}
    average = statistics.fmean(took.values())
    expected = [max(0.0, means.get(cell.arm, average) - since) for cell, since in left.items()]
    return max([sum(expected) / at_once, *expected]) if expected else 0.0


def print_cells(results: StudyResults, todo: Sequence[Cell], at_once: int, console: Console) -> None:
    """Print the state of every cell, and an estimate of how long the cells in `todo` will take, `at_once` at a time."""
    table = Table("arm", "seed", "status", "run", box=None, pad_edge=False)
    due = {cell.key for cell in todo}
    for result in results.cells:
        notes = [note for note, holds in (("older code", result.older), ("to run", result.cell.key in due)) if holds]
        status = f"[{STYLES.get(result.status, 'red')}]{result.status}[/]" + "".join(f", {note}" for note in notes)
        table.add_row(escape(result.cell.arm), str(result.cell.seed), status, escape(result.cell.run))
    console.print(table)
    for arm in results.plan.arms:
        if SHORTENED.search(arm.name):
            values = ", ".join(f"{key}={value}" for key, value in arm.factors.items())
            console.print(f"{arm.name}: {values}", markup=False, highlight=False, soft_wrap=True)
    _print_notes(results, console)
    plan = results.plan
    cells = f"{count(len(plan.cells), 'cell')}: {count(len(plan.arms), 'arm')} × {count(len(plan.seeds), 'seed')}"
    took = {result.cell: result.seconds for result in results.cells if result.status == "finished" and result.seconds}
    seconds = seconds_left(took, dict.fromkeys(todo, 0.0), at_once)
    how = f"with {at_once} at a time" if at_once > 1 else "one after the other"
    lasting = f", about {clock(seconds)} {how}" if seconds else ""
    if seconds is None and todo:
        lasting = ", how long that takes is unknown until the first has finished"
    console.print(f"{cells}; {status_counts(results)}; {len(todo)} to run{lasting}.", soft_wrap=True)


def print_look(results: StudyResults, console: Console) -> None:
    """Print the verdict on each arm at the last planned look."""
    found = results.comparisons().values()
    verdicts = [f"{comparison.arm} {comparison.verdict}" for comparison in found]
    console.print(f"Look after {results.reached} seeds: {', '.join(verdicts)}.", markup=False, soft_wrap=True)


def print_summary(results: StudyResults, console: Console) -> None:
    """Print how many cells have finished, and for each of the others the reason and the command to run it alone."""
    console.print(f"[bold]{escape(results.plan.name)}[/]: {status_counts(results)}", soft_wrap=True)
    _print_notes(results, console)
    for result in results.cells:
        if result.status in ("finished", "missing", "running", "corrupt", "held back", "not needed"):
            continue
        reason = escape(last_line(result.reason) or "no reason known")
        console.print(f"[red]{escape(result.cell.key)} {result.status}[/]: {reason}", soft_wrap=True)
        console.print(f"  again: {escape(command('train', *result.cell.overrides))}", soft_wrap=True)
        log = cell_path(results.folder, result.cell, ".log")
        if log.exists():
            console.print(f"  log:   {escape(str(log))}", soft_wrap=True)
    if older := sum(result.older for result in results.cells):
        are, them = ("is", "it") if older == 1 else ("are", "them")
        text = f"{older} of these results {are} from older code; study.rerun=[older] runs {them} again."
        console.print(text, soft_wrap=True, markup=False)
    runs = results.folder / "runs"
    if any(map(events_folder, runs.glob("*/*"))):  # links that TensorBoard shows by arm and seed
        line = f"curves    tensorboard --logdir {shlex.quote(str(runs))}"
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def print_shares(results: StudyResults, cells: Sequence[Cell], seconds: float, at_once: int, console: Console) -> None:
    """Print how much of these cells' time, of `seconds` from planning to the report, was training and evaluation."""
    ran = {cell.key for cell in cells}
    records = [result.record for result in results.cells if result.cell.key in ran and result.record is not None]
    available = seconds * min(at_once, len(cells))
    training = sum(record.time.get("training_s", 0.0) for record in records)
    evaluation = sum(record.time.get("evaluation_s", 0.0) for record in records)
    console.print(
        f"{count(len(cells), 'cell')} in {clock(seconds)}, {at_once} at a time: "
        f"{training / available:.0%} of the time was training, {evaluation / available:.0%} evaluation.",
        highlight=False,
        soft_wrap=True,
    )


def status_counts(results: StudyResults) -> str:
    """Return how many cells have finished, and how many have which other status."""
    by_status = Counter(result.status for result in results.cells)
    finished = by_status.pop("finished", 0)
    others = "".join(f", {number} {status}" for status, number in by_status.items())
    return f"{finished} of {len(results.cells)} finished{others}"


def _print_notes(results: StudyResults, console: Console) -> None:
    """Print which of the study's files cannot be read."""
    for result in results.cells:
        if result.status in ("finished", "missing", "corrupt") and result.reason:
            console.print(f"[red]{escape(result.cell.key)}[/]: {escape(result.reason)}", soft_wrap=True)
