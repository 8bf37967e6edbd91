"""The learning curves of a run: a table in its folder, with one measurement per line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from charlab.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

FILE_NAME = "metrics.csv"
COLUMNS = ("step", "characters", "seconds", "metric", "value")
VALIDATION = ("validation/nll", "estimate/validation/nll")  # current and former name of the validation estimate


def read_curves(file: Path) -> pd.DataFrame:
    """Return the table in `file`, with the columns `COLUMNS` and values in full precision; no rows if there is no file.

    Raises:
        UserError: if the file is not such a table.
    """
    import pandas as pd

    try:
        table = pd.read_csv(file, dtype={"metric": str}, converters={"value": float})  # Python's float is exact
    except (FileNotFoundError, NotADirectoryError, pd.errors.EmptyDataError):
        return pd.DataFrame(columns=list(COLUMNS)).astype({"step": int, "metric": str, "value": float})
    except ValueError as error:
        raise UserError(f"{file} is corrupt ({str(error).splitlines()[0]}): restore it, or run again.") from error
    if not {*COLUMNS} <= {*table.columns}:
        raise UserError(f"{file} is corrupt: it lacks columns of {', '.join(COLUMNS)}; restore it, or run again.")
    return table
