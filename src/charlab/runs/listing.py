"""The runs in a folder of outputs as rows: filter them, sort them, and find what differs between them."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import operator
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from charlab.configuration.messages import nearest, similar
from charlab.configuration.value_types import EVALUATE
from charlab.errors import UserError
from charlab.runs.folder import is_locked
from charlab.runs.identity import OBSERVING_KEYS
from charlab.runs.record import Record
from charlab.runs.store import Store

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = {
    "output_dir": "outputs",
    "protocol": "blocks",
    "limit": "100",
    "sort": "",
    "plot": "",
    "force": "false",
    "start": "0",
    "length": "3000",
    "page": "",
    "trust": "false",
}
"""The options of `charlab runs`, with their defaults."""
COLUMNS = (
    *("name", "fingerprint", "status", "nll", "standard_error", "bpc", "perplexity", "likelihood", "protocol", "leaks"),
    *("parameters", "steps", "characters_seen", "training_s", "started", "finished", "disk_bytes", "tags", "note"),
    "folder",
)
"""The columns of every run in the table, which its settings follow."""
SHORT = 8  # characters of a fingerprint in tables
WITH_CODE = 17  # characters of FINGERPRINT-CODE
PROTOCOLS: tuple[str, ...] = get_args(EVALUATE["protocol"])
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "!=": operator.ne,
    "=": operator.eq,
}


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
        """Return the value of a column, setting or choice; None if there is none."""
        return next((part[key] for part in (self.columns, self.settings, self.chosen) if key in part), None)


def list_runs(output_dir: Path, filters: Iterable[str] = (), *, protocol: str = "blocks") -> list[Row]:
    """Return the runs in a folder of outputs that pass all filters, sorted by name and then by start.

    Args:
        filters: conditions such as "status=finished", "nll<1.8" or "optimizer.lr=1e-3".
        protocol: protocol of the figures.

    Raises:
        UserError: if there is no such protocol or column.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"There is no protocol={protocol}{nearest(protocol, PROTOCOLS)}")
    everything = rows = [_row(record, protocol) for record in Store(output_dir).all()]
    for condition in filters:
        rows = _filtered(rows, condition, everything)
    return sorted(rows, key=lambda row: (row.record.name, row.record.started or ""))


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a table with a row for each run: its columns, and the settings in which the runs differ."""
    import pandas as pd

    of_all = varied([row.settings for row in rows])
    keys = sorted({*of_all, *(key for found in differences(rows) for key in found)})
    values = [{**row.columns, **{key: row.settings.get(key) for key in keys}} for row in rows]
    return pd.DataFrame(values, columns=list(dict.fromkeys([*COLUMNS, *keys])))  # also without any run


def _row(record: Record, protocol: str) -> Row:
    figures = record.find_figure(protocol) or {}
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
        "disk_bytes": size(record.folder),
        "tags": ", ".join(map(str, record.config.get("tags") or ())),
        "note": record.config.get("note"),
        "folder": str(record.folder),
    }
    chosen = dict(override.lstrip("+").split("=", 1) for override in record.overrides if "=" in override)
    return Row(record, columns, settings_of(record), chosen)


def size(folder: Path) -> int:
    """Return the size of the files in a folder, in bytes."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a temporary file of a run that trains
                total += os.lstat(os.path.join(place, name)).st_size
    return total


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


def _filtered(rows: list[Row], condition: str, everything: Sequence[Row]) -> list[Row]:
    match = re.fullmatch(r"([\w./-]+?)(<=|>=|!=|<|>|=)(.*)", condition, flags=re.S)
    if match is None:
        raise UserError(f"{condition} is not a filter: write COLUMN=VALUE, such as status=finished, or see --help.")
    key, sign, wanted = match.groups()
    _check_known(everything, key, "No")
    return [row for row in rows if _passes(key, row.get(key), sign, wanted)]


def _check_known(rows: Sequence[Row], key: str, beginning: str) -> None:
    known = {name for row in rows for name in (*row.columns, *row.settings, *row.chosen)}
    if rows and key not in known:
        raise UserError(f"{beginning} run has a column or setting {key}{similar(key, [*known, *OPTIONS])}")


def _passes(key: str, value: Any, sign: str, wanted: str) -> bool:
    number, bound = _number(value), _number(wanted)
    if number is not None and bound is not None:
        return _COMPARISONS[sign](number, bound)
    if sign in ("<", ">", "<=", ">="):
        return False
    text = json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    names = {text, text.replace(", ", ","), shown_value(value)}  # a list is typed without spaces, a class by its name
    if key.endswith("_target_"):
        names.add(text.rpartition(".")[2])
    return any(name == wanted or fnmatch.fnmatchcase(name, wanted) for name in names) == (sign == "=")


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def sorted_by(rows: Sequence[Row], column: str) -> list[Row]:
    """Return the rows sorted by a column or setting, in descending order with a minus; rows without it come last."""
    key, descending = column.removeprefix("-"), column.startswith("-")
    _check_known(rows, key, f"sort={column}: no")
    present = [row for row in rows if row.get(key) is not None]
    numeric = all(_number(row.get(key)) is not None for row in present)
    order = sorted(
        present,
        key=lambda row: (_number(row.get(key)) or 0.0, "") if numeric else (0.0, str(row.get(key))),
        reverse=descending,
    )
    return order + [row for row in rows if row.get(key) is None]


def short_name(folder: Path) -> str:
    """Return the beginning of a run's folder in tables, with some of its code if another run has its fingerprint."""
    with_code = re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{12}", folder.name)
    return folder.name[: WITH_CODE if with_code else SHORT]


def shown_value(value: Any) -> str:
    """Return a setting as text, a class by its name."""
    if isinstance(value, str) and re.fullmatch(r"[\w.]+\.[A-Z]\w*", value):
        return value.rpartition(".")[2]  # a class
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
