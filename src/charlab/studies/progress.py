"""What a person sees while a study runs: a bar in a terminal, a line for each cell in a file."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from charlab.quantities import clock
from charlab.studies.outcome import Outcome
from charlab.studies.plan import Cell

SECONDS_BETWEEN_LOOKS = 0.5


@contextmanager
def showing(study: Path, cells: Sequence[Cell], console: Console) -> Iterator[None]:
    """Shows how many of these cells are done, running, failed and left, and for how long yet, while others run them.

    All that is known is read from the study's folder, so it does not matter where the cells run.
    """
    progress = Progress(study, cells)
    draws = console.is_terminal and not console.is_dumb_terminal
    live = Live(console=console, auto_refresh=False, transient=True) if draws else None
    stopped = threading.Event()

    def watch() -> None:
        while True:
            last = stopped.is_set()
            for cell, outcome in progress.look():
                if live is None or outcome.fate != "finished":
                    console.print(progress.line(cell, outcome), markup=False, highlight=False, soft_wrap=True)
            if live is not None:
                live.update(progress.bar(), refresh=True)
            if last:
                return
            stopped.wait(SECONDS_BETWEEN_LOOKS)

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    if live is not None:
        live.start()
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        if live is not None:
            live.stop()


class Progress:
    """How far a study's cells have come since this was made.

    Args:
        study: the study's folder.
        cells: those that are to be run.
    """

    def __init__(self, study: Path, cells: Sequence[Cell]) -> None:
        self.study, self.cells = study, cells
        self._former = {cell: Outcome.load(study, cell) for cell in cells}
        self._started = time.monotonic()
        self._running_since: dict[Cell, float] = {}
        self._most_at_once = 1
        self.ended: dict[Cell, Outcome] = {}

    def look(self) -> list[tuple[Cell, Outcome]]:
        """Reads the outcomes again; returns those that are new."""
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
        """The cells that run now."""
        return list(self._running_since)

    @property
    def failed(self) -> int:
        """How many have ended without a result."""
        return sum(outcome.fate != "finished" for outcome in self.ended.values())

    def seconds_left(self) -> float | None:
        """Returns how long the rest will take, judging by the cells that have finished; None before the first has."""
        took = {cell: outcome.seconds for cell, outcome in self.ended.items() if outcome.fate == "finished"}
        now = time.monotonic()
        left = {cell: 0.0 for cell in self.cells if cell not in self.ended}
        left |= {cell: now - since for cell, since in self._running_since.items()}
        return seconds_left(took, left, self._most_at_once)

    def line(self, cell: Cell, outcome: Outcome) -> str:
        """Returns what is said of a cell that has ended."""
        reason = outcome.reason.strip().splitlines()
        why = f" ({reason[-1].strip()})" if reason else ""
        count = f"{len(self.ended)}/{len(self.cells)}"
        took = f" after {clock(outcome.seconds)}" if outcome.exit_code is not None else ""  # else nobody looked
        return "  ".join([count, f"{cell.key} {outcome.fate}{took}{why}", *self._left()])

    def bar(self) -> RenderableType:
        """Returns what a terminal shows."""
        done = len(self.ended) - self.failed
        counts = [f"{done} done", f"{len(self._running_since)} running"]
        counts += [f"{self.failed} failed"] if self.failed else []
        times = [clock(time.monotonic() - self._started), *self._left()]
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=max(1, len(self.cells)), completed=len(self.ended))
        grid.add_row(Text(f"{len(self.ended)}/{len(self.cells)} cells", style="bold"), bar, Text("  ".join(times)))
        running = "running: " + "  ".join(cell.key for cell in self.running) if self.running else ""
        return Group(grid, Text("   ".join([", ".join(counts), running]).rstrip(), no_wrap=True, overflow="ellipsis"))

    def _left(self) -> list[str]:
        seconds = self.seconds_left()
        return [f"{clock(seconds)} left"] if seconds else []


def seconds_left(took: Mapping[Cell, float], left: Mapping[Cell, float], at_once: int) -> float | None:
    """Returns how long the cells that are left will take.

    Args:
        took: seconds that each finished cell has taken; an arm without one is taken for an average arm.
        left: seconds that each other cell has been running for.
        at_once: how many run at a time.

    Returns:
        seconds, or None if no cell has finished.
    """
    if not took:
        return None
    by_arm: dict[str, list[float]] = defaultdict(list)
    for cell, seconds in took.items():
        by_arm[cell.arm].append(seconds)
    average = statistics.fmean(took.values())
    expected = [
        max(0.0, (statistics.fmean(by_arm[cell.arm]) if cell.arm in by_arm else average) - since)
        for cell, since in left.items()
    ]
    return max([sum(expected) / at_once, *expected]) if expected else 0.0
