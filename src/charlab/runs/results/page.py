"""Keeping the records of finished runs, and writing the page of results from them."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.record import FILE_NAME, Record
from charlab.runs.results.benchmarks import benchmarks, losses
from charlab.runs.results.part1 import part1
from charlab.runs.results.part2 import part2

KEPT_FIGURES = ("part1-long",)  # runs whose curve says more than their figures
KEPT_POINTS = 250  # of each curve, at most

HEADER = """\
# Results

Written by `python scripts/results.py` from the run records in `docs/records/`; not by hand. Losses are in nats per
character on tiny Shakespeare. *Estimate* is the mean over random batches of windows, on train / validation text;
*blocks* is every character of the validation text once; both with the final weights. Times are wall-clock seconds on
the machine named, which is shared and noisy.
"""


def keep(run: Path, records: Path) -> Path:
    """Copies the record, the curves and the samples of a finished run into `records`, without its checkpoints.

    What belongs to the machine rather than to the run, the folder of the outputs, is left out; curves are thinned.

    Returns:
        the folder of the copy.

    Raises:
        UserError: if there is no finished run in the folder.
    """
    record = Record.load(run)
    if record.status != "finished":
        raise UserError(f"The run in {run} is {record.status}: finish it before keeping its record.")
    folder = records / record.name / record.fingerprint
    config = {key: value for key, value in record.config.items() if key != "output_dir"}
    overrides = [override for override in record.overrides if not override.startswith("output_dir=")]
    dataclasses.replace(record, folder=folder, config=config, overrides=overrides).save()
    with (run / "metrics.csv").open(newline="") as curves:
        text = thin(curves)
    write_atomically(folder / "metrics.csv", lambda file: file.write(text.encode()))
    for name in ("samples.txt", *(("loss.png",) if record.name in KEPT_FIGURES else ())):
        if (run / name).exists():
            shutil.copyfile(run / name, folder / name)
    return folder


def thin(curves: Iterable[str], points: int = KEPT_POINTS) -> str:
    """Returns a `metrics.csv` with about `points` rows of each metric, evenly spaced, the last one among them."""
    reader = csv.DictReader(curves)
    rows = list(reader)
    total = Counter(row["metric"] for row in rows)
    seen: Counter[str] = Counter()
    text = io.StringIO()
    writer = csv.DictWriter(text, reader.fieldnames or (), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        metric = row["metric"]
        seen[metric] += 1
        if (total[metric] - seen[metric]) % math.ceil(total[metric] / points) == 0:
            writer.writerow(row)
    return text.getvalue()


def write_results(records: Path, page: Path) -> None:
    """Writes the page from every record below `records`."""
    runs = [Record.load(path.parent) for path in sorted(records.rglob(FILE_NAME))]
    sections = [
        HEADER,
        part1([run for run in runs if run.name.startswith("part1-")], page.parent),
        part2(
            [run for run in runs if run.name.startswith("part2-")],
            [run for run in runs if run.name.startswith("part1-")],
        ),
        losses([run for run in runs if run.name.startswith("benchmark-")]),
        benchmarks(records / "benchmarks"),
    ]
    write_atomically(page, lambda file: file.write("\n".join(filter(None, sections)).encode()))
