"""An archive of finished runs: all records in one file, all learning curves in another."""

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
COLUMNS = ("step", "characters", "seconds", "metric", "value")  # those of metrics.csv


class Archive:
    """The archived runs in a folder, by NAME/FINGERPRINT, which is their path below `outputs/runs`.

    `runs.jsonl` has one line per run: the contents of its `record.json` and its sample text. `curves.csv.gz` has the
    rows of every `metrics.csv`, with a column for the run. Both files are sorted by run, so equal runs give equal
    bytes.

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
        values = json.loads(json.dumps(self._lines[run]))  # a copy, so that the caller may change it
        del values["sample"]
        return Record.of(values, self.folder / run)

    def records(self) -> list[Record]:
        """Return the records of all runs, sorted by NAME/FINGERPRINT."""
        found = (self.record(run) for run in sorted(self._lines))
        return [record for record in found if record is not None]

    def sample(self, run: str) -> str:
        """Return the text that a run sampled when it finished; "" if there is none."""
        return self._lines.get(run, {}).get("sample", "")

    def curves(self, run: str) -> pd.DataFrame:
        """Return the measurements of a run, with the columns `COLUMNS`; no rows if it is not in the archive."""
        import pandas as pd

        return self._curves.get(run, pd.DataFrame(columns=list(COLUMNS)))
