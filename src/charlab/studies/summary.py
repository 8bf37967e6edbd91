"""What a study says on the terminal: the cells that there are, and those that have no result."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charlab.quantities import clock, count
from charlab.studies.expansion import PROGRAM
from charlab.studies.outcome import cell_path
from charlab.studies.progress import seconds_left
from charlab.studies.state import CellResult, StudyResults

STYLES = {"finished": "green", "missing": "dim", "running": "cyan", "interrupted": "yellow"}


def print_cells(results: StudyResults, todo: Sequence[CellResult], at_once: int, console: Console) -> None:
    """Prints every cell, what is known of it, and how long those that are still to be run may take.

    Args:
        results: of the study so far.
        todo: those that would be run now.
        at_once: how many at a time.
        console: where to print.
    """
    table = Table("arm", "seed", "status", "run", box=None, pad_edge=False)
    due = {result.cell.key for result in todo}
    for result in results.cells:
        notes = [note for note, holds in (("older code", result.older), ("to run", result.cell.key in due)) if holds]
        status = f"[{STYLES.get(result.status, 'red')}]{result.status}[/]" + "".join(f", {note}" for note in notes)
        table.add_row(escape(result.cell.arm), str(result.cell.seed), status, escape(result.cell.run))
    console.print(table)
    _print_notes(results, console)
    plan = results.plan
    cells = f"{count(len(plan.cells), 'cell')}: {count(len(plan.arms), 'arm')} × {count(len(plan.seeds), 'seed')}"
    console.print(f"{cells}; {_counts(results)}; {len(todo)} to run{_time(results, todo, at_once)}.", soft_wrap=True)


def print_summary(results: StudyResults, console: Console) -> None:
    """Prints how many cells have finished, and of each other one why not, with the command that runs it alone."""
    console.print(f"[bold]{escape(results.plan.name)}[/]: {_counts(results)}", soft_wrap=True)
    _print_notes(results, console)
    for result in results.cells:
        if result.status in ("finished", "missing", "running", "corrupt"):
            continue
        reason = result.reason.strip().splitlines()
        console.print(
            f"[red]{escape(result.cell.key)} {result.status}[/]: {escape(reason[-1] if reason else 'no reason known')}",
            soft_wrap=True,
        )
        console.print(f"  again: python {PROGRAM} {escape(shlex.join(result.cell.overrides))}", soft_wrap=True)
        log = cell_path(results.folder, result.cell, ".log")
        if log.exists():
            console.print(f"  log:   {escape(str(log))}", soft_wrap=True)
    older = sum(result.older for result in results.cells)
    if older:
        console.print(
            f"{older} of these results {'is' if older == 1 else 'are'} of older code; "
            r"study.rerun=\[older] makes them again.",
            soft_wrap=True,
        )


def _counts(results: StudyResults) -> str:
    counts = Counter(result.status for result in results.cells)
    finished = counts.pop("finished", 0)
    others = "".join(f", {number} {status}" for status, number in counts.items())
    return f"{finished} of {len(results.cells)} finished{others}"


def _print_notes(results: StudyResults, console: Console) -> None:
    """Prints which files cannot be read."""
    for result in results.cells:
        if result.status in ("finished", "missing", "corrupt") and result.reason:
            console.print(f"[red]{escape(result.cell.key)}[/]: {escape(result.reason)}", soft_wrap=True)


def _time(results: StudyResults, todo: Sequence[CellResult], at_once: int) -> str:
    """Returns about how long the cells would take, by those of the same arm that have finished, or of any."""
    if not todo:
        return ""
    took = {result.cell: result.seconds for result in results.cells if result.status == "finished" and result.seconds}
    seconds = seconds_left(took, {result.cell: 0.0 for result in todo}, at_once)
    if seconds is None:
        return ", how long that takes is not known before the first has finished"
    return f", about {clock(seconds)} {f'with {at_once} at a time' if at_once > 1 else 'one after the other'}"
