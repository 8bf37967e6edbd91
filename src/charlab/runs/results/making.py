"""The program behind `scripts/table.py`: makes the runs that are missing, and writes the page from all of them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

from charlab.configuration.nearest import nearest
from charlab.configuration.overrides import quoted
from charlab.errors import UserError
from charlab.runs.record import FILE_NAME, code_hash
from charlab.runs.results.page import keep, write_results
from charlab.runs.results.table import LONG, NUM_LEADERS, SEEDS, SHORT, THREADS, Cell, Homes, Table, families, is_online

SECONDS_AROUND = 30  # which a run takes besides its training, roughly: start-up and evaluation

Execute = Callable[[Sequence[str]], int]
"""Runs a command and returns its exit code."""


def main(arguments: Sequence[str], root: Path, execute: Execute | None = None) -> int:
    """Makes the table, or what is missing of it; returns 1 if a run has failed, 0 otherwise.

    Args:
        arguments: the command line.
        root: the checkout.
        execute: runs a command; in a process of its own by default.

    Raises:
        UserError: if the command line is wrong, or an experiment does not compose.
    """
    given = _arguments(arguments)
    os.chdir(root)
    table = Table(Homes(Path(given.output_dir), Path(given.records)), given.set)
    chosen = given.families or list(table.short)
    short = [cell for family in chosen for cell in table.short[family]] if given.budget != LONG else []
    if given.dry_run:
        _rehearse(table, short, chosen, given.budget)
        return 0
    _warn_of_cores()
    maker = Maker(table.homes, Path(given.page), execute or run)
    maker.make(short)
    leaders = table.leaders(maker.failed)
    long = table.long(leaders or [])
    if given.budget != SHORT and leaders is None:
        _say(f"Which families lead is open until all have run for {SHORT} seconds.")
    elif given.budget != SHORT:
        _say(f"Leading after {SHORT} seconds: {', '.join(long) or 'none'}.")
        maker.make([cell for family in long if family in chosen for cell in long[family]])
        if not given.families:
            maker.evaluate_online(table.online(long))
    write_results(table.homes.records, maker.page)
    if leaders is not None:
        for folder in table.strangers(long):
            _say(f"{folder} is not a run of this table, but on its page: delete it if its settings are out of date.")
    for command in maker.failed.values():
        _say(f"Failed: {shlex.join(command)}")
    return int(bool(maker.failed))


class Maker:
    """Makes runs, one after the other, each in a process of its own, and keeps what comes out.

    Args:
        homes: where runs lie.
        page: what is written anew after each of them.
        execute: runs a command.

    Attributes:
        failed: the runs that did not finish or could not be evaluated, with the command that does it again.
    """

    def __init__(self, homes: Homes, page: Path, execute: Execute) -> None:
        self.homes, self.page, self._execute = homes, page, execute
        self.failed: dict[Cell, list[str]] = {}

    def make(self, cells: Sequence[Cell]) -> None:
        """Makes those runs that are not finished; what was begun goes on, and a failure does not keep the others."""
        for number, cell in enumerate(cells, start=1):
            if self.homes.finished(cell) is None:
                _say(f"[{number}/{len(cells)}] {cell}")
                place = f"output_dir={quoted(str(self.homes.outputs))}"
                self._execute([sys.executable, "-m", "charlab.cell", *cell.overrides, place])
                if self.homes.finished(cell) is None:
                    self.failed[cell] = ["python", "scripts/train.py", *cell.overrides, place]
                    _say(f"Failed: {cell}")
                    continue
            self._keep(cell)

    def evaluate_online(self, cells: Iterable[Cell]) -> None:
        """Evaluates finished runs online, unless that is done."""
        for cell in cells:
            record, folder = self.homes.finished(cell), self.homes.runs / cell.run
            if record is None or is_online(record):
                continue
            if not (folder / "checkpoints" / "last.ckpt").exists():
                _say(f"Not evaluated online, since there is no checkpoint in {folder}: {cell}")
                continue
            _say(f"[online] {cell}")
            arguments = ["scripts/evaluate.py", f"run={quoted(str(folder))}", "protocol=online"]
            if self._execute([sys.executable, *arguments]) != 0:
                self.failed[cell] = ["python", *arguments]
            self._keep(cell)

    def _keep(self, cell: Cell) -> None:
        if (self.homes.runs / cell.run / FILE_NAME).exists():
            keep(self.homes.runs / cell.run, self.homes.records)
        write_results(self.homes.records, self.page)


def run(command: Sequence[str]) -> int:
    """Runs a command in a process of its own, which ends with this one, and returns its exit code."""
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:  # a pipe that closes when this process is gone
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # it has been interrupted as well, and closes its files
            raise


def _rehearse(table: Table, short: Sequence[Cell], chosen: Sequence[str], budget: int | None) -> None:
    """Prints what is finished, what is missing, and about how long that takes."""
    leaders = table.leaders()
    long = table.long(leaders or [])
    cells = [*short, *(cell for family in long if family in chosen and budget != SHORT for cell in long[family])]
    seconds = 0.0
    for cell in cells:
        record = table.homes.record(cell)
        status: str = "missing" if record is None else record.status
        if status != "finished":
            seconds += (cell.seconds or 0) + SECONDS_AROUND
        elif record is not None and record.code != code_hash():
            status = "finished, by other code"
        _say(f"{status:<23} {cell}")
    if leaders is None and budget != SHORT:
        number = min(NUM_LEADERS, len(chosen))
        seconds += number * len(SEEDS) * (LONG + SECONDS_AROUND)
        _say(f"{'open':<23} the {number} that lead, for {LONG} seconds")
    _say(f"About {timedelta(seconds=round(seconds))} to go.")


def _warn_of_cores() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < THREADS:
        _say(f"This process may use {cores} of the {THREADS} cores that the table is for: its figures will be worse.")


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments(arguments: Sequence[str]) -> Namespace:
    parser = ArgumentParser(
        prog="scripts/table.py",
        description=f"Makes the table of Part 2 in docs/results.md: every family for {SHORT} seconds, then the "
        f"{NUM_LEADERS} that lead for {LONG} seconds. What is finished is not made again, what was interrupted goes "
        "on. Let nothing else run meanwhile.",
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"all by default: {', '.join(families())}")
    parser.add_argument("--budget", type=int, choices=(SHORT, LONG), help="only the runs of so many seconds")
    parser.add_argument("--dry-run", action="store_true", help="say what is finished and what is missing, run nothing")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every run")
    parser.add_argument("--output-dir", default="outputs", help="where the runs go")
    parser.add_argument("--records", default="docs/records", help="where their records are kept")
    parser.add_argument("--page", default="docs/results.md", help="what is written")
    given = parser.parse_args(arguments)
    for family in given.families:
        if family not in families():
            raise UserError(f"There is no family {family}{nearest(family, families())}")
    return given
