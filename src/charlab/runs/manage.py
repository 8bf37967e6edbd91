"""List, compare, tag and remove runs: `charlab runs`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from charlab.command import command, split_options
from charlab.errors import UserError
from charlab.quantities import UNKNOWN, count, duration, joined, memory, with_error
from charlab.runs.folder import locked, remove
from charlab.runs.listing import OPTIONS, Row, differences, list_runs, short_name, shown_value, size, sorted_by
from charlab.runs.record import Record, runs_of
from charlab.runs.store import Store

MOST_DIFFERENCES = 4  # in a row of the list
USAGE = """\
charlab runs [FILTER…] [sort=COLUMN]    list the runs in outputs/runs
charlab runs show RUN                   write a page of the validation text in
                                        which each character's color is its nll
charlab runs draw RUN…                  write a sample of the run's text, and pictures
                                        of its loss and attention, into its folder
charlab runs compare RUN RUN            show what differs, and where in the text,
                                        and draw both curves
charlab runs tag RUN TAG…               add tags to a run; -TAG removes one
charlab runs note RUN TEXT              give a run a note; "" removes it
charlab runs remove RUN…                delete runs, after asking

A run is named by its folder, or by the beginning of its fingerprint. A filter
is a column or setting and a value: status=finished, model=gpt, 'nll<1.8',
optimizer.lr=1e-3, 'name=part1-*'. sort=-nll sorts in descending order.

