"""The archive of finished runs in the repository: one file of records, one of learning curves."""

from __future__ import annotations

import copy
import functools
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from charlab.curves import COLUMNS, read_curves
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.record import Record

if TYPE_CHECKING:
    import pandas as pd

RUNS, CURVES = "runs.jsonl", "curves.csv.gz"


class Archive:
    """Finished runs in two files: their records, and their learning curves.

    `runs.jsonl` has one line per run: the contents of its `record.json` and its sample text. `curves.csv.gz` has the
    rows of every `metrics.csv`, with a column for the run. Both are sorted by NAME/FINGERPRINT, so equal runs give
    equal bytes.

    Args:
        folder: folder of the two files; without them, the archive is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def _lines(self) -> dict[str, dict[str, Any]]:
        path = self.folder / RUNS
        if not path.exists():
            return {}
        try:
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]  # a sample may hold U+2028
            return {f"{line['name']}/{line['fingerprint']}": line for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is corrupt: restore it from version control.") from error

    @functools.cached_property
    def _requalified(self) -> dict[str, str]:
        """The keys of requalified runs, by the key that today's fingerprint gives them."""
        return {
            f"{line['name']}/{entry['fingerprint']}": key
            for key, line in self._lines.items()
            for entry in line.get("requalified", ())
            if "fingerprint" in entry
        }

    @functools.cached_property
    def _curves(self) -> Mapping[str, pd.DataFrame]:
        table = read_curves(self.folder / CURVES)
        if table.empty:
            return {}
        return {str(run): rows.drop(columns="run").reset_index(drop=True) for run, rows in table.groupby("run")}

    def record(self, run: str) -> Record | None:
        """Return the record of NAME/FINGERPRINT; None if there is none. A requalified run has two fingerprints."""
        key = run if run in self._lines else self._requalified.get(run)
        if key is None:
            return None
        values = copy.deepcopy(self._lines[key])  # so that the caller may change it
        del values["sample"]
        return Record.of(values, self.folder / key)

    def records(self) -> list[Record]:
        """Return the records of all runs, sorted by NAME/FINGERPRINT."""
        return [record for record in map(self.record, sorted(self._lines)) if record is not None]

    def sample(self, record: Record) -> str:
        """Return the text that a run sampled when it finished; "" if there is none."""
        return self._lines[_key(record)]["sample"]

    def curves(self, record: Record) -> pd.DataFrame:
        """Return the measurements of a run, with the columns `charlab.curves.COLUMNS`."""
        return self._curves.get(_key(record), read_curves(self.folder / "missing"))

    def add(self, record: Record, sample: str | None = None, curves: Sequence[str] | None = None) -> None:
        """Write a run into the files, replacing one of the same name and fingerprint.

        Args:
            record: the run's record.
            sample: the text that it sampled; None to keep the present one.
            curves: the lines of its `metrics.csv` below the header; None to keep the present ones.
        """
        key = _key(record)
        with self._locked():
            lines = Archive(self.folder)._lines  # other processes may have added some
            lines[key] = record.as_dict() | {"sample": lines[key]["sample"] if sample is None else sample}
            if curves is not None:
                self._replace_curves(key, curves)
            self._write_lines(lines)

    def remove(self, run: str) -> None:
        """Remove the run NAME/FINGERPRINT from the files, if it is in them."""
        if run not in self._lines:
            return
        with self._locked():
            lines = Archive(self.folder)._lines
            lines.pop(run, None)
            self._write_lines(lines)
            if (self.folder / CURVES).exists():
                self._replace_curves(run, [])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process write the files while the block runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / ".lock"):
            yield

    def _write_lines(self, lines: Mapping[str, dict[str, Any]]) -> None:
        text = "".join(f"{json.dumps(lines[key], ensure_ascii=False)}\n" for key in sorted(lines))
        write_atomically(self.folder / RUNS, lambda file: file.write(text.encode()))

    def _replace_curves(self, run: str, rows: Sequence[str]) -> None:
        table = self.folder / CURVES
        former = gzip.decompress(table.read_bytes()).decode().splitlines()[1:] if table.exists() else []
        kept = [row for row in former if row.partition(",")[0] != run] + [f"{run},{row}" for row in rows]
        kept.sort(key=lambda row: row.partition(",")[0])
        text = "".join(f"{row}\n" for row in [",".join(["run", *COLUMNS]), *kept])
        packed = gzip.compress(text.encode(), mtime=0)
        write_atomically(table, lambda file: file.write(packed))


def _key(record: Record) -> str:
    return f"{record.name}/{record.fingerprint}"
