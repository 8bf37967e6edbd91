"""Keeping the records of finished runs, and writing the page of results from them."""

from __future__ import annotations

import shutil
from pathlib import Path

from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.record import FILE_NAME, Record
from charlab.runs.results.part1 import part1
from charlab.runs.results.part2 import part2

KEPT_FILES = (FILE_NAME, "metrics.csv")
KEPT_FIGURES = ("part1-long",)  # runs whose curve says more than their figures

HEADER = """\
# Results

Written by `python scripts/results.py` from the run records in `docs/records/`; not by hand. Losses are in nats per
character on tiny Shakespeare. *Estimate* is the mean over random batches of windows, on train / validation text;
*blocks* is every character of the validation text once; both with the final weights. Times are wall-clock seconds on
the machine named, which is shared and noisy.
"""


def keep(run: Path, records: Path) -> None:
    """Copies the record and the curves of a finished run into `records`, without its checkpoints.

    Raises:
        UserError: if there is no finished run in the folder.
    """
    record = Record.load(run)
    if record.status != "finished":
        raise UserError(f"The run in {run} is {record.status}: finish it before keeping its record.")
    folder = records / record.name / record.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*KEPT_FILES, *(("loss.png",) if record.name in KEPT_FIGURES else ())):
        shutil.copyfile(run / name, folder / name)


def write_results(records: Path, page: Path) -> None:
    """Writes the page from every record below `records`."""
    runs = [Record.load(path.parent) for path in sorted(records.rglob(FILE_NAME))]
    sections = [
        HEADER,
        part1([run for run in runs if run.name.startswith("part1-")], page.parent),
        part2([run for run in runs if run.name.startswith("part2-")]),
    ]
    write_atomically(page, lambda file: file.write("\n".join(filter(None, sections)).encode()))
