"""Keeps the records of finished runs and writes docs/results.md: `python scripts/results.py outputs/runs/NAME/*`."""

import sys
from pathlib import Path

from charlab.errors import UserError
from charlab.runs.results.page import keep, write_results

DOCS = Path(__file__).parents[1] / "docs"

if __name__ == "__main__":
    try:
        for run in sys.argv[1:]:
            keep(Path(run), DOCS / "records")
        write_results(DOCS / "records", DOCS / "results.md")
    except UserError as error:
        sys.exit(str(error))
