"""Keep the records of finished runs and write the page of results: `python -m tools.results [RUN…]`."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import shutil
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.record import FILE_NAME, Record
from tools.results.part1 import part1
from tools.results.part2 import part2
from tools.results.speed import benchmarks, losses

DOCS = Path(__file__).parents[2] / "docs"

KEPT_FIGURES = ("part1-long",)  # runs whose curve says more than their figures
KEPT_POINTS = 250  # of each curve, at most

HEADER = """\
# Results

Written by `make results` from the run records in `docs/records/`; not by hand. Losses are in nats per
character on tiny Shakespeare. *Estimate* is the mean over random batches of windows, on train / validation text;
*blocks* is every character of the validation text once; both with the final weights. Times are wall-clock seconds on
the machine named, which is shared and noisy.
"""


def main(arguments: Sequence[str]) -> int:
    """Add runs to the records and write the page; return 1 if `--check` finds the page out of date, else 0.

    Raises:
        UserError: if one of the named folders holds no finished run.
    """
    parser = ArgumentParser(
        prog="python -m tools.results", description="Write docs/results.md from the records in docs/records."
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", type=Path, help="folder of a finished run to add first")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page would change")
    given = parser.parse_args(arguments)
    for run in given.runs:
        keep(run, DOCS / "records")
    page = DOCS / "results.md"
    text = results_page(DOCS / "records", DOCS)
    if given.check:
        if page.read_text(encoding="utf-8") == text:
            return 0
        print("docs/results.md differs from the records: run make results.", file=sys.stderr)
        return 1
    write_atomically(page, lambda file: file.write(text.encode()))
    return 0


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


def results_page(records: Path, docs: Path) -> str:
    """Return the page, written from every record below `records`.

    Args:
        records: folder of the records.
        docs: folder of the page, from which its links start.
    """
    runs = [Record.load(path.parent) for path in sorted(records.rglob(FILE_NAME))]
    ladder = [run for run in runs if run.name.startswith("part1-")]
    sections = [
        HEADER,
        part1(ladder, docs),
        part2([run for run in runs if run.name.startswith("part2-")], ladder),
        losses([run for run in runs if run.name.startswith("benchmark-")]),
        benchmarks(records / "benchmarks"),
    ]
    return "\n".join(filter(None, sections))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
