"""Make the runs that the documents show, keep their records, and write the documents: `python -m tools.results`."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import math
import signal
import sys
import tempfile
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.pairs import FILE_NAME as BENCHMARKS
from charlab.curves import FILE_NAME as CURVES
from charlab.errors import UserError
from charlab.runs.archive import Archive
from charlab.runs.draw import sample
from charlab.runs.record import Record
from charlab.studies.plan import FILE_NAME as PLAN
from charlab.studies.plan import Plan
from charlab.studies.report.writer import write_report
from charlab.studies.state import read_results
from tools import read_json, run_tool, write_bytes, write_text
from tools.results.growth import growth
from tools.results.growth import pictures as pictures_of_growth
from tools.results.make import Choice, Maker, table
from tools.results.marks import NONE, Marks, unmarked
from tools.results.part1 import headline, part1
from tools.results.part1 import pictures as pictures_of_part1
from tools.results.part2 import overview, part2
from tools.results.rates import choose_rates
from tools.results.speed import benchmarks, latest_change, losses, unmeasured
from tools.results.states import current, states
from tools.results.track import FILE as TRACK
from tools.results.track import track
from tools.results.wanted import FAMILIES, LIST, RATES, Wanted, wanted

ROOT = Path(__file__).parents[2]
DOCS, RECORDS, README = ROOT / "docs", ROOT / "records", ROOT / "README.md"

SHOWN = ("part1-", "part2-", "online-", "benchmark-")  # names of the runs on the page
KEPT_POINTS = 250  # of each curve, about
FIRST_POINTS = 3  # of each curve, which a requalification repeats

HEADER = """\
# Results

Written by `make results` from the runs in `records/`; do not edit. Losses are in nats per character on tiny
Shakespeare, always with the final weights. *Estimate* is the mean over random batches of windows, on train / validation
text; *blocks* scores every character of the validation text once. Training times are wall-clock seconds on the machine
named, which is shared with others and noisy.
"""


def main(arguments: Sequence[str]) -> int:
    """Make what the documents show, and write them; return 1 if a run fails or `--check` finds a difference, else 0.

    Raises:
        UserError: if one of the named folders holds no finished run, or the list of runs cannot be composed.
    """
    parser = ArgumentParser(
        prog="python -m tools.results",
        description="List the runs behind docs/results.md, docs/studies and the table in README.md that are missing "
        "from records/ or by earlier code, and make them, the most important first. Each is added to records/ at once, "
        "so the same command continues after an interruption. Then write the page, the table and the reports.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", type=Path, help="only add the run in this folder, and write")
    parser.add_argument("--check", action="store_true", help="only compare the documents with the records")
    parser.add_argument("--list", action="store_true", help="only say what is missing or stale")
    parser.add_argument("--rates", action="store_true", help="only choose the missing rates of online learning")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="names or groups: 'part1-*'")
    parser.add_argument("--hours", type=float, help="start nothing that is not expected to end within that time")
    parser.add_argument("--no-requalify", action="store_true", help="train stale runs without first repeating them")
    parser.add_argument("--unsettled", action="store_true", help="train what differs by rounding on this machine")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), metavar="FOLDER", help="where runs train")
    given = parser.parse_args(arguments)
    if given.check:
        return check()
    for run in given.runs:
        keep(run, RECORDS)
    maker = Maker(RECORDS, given.output_dir, keep)
    if given.rates:
        choose_rates(maker)
        return 0
    runs = wanted(LIST, given.output_dir)
    found = states(runs, Archive(RECORDS))
    print(table(found, maker), flush=True)
    if unrated := [family for family in FAMILIES if family not in read_json(RATES)]:
        print(f"No rate of online learning is chosen for {', '.join(unrated)}: --rates does it.", flush=True)
    if given.list:
        for line in unmeasured(RECORDS / BENCHMARKS, latest_change(ROOT)):
            print(line)
        return 0
    choice = Choice(
        only=given.only,
        seconds=None if given.hours is None else 3600 * given.hours,
        requalify=not given.no_requalify,
        unsettled=given.unsettled,
    )
    try:
        if not given.runs:
            maker.make(found, choice)
    finally:
        write(runs)
    write_reports(DOCS / "studies", Archive(RECORDS))  # not after an interruption: their figures take a while
    return int(maker.failed > 0)


def check() -> int:
    """Compare the documents, without marks, with the records; print which differ, and return 1 if any does, else 0.

    Pictures count by name.
    """
    archive = Archive(RECORDS)
    differing = [page for page, text in pages(archive) if unmarked(page.read_text("utf-8")) != unmarked(text)]
    differing += [path for path in pictures(archive) if not path.is_file()]
    differing += differing_reports(archive)
    for page in differing:
        print(f"{page.relative_to(ROOT)} differs from the records: run make results.", file=sys.stderr)
    return int(bool(differing))


def write(runs: Sequence[Wanted]) -> None:
    """Write the documents with their pictures, and mark every record in them that is not by today's code."""
    archive = Archive(RECORDS)
    for path, draw in pictures(archive).items():  # before the pages, which link those that exist
        write_bytes(path, draw())
    kept = {f"{record.name}/{record.fingerprint}" for record in archive.records()}
    for page, text in pages(archive, Marks(kept - current(runs, archive))):
        write_text(page, text)