Options: output_dir=outputs, protocol=blocks, limit=100, plot=FILE.png (compare),
start=0, length=3000 and page=FILE.html (show), force=true (remove: do not ask),
trust=true (draw and show: run code that the run's folder holds)."""


def browse(arguments: Sequence[str], console: Console | None = None) -> int:
    """Run `charlab runs` with these arguments and return the exit code."""
    console = console or Console(width=None if sys.stdout.isatty() else 200)
    if {"--help", "-h"} & set(arguments):
        console.print(USAGE.replace("charlab runs", command("runs")), markup=False, highlight=False)
        return 0
    annotates = bool(arguments) and arguments[0] in ("tag", "note")  # a note may begin with length=256
    known = {"output_dir": OPTIONS["output_dir"]} if annotates else OPTIONS
    options, rest = split_options(arguments, known)
    output_dir = Path(options["output_dir"])
    if rest[:1] == ["compare"]:
        from charlab.runs.compare import compare

        compare(rest[1:], output_dir, options["plot"], console)
    elif rest[:1] == ["show"]:
        from charlab.runs.surprisal import show

        show(rest[1:], output_dir, options, console)
    elif rest[:1] == ["draw"]:
        from charlab.runs.draw import draw

        draw(rest[1:], output_dir, console, trust=options["trust"].lower() == "true")
    elif rest[:1] in (["tag"], ["note"]):
        _annotate(rest[0], rest[1:], Store(output_dir), console)
    elif rest[:1] == ["remove"]:
        return _remove(rest[1:], output_dir, console, ask=options["force"].lower() != "true")
    else:
        if not options["limit"].isdecimal():
            raise UserError(f"limit must be a number of runs, not {options['limit']!r}.")
        rows = list_runs(output_dir, rest, protocol=options["protocol"])
        rows = sorted_by(rows, options["sort"]) if options["sort"] else rows
        _print_list(rows[: int(options["limit"])], rows, output_dir, console)
    return 0


def _print_list(shown: Sequence[Row], rows: Sequence[Row], output_dir: Path, console: Console) -> None:
    if not rows:
        console.print(f"There is no such run in {output_dir / 'runs'}.", markup=False, highlight=False)
        return
    listed = Table(box=None, pad_edge=False)
    for heading in ("name", "run", "what differs", "status"):
        listed.add_column(heading, overflow="fold")
    for heading in ("nats/char", "steps", "training", "disk"):
        listed.add_column(heading, justify="right", no_wrap=True)
    differ = {id(row): differing for row, differing in zip(rows, differences(rows), strict=True)}
    for row in shown:
        columns = row.columns
        bound = "≤ " if columns["likelihood"] == "bound" else ""
        nll = UNKNOWN if columns["nll"] is None else bound + with_error(columns["nll"], columns["standard_error"])
        differing = list(dict.fromkeys(f"{_short(key)}={shown_value(value)}" for key, value in differ[id(row)].items()))
        differs = joined(differing, most=MOST_DIFFERENCES)
        listed.add_row(
            *(Text(part) for part in (row.record.name, short_name(row.record.folder))),
            Text(" · ".join(part for part in (differs, columns["tags"], columns["note"]) if part)),
            Text(columns["status"], "" if columns["status"] == "finished" else "bold"),
            Text(nll, "strike" if columns["leaks"] else ""),
            f"{columns['steps']:,}",
            duration(columns["training_s"]),
            memory(columns["disk_bytes"]),
        )
    console.print(listed)
    disk = memory(sum(row.columns["disk_bytes"] for row in rows))
    more = f", {len(shown)} of them shown (limit={len(rows)} shows all)" if len(shown) < len(rows) else ""
    console.print(f"{count(len(rows), 'run')} in {output_dir / 'runs'}{more}, {disk}", highlight=False, markup=False)


def _short(key: str) -> str:
    return key.removesuffix("._target_") if key.endswith("._target_") else key.rpartition(".")[2]


def _annotate(kind: str, arguments: Sequence[str], store: Store, console: Console) -> None:
    """Change the tags or the note of a run, and print them."""
    if len(arguments) < 2 or (kind == "note" and len(arguments) > 2):
        raise UserError(f"{kind} takes a run and {'its tags' if kind == 'tag' else 'a text in quotes'}: see --help.")
    for text in arguments[1:]:
        if (shown := text.encode(errors="backslashreplace").decode()) != text:
            raise UserError(f"The {kind} {shown} is not UTF-8, so it cannot be recorded: write it in UTF-8.")
    folder = store.named(arguments[0])
    with locked(folder):
        record = Record.load(folder)
        if kind == "note":
            record.config["note"] = arguments[1] or None
        else:
            removed = {tag.removeprefix("-") for tag in arguments[1:] if tag.startswith("-")}
            tags = [*(record.config.get("tags") or ()), *(tag for tag in arguments[1:] if not tag.startswith("-"))]
            record.config["tags"] = [tag for tag in dict.fromkeys(map(str, tags)) if tag not in removed]
        record.save()
    shown, note = ", ".join(record.config.get("tags") or ()), record.config.get("note")
    console.print(f"{folder}  tags: {shown or 'none'}  note: {note or 'none'}", markup=False, highlight=False)


def _remove(runs: Sequence[str], output_dir: Path, console: Console, *, ask: bool) -> int:
    """Delete runs after asking for confirmation, and return the exit code.

    Raises:
        UserError: if a run is not found, is being trained, is a member of another run or the one that it started from;
            or if no terminal can ask.
    """
    store = Store(output_dir)
    if not runs:
        raise UserError(f"remove takes the runs to delete: {command('runs', 'remove', 'RUN')}.")
    records = [Record.load(store.named(run)) for run in dict.fromkeys(runs)]
    folders = {record.folder.resolve() for record in records}
    for user in store.all():
        used = {Path(run).resolve() for run in runs_of(user.config.get("model") or {})} & folders
        if used and user.folder.resolve() not in folders:
            raise UserError(f"{used.pop()} is a member of {user.folder}: remove that run as well, or keep both.")
        begun = {Path(run).resolve() for key in ("init_from", "extend") if (run := user.config.get(key))} & folders
        if begun and user.folder.resolve() not in folders:  # without it, that run can be neither resumed nor verified
            raise UserError(f"{user.folder} started from {begun.pop()}: remove that run as well, or keep both.")
    for record in records:
        disk = memory(size(record.folder))
        console.print(f"{record.folder}  {record.status}  {disk}", markup=False, highlight=False, soft_wrap=True)
    if ask:
        if not sys.stdin.isatty():
            raise UserError("Nothing was removed, because there is no terminal to ask in: give force=true.")
        what = "it" if len(records) == 1 else count(len(records), "run")
        if not _agrees(console, f"Remove {what}? \\[y/N] "):
            console.print("Nothing was removed.")
            return 1
    for record in records:
        remove(record.folder)
    return 0


def _agrees(console: Console, question: str) -> bool:
    """Return whether the user answers y; Ctrl-D means no."""
    try:
        return console.input(question).lower() == "y"
    except EOFError:
        console.print()
        return False
