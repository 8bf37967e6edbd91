"""Finished runs without their folders: every record in one file, every learning curve in another."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlab.errors import UserError
from charlab.runs.record import Record

if TYPE_CHECKING:
    import pandas as pd

RUNS, CURVES = "runs.jsonl", "curves.csv.gz"
COLUMNS = ("step", "characters", "seconds", "metric", "value")  # of a run's metrics.csv


class Archive:
    """The runs kept in a folder. A run is known by NAME/FINGERPRINT, the path that it has below `outputs/runs`.

    `runs.jsonl` has one line per run: all that its `record.json` holds, and the text that it wrote. `curves.csv.gz` has
    the rows of every `metrics.csv`, each behind its run. Both are sorted by run, so equal runs give equal bytes.

    Args:
        folder: where the two files are; an archive without them is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def _lines(self) -> dict[str, dict[str, Any]]:
        path = self.folder / RUNS
        if not path.exists():
            return {}
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return {f"{line['name']}/{line['fingerprint']}": line for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is corrupt: restore it from version control.") from error

    @functools.cached_property
    def _curves(self) -> Mapping[str, pd.DataFrame]:
        import pandas as pd

        path = self.folder / CURVES
        table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["run", *COLUMNS])
        return {str(run): rows.drop(columns="run").reset_index(drop=True) for run, rows in table.groupby("run")}

    def record(self, run: str) -> Record | None:
        """Return the record of a run; None if it is not in the archive."""
        if run not in self._lines:
            return None
        values = json.loads(json.dumps(self._lines[run]))  # a copy that the caller may change
        del values["sample"]
        return Record.of(values, self.folder / run)

    def records(self) -> list[Record]:
        """Return the records of all runs, sorted by NAME/FINGERPRINT."""
        found = (self.record(run) for run in sorted(self._lines))
        return [record for record in found if record is not None]

    def sample(self, run: str) -> str:
        """Return the text that a run wrote when it finished, "" if it wrote none."""
        return self._lines.get(run, {}).get("sample", "")

    def curves(self, run: str) -> pd.DataFrame:
        """Return what a run has measured, with the columns `COLUMNS`; no rows if it is not in the archive."""
        import pandas as pd

        return self._curves.get(run, pd.DataFrame(columns=list(COLUMNS)))