def write_reports(folder: Path, archive: Archive) -> None:
    """Write the report on each study in docs/studies, from its plan there and an archive alone, as FOLDER/NAME/…."""
    folder, records, plans = folder.absolute(), archive.folder.absolute(), _plans()
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):  # this machine's outputs are left out
        for plan in plans:
            write_report(read_results(plan, Path("outputs"), records), folder / plan.name, ["markdown"])


def differing_reports(archive: Archive) -> list[Path]:
    """Return the files in docs/studies that `write_reports` would add or change; pictures count by name."""
    kept = DOCS / "studies"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        write_reports(made, archive)
        files = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
        return [kept / file for file in files if _text(kept / file) != _text(made / file)]


def _plans() -> list[Plan]:
    return [Plan.load(path.parent) for path in sorted(DOCS.glob(f"studies/*/{PLAN}"))]


def _text(path: Path) -> str | None:
    """Return the text of a file, "" for a picture, and None if there is no such file."""
    if not path.is_file():
        return None
    return "" if path.suffix in (".png", ".pdf") else path.read_text(encoding="utf-8")


def pictures(archive: Archive) -> dict[Path, Callable[[], bytes]]:
    """Return the path of each picture in the pages, and a function that returns the PNG file."""
    drawn = pictures_of_part1(archive) | pictures_of_growth(archive.folder / BENCHMARKS)
    return {DOCS / "figures" / f"{name}.png": draw for name, draw in drawn.items()}


def pages(archive: Archive, marks: Marks = NONE) -> list[tuple[Path, str]]:
    """Return the documents: their paths and texts."""
    parts = [
        (README, "headline", headline(archive, marks)),
        (README, "models", overview(archive.records(), marks)),
        (DOCS / "track.md", "entries", track(archive.folder / TRACK)),
        (DOCS / "performance.md", "growth", growth(archive.folder / BENCHMARKS, DOCS)),
    ]
    found = {DOCS / "results.md": results_page(archive, DOCS, marks)}
    for page, part, text in parts:
        found[page] = rewritten(found.get(page) or page.read_text(encoding="utf-8"), part, text)
    return list(found.items())


def rewritten(page: str, what: str, text: str) -> str:
    """Return a page with new text between the two comments that name that part."""
    before, begin, rest = page.partition(f"<!-- {what}: written by make results -->\n")
    _, end, after = rest.partition(f"<!-- end of {what} -->\n")
    return f"{before}{begin}{text}\n{end}{after}"


def keep(run: Path, archive: Path, former: Record | None = None) -> Record:
    """Add a finished run to an archive, or replace the one of that name and fingerprint.

    The output folder, which belongs to the machine rather than to the run, is left out, and curves are thinned.

    Args:
        run: the run's folder.
        archive: folder of the archive; see `charlab.runs.archive.Archive`.
        former: the record that this one replaces; it stays if the report on a study in docs/studies uses it.

    Returns:
        The record as it was kept.

    Raises:
        UserError: if there is no finished run in the folder.
    """
    record = Record.load(run)
    if record.status != "finished":
        raise UserError(f"The run in {run} is {record.status}: finish it before keeping its record.")
    if record.config.get("debug"):
        raise UserError(f"The run in {run} was for debugging (debug={record.config['debug']}), and is not a result.")
    config = {key: value for key, value in record.config.items() if key != "output_dir"}
    overrides = [override for override in record.overrides if not override.startswith("output_dir=")]
    record = dataclasses.replace(record, config=config, overrides=overrides)
    with (run / CURVES).open(newline="") as curves:
        rows = thin(curves).splitlines()[1:]
    Archive(archive).add(record, sample(Record.load(run)), rows)  # drawn now if the run was not asked for one
    if former is not None and former.fingerprint != record.fingerprint:
        key = f"{former.name}/{former.fingerprint}"
        if not any(cell.run == key for plan in _plans() for cell in plan.cells):
            Archive(archive).remove(key)
    return record


def thin(curves: Iterable[str], points: int = KEPT_POINTS) -> str:
    """Return a `metrics.csv` thinned to about `points` evenly spaced rows per metric, with the first and last ones."""
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
        spaced = (total[metric] - seen[metric]) % math.ceil(total[metric] / points) == 0
        if spaced or seen[metric] <= FIRST_POINTS:
            writer.writerow(row)
    return text.getvalue()


def results_page(archive: Archive, docs: Path, marks: Marks = NONE) -> str:
    """Return the page for a folder of documents, from every record of an archive and the benchmarks next to it."""
    runs = archive.records()
    shown = [run for run in runs if run.name.startswith(SHOWN)]
    ladder = [run for run in runs if run.name.startswith("part1-")]
    sections = [
        "\n".join([HEADER.rstrip("\n"), *marks.sentence(shown), ""]),
        part1(archive, docs, marks),
        part2(
            [run for run in runs if run.name.startswith("part2-")],
            [*ladder, *(run for run in runs if run.name.startswith("online-"))],
            marks,
        ),
        losses([run for run in runs if run.name.startswith("benchmark-")], marks),
        benchmarks(archive.folder / BENCHMARKS),
    ]
    return "\n".join(filter(None, sections))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a run saves itself
    try:
        run_tool(main)
    except KeyboardInterrupt:
        print("Interrupted: what is finished is kept, and the same command resumes from there.", file=sys.stderr)
        sys.exit(130)
