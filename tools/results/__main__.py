"""Keep the records of finished runs and write the page of results: `python -m tools.results [RUN…]`."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.pairs import FILE_NAME as BENCHMARKS
from charlab.curves import FILE_NAME as CURVES
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.archive import Archive
from charlab.runs.record import Record
from charlab.runs.store import Run
from tools.results.part1 import part1
from tools.results.part2 import overview, part2
from tools.results.speed import benchmarks, losses

ROOT = Path(__file__).parents[2]
DOCS, RECORDS, README = ROOT / "docs", ROOT / "records", ROOT / "README.md"

KEPT_POINTS = 250  # of each curve, at most

HEADER = """\
# Results

Written by `make results` from the runs in `records/`; do not edit. Losses are in nats per character on tiny
Shakespeare, always with the final weights. *Estimate* is the mean over random batches of windows, on train / validation
text; *blocks* scores every character of the validation text once. Training times are wall-clock seconds on the machine
named, which is shared with others and noisy.
"""


def main(arguments: Sequence[str]) -> int:
    """Add runs to the records and write the pages; return 1 if `--check` finds a page out of date, else 0.

    Raises:
        UserError: if one of the named folders holds no finished run.
    """
    parser = ArgumentParser(
        prog="python -m tools.results",
        description="Write docs/results.md, and the table in README.md, from the records in records/.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", type=Path, help="folder of a finished run to add first")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page would change")
    given = parser.parse_args(arguments)
    for run in given.runs:
        keep(run, RECORDS)
    archive, former = Archive(RECORDS), README.read_text(encoding="utf-8")
    code = 0
    for page, text in ((DOCS / "results.md", results_page(archive, DOCS)), (README, with_overview(former, archive))):
        if not given.check:
            _write(page, text)
        elif page.read_text(encoding="utf-8") != text:
            print(f"{page.relative_to(ROOT)} differs from the records: run make results.", file=sys.stderr)
            code = 1
    return code


def with_overview(readme: str, archive: Archive) -> str:
    """Return the README with its table of models, between two comments, written anew."""
    before, begin, rest = readme.partition("<!-- models: written by make results -->\n")
    _, end, after = rest.partition("<!-- end of models -->\n")
    return f"{before}{begin}{overview(archive.records())}\n{end}{after}"


def keep(run: Path, archive: Path) -> Record:
    """Add a finished run to an archive, or replace the one of that name and fingerprint.

    What belongs to the machine rather than to the run, the folder of the outputs, is left out, and curves are thinned.

    Args:
        run: the run's folder.
        archive: folder of the archive; see `charlab.runs.archive.Archive`.

    Returns:
        the record as it was kept.

    Raises:
        UserError: if there is no finished run in the folder.
    """
    record = Record.load(run)
    if record.status != "finished":
        raise UserError(f"The run in {run} is {record.status}: finish it before keeping its record.")
    if record.config.get("debug"):
        raise UserError(f"The run in {run} was for debugging (debug={record.config['debug']}), and is no result.")
    config = {key: value for key, value in record.config.items() if key != "output_dir"}
    overrides = [override for override in record.overrides if not override.startswith("output_dir=")]
    record = dataclasses.replace(record, config=config, overrides=overrides)
    with (run / CURVES).open(newline="") as curves:
        rows = thin(curves).splitlines()[1:]
    Archive(archive).add(record, Run(record).sample(), rows)
    return record


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def thin(curves: Iterable[str], points: int = KEPT_POINTS) -> str:
    """Return a `metrics.csv` thinned to about `points` evenly spaced rows per metric, the last one included."""
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


def results_page(archive: Archive, docs: Path) -> str:
    """Return the page, written from every record of an archive and the benchmarks next to it.

    Args:
        archive: the runs.
        docs: folder of the page, from which its links start.
    """
    runs = archive.records()
    ladder = [run for run in runs if run.name.startswith("part1-")]
    sections = [
        HEADER,
        part1(ladder, docs),
        part2(
            [run for run in runs if run.name.startswith("part2-")],
            [*ladder, *(run for run in runs if run.name.startswith("online-"))],
        ),
        losses([run for run in runs if run.name.startswith("benchmark-")]),
        benchmarks(archive.folder / BENCHMARKS),
    ]
    return "\n".join(filter(None, sections))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
