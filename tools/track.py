"""Measure, check and admit an entry of docs/track.md: `python -m tools.track 'WHAT IT CHANGED' OVERRIDE…`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch

from charlab.errors import UserError
from charlab.quantities import joined
from charlab.runs.record import Record
from tools import git, run_tool, write_text
from tools.results.__main__ import DOCS, RECORDS, ROOT, keep, rewritten
from tools.results.make import Maker
from tools.results.track import FILE, entry, faults, track
from tools.results.wanted import SEEDS, Item, wanted

SIZE, PRODUCTS = 1024, 50  # of the yardstick: rows of its square matrices, and how often it multiplies them


def main(arguments: Sequence[str]) -> int:
    """Measure an entry and admit it, or check runs; return 1 if they break a rule, else 0.

    Raises:
        UserError: if a run fails, there is none in a named folder, or the working copy differs from its commit.
    """
    parser = ArgumentParser(
        prog="python -m tools.track",
        description="Train an entry of docs/track.md with three seeds, each in its own process after the yardstick "
        "is measured; check it, and admit it. Keep the machine idle.",
    )
    parser.add_argument("--check", nargs="+", metavar="RUN", type=Path, help="only check the runs in these folders")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), metavar="FOLDER", help="where runs train")
    parser.add_argument("changed", nargs="?", help="what the entry changed, in a few words")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="experiment=benchmark/track, for example")
    given = parser.parse_args(arguments)
    if given.check:
        return _report([Record.load(run) for run in given.check])
    if not given.overrides:
        parser.error("say what the entry changed, and give its overrides")
    if changed := uncommitted(ROOT):
        raise UserError(f"Commit your changes first: an entry names its commit, which lacks {joined(changed)}.")
    runs, process_s, gflops = _measure(given.overrides, Maker(RECORDS, given.output_dir, keep))
    if _report(runs):
        return 1
    for run in runs:  # not before all are measured, as it changes records/, and so the commit of later runs
        keep(run.folder, RECORDS)
    file = RECORDS / FILE
    lines = file.read_text(encoding="utf-8") if file.exists() else ""
    lines += json.dumps(entry(given.changed, runs, process_s, gflops), ensure_ascii=False) + "\n"
    write_text(file, lines)
    page = DOCS / "track.md"
    write_text(page, rewritten(page.read_text(encoding="utf-8"), "entries", track(file)))
    return 0


def uncommitted(repository: Path) -> list[str]:
    """Return the changed and new files in a repository.

    Raises:
        UserError: if git does not tell.
    """
    said = git(repository, "status", "--porcelain", "--untracked-files")
    if said is None:
        raise UserError(f"An entry names its commit, but {repository} has none: run this in a clone of the repository.")
    return [line[3:] for line in said.splitlines()]


def yardstick() -> float:
    """Return the median rate of a float32 matrix product on two threads, in billions of operations per second."""
    threads, seconds = torch.get_num_threads(), []
    a, b = torch.rand(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(2)
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return 2e-9 * SIZE**3 / statistics.median(seconds)


def _measure(overrides: Sequence[str], maker: Maker) -> tuple[list[Record], list[float], list[float]]:
    """Train a run of each seed; return the runs, the seconds of each process, and the yardstick before each."""
    items = [Item("The track", (*overrides, f"seed={seed}"), figures=("sliding",)) for seed in SEEDS]
    runs, process_s, gflops = [], [], []
    for run in wanted(items, maker.output_dir):
        gflops.append(yardstick())
        began = time.monotonic()
        maker.train(run, "force=true")  # from the start, even if it was trained before
        process_s.append(time.monotonic() - began)
        runs.append(maker.finish(run))
        print(f"{run}: {process_s[-1]:.1f} s, yardstick {gflops[-1]:.0f}", flush=True)
    return runs, process_s, gflops


def _report(runs: Sequence[Record]) -> int:
    for fault in (found := faults(runs)):
        print(fault, file=sys.stderr)
    for run in runs:
        print(f"{run.name}, seed {run.seed}: {run.metric('blocks')['nll']:.4f} after {run.time['training_s']:.1f} s")
    return int(bool(found))


if __name__ == "__main__":
    run_tool(main)
