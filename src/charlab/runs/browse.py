"""List, compare, tag and remove runs: `charlab runs` and `charlab.runs()`."""

from __future__ import annotations

import fnmatch
import json
import operator
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from charlab.command import command
from charlab.configuration.messages import similar
from charlab.errors import UserError
from charlab.quantities import UNKNOWN, count, duration, joined, memory, with_error
from charlab.runs.folder import is_locked, locked, remove
from charlab.runs.identity import OBSERVING_KEYS, runs_of
from charlab.runs.record import Record
from charlab.runs.store import Store

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 100  # runs in the list, unless `limit` is given
SHORT = 8  # characters of a fingerprint in the list
MOST_DIFFERENCES = 4  # in a row of the list
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "!=": operator.ne,
    "=": operator.eq,
}
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
charlab runs remove RUN…                delete runs, after a question

A run is named by its folder, or by the beginning of its fingerprint. A filter
is a column or setting and a value: status=finished, model=gpt, 'nll<1.8',
optimizer.lr=1e-3, 'name=part1-*'. sort=-nll sorts the other way round.

Options: output_dir=outputs, protocol=blocks, limit=100, plot=FILE.png (compare),
start=0, length=3000 and page=FILE.html (show), force=true (remove: ask nothing)."""


@dataclass(frozen=True)
class Row:
    """A run as a row of the list.

    Attributes:
        record: its record.
        columns: its figures, costs and state, by the name of the column.
        settings: the settings in its configuration, by dotted key.
        chosen: the options that its command line chose, such as `model`.
    """

    record: Record
    columns: dict[str, Any]
    settings: dict[str, Any]
    chosen: dict[str, str]

    def get(self, key: str) -> Any:
        """Return the value of a column, setting or choice; None without one."""
        return next((part[key] for part in (self.columns, self.settings, self.chosen) if key in part), None)


def list_runs(output_dir: Path, filters: Iterable[str] = (), *, protocol: str = "blocks") -> list[Row]:
    """Return the runs in a folder of outputs that pass all filters, sorted by name and then by start.

    Args:
        output_dir: folder of all outputs.
        filters: conditions such as "status=finished", "nll<1.8" or "optimizer.lr=1e-3".
        protocol: protocol of the figures.

    Raises:
        UserError: if a filter names neither a column nor a setting of any run.
    """
    rows = [_row(record, protocol) for record in Store(output_dir).all()]
    for condition in filters:
        rows = _filtered(rows, condition)
    return sorted(rows, key=lambda row: (row.record.name, row.record.started or ""))


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a table with a row for each run: its columns, and the settings in which the runs differ."""
    import pandas as pd

    keys = sorted({key for found in differences(rows) for key in found})
    return pd.DataFrame([{**row.columns, **{key: row.settings.get(key) for key in keys}} for row in rows])


def _row(record: Record, protocol: str) -> Row:
    figures = next((m for m in record.metrics if m["protocol"] == protocol and m["split"] == "validation"), {})
    status: str = record.status
    if status == "running" and not is_locked(record.folder):
        status = "stopped"
    columns = {
        "name": record.name,
        "fingerprint": record.fingerprint,
        "status": status,
        **{name: figures.get(name) for name in ("nll", "standard_error", "bpc", "perplexity", "likelihood")},
        "protocol": figures.get("protocol"),
        "leaks": record.causality.get("leaks"),
        "parameters": record.parameters,
        "steps": record.steps,
        "characters_seen": record.characters_seen,
        "training_s": record.time.get("training_s"),
        "started": record.started,
        "finished": record.finished,
        "disk_bytes": _size(record.folder),
        "tags": ", ".join(map(str, record.config.get("tags") or ())),
        "note": record.config.get("note"),
        "folder": str(record.folder),
    }
    chosen = dict(override.lstrip("+").split("=", 1) for override in record.overrides if "=" in override)
    return Row(record, columns, settings_of(record), chosen)


def _size(folder: Path) -> int:
    """Return the bytes that the files in a folder take up."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names)


def settings_of(record: Record) -> dict[str, Any]:
    """Return the settings of a run that may change a figure, by dotted key; a class is shown by its name."""
    found: dict[str, Any] = {}

    def visit(value: Any, key: str) -> None:
        if key in OBSERVING_KEYS:
            return
        if isinstance(value, dict):
            for name, part in value.items():
                visit(part, f"{key}.{name}" if key else str(name))
        else:
            found[key] = json.dumps(value) if isinstance(value, list) else value

    visit({key: part for key, part in record.config.items() if key != "callbacks"}, "")
    return found


def differences(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return for each row the settings in which the runs of its name differ.

    Where a class differs, its arguments are left out.
    """
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_name[row.record.name].append(row)
    keys = {name: varied([row.settings for row in group]) for name, group in by_name.items()}
    return [{key: row.settings[key] for key in keys[row.record.name] if key in row.settings} for row in rows]


def varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ, without the arguments of classes that differ."""
    values: dict[str, set[str]] = defaultdict(set)
    for one in settings:
        for key, value in one.items():
            values[key].add(repr(value))
    missing = {key for key in values if any(key not in one for one in settings)}
    found = [key for key, seen in values.items() if len(seen) > 1 or key in missing]
    classes = [key.removesuffix("_target_") for key in found if key.endswith("._target_")]
    return [key for key in found if key.endswith("._target_") or not key.startswith(tuple(classes))]


def _filtered(rows: list[Row], condition: str) -> list[Row]:
    match = re.fullmatch(r"([\w./-]+?)(<=|>=|!=|<|>|=)(.*)", condition, flags=re.S)
    if match is None:
        raise UserError(f"{condition} is no filter: write COLUMN=VALUE, such as status=finished, or see --help.")
    key, sign, wanted = match.groups()
    known = {name for row in rows for name in (*row.columns, *row.settings, *row.chosen)}
    if rows and key not in known:
        raise UserError(f"No run has a column or setting {key}{_near(key, known)}")
    return [row for row in rows if _passes(row.get(key), sign, wanted)]


def _near(key: str, known: Collection[str]) -> str:
    return similar(key, [*known, "sort", "limit", "protocol", "output_dir", "plot", "force"])


def _passes(value: Any, sign: str, wanted: str) -> bool:
    number, bound = _number(value), _number(wanted)
    if number is not None and bound is not None:
        return COMPARISONS[sign](number, bound)
    if sign in ("<", ">", "<=", ">="):
        return False
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    name = text if "." in wanted else text.rpartition(".")[2]  # the name of a class
    return (text == wanted or fnmatch.fnmatchcase(name, wanted)) == (sign == "=")


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def sorted_by(rows: Sequence[Row], column: str) -> list[Row]:
    """Return the rows sorted by a column or setting, in descending order with a minus; rows without it come last.

    Raises:
        UserError: if no run has it.
    """
    key, descending = column.removeprefix("-"), column.startswith("-")
    known = {name for row in rows for name in (*row.columns, *row.settings, *row.chosen)}
    if rows and key not in known:
        raise UserError(f"sort={column}: no run has a column or setting {key}{_near(key, known)}")
    present = [row for row in rows if row.get(key) is not None]
    if all(_number(row.get(key)) is not None for row in present):
        order = sorted(present, key=lambda row: _number(row.get(key)) or 0.0, reverse=descending)
    else:
        order = sorted(present, key=lambda row: str(row.get(key)), reverse=descending)
    return order + [row for row in rows if row.get(key) is None]


# --- The command ------------------------------------------------------------------------------------------------------


def browse(arguments: Sequence[str], console: Console | None = None) -> int:
    """Run `charlab runs` with these arguments and return the exit code.

    Raises:
        UserError: if an argument is invalid, or a run is not found.
    """
    console = console or Console(width=None if sys.stdout.isatty() else 200)
    if {"--help", "-h"} & set(arguments):
        console.print(USAGE.replace("charlab runs", command("runs")), markup=False, highlight=False)
        return 0
    options = {
        "output_dir": "outputs",
        "protocol": "blocks",
        "sort": "",
        "limit": str(SHOWN),
        "plot": "",
        "force": "false",
        "start": "0",
        "length": "3000",
        "page": "",
    }
    rest = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if separator and key in options:
            options[key] = value
        else:
            rest.append(argument)
    output_dir = Path(options["output_dir"])
    if rest[:1] == ["compare"]:
        from charlab.runs.compare import compare

        compare(rest[1:], output_dir, options["plot"], console)
    elif rest[:1] == ["show"]:
        from charlab.runs.surprisal import show

        show(rest[1:], output_dir, options, console)
    elif rest[:1] == ["draw"]:
        from charlab.runs.look import draw

        draw(rest[1:], output_dir, console)
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
            *(Text(part) for part in (row.record.name, row.record.folder.name[:SHORT])),
            Text(" · ".join(part for part in (differs, columns["tags"], columns["note"]) if part)),
            Text(columns["status"], "" if columns["status"] == "finished" else "bold"),
            Text(nll, "strike" if columns["leaks"] else ""),
            f"{columns['steps']:,}",
            duration(columns["training_s"]),
            memory(columns["disk_bytes"]),
        )
    console.print(listed)
    disk = memory(sum(row.columns["disk_bytes"] for row in rows))
    more = f", of which {len(shown)} are shown (limit={len(rows)} shows all)" if len(shown) < len(rows) else ""
    console.print(f"{count(len(rows), 'run')} in {output_dir / 'runs'}{more}, {disk}", highlight=False, markup=False)


def _short(key: str) -> str:
    return key.removesuffix("._target_") if key.endswith("._target_") else key.rpartition(".")[2]


def shown_value(value: Any) -> str:
    """Return a setting as text, a class by its name."""
    if isinstance(value, str) and re.fullmatch(r"[\w.]+\.[A-Z]\w*", value):
        return value.rpartition(".")[2]  # a class
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def _annotate(kind: str, arguments: Sequence[str], store: Store, console: Console) -> None:
    """Change the tags or the note of a run, and print them.

    Raises:
        UserError: if the run is not found, or is being trained: its process will write the record again.
    """
    if len(arguments) < 2 or (kind == "note" and len(arguments) > 2):
        raise UserError(f"{kind} takes a run and {'its tags' if kind == 'tag' else 'a text in quotes'}: see --help.")
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
    """Delete runs, after asking for confirmation, and return the exit code.

    Raises:
        UserError: if a run is not found, is being trained or is a member of another run; or without a terminal to ask.
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
    for record in records:
        size = memory(_size(record.folder))
        console.print(f"{record.folder}  {record.status}  {size}", markup=False, highlight=False, soft_wrap=True)
    if ask:
        if not sys.stdin.isatty():
            raise UserError("Nothing was removed, because there is no terminal to ask on: give force=true.")
        what = "it" if len(records) == 1 else count(len(records), "run")
        if console.input(f"Remove {what}? \\[y/N] ").lower() != "y":
            console.print("Nothing was removed.")
            return 1
    for record in records:
        remove(record.folder)
    return 0
