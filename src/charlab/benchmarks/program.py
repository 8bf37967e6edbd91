"""The program behind `scripts/benchmark.py`."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from charlab.benchmarks.catalog import BENCHMARKS
from charlab.benchmarks.pairs import measure, save
from charlab.configuration.nearest import nearest


def main(arguments: Sequence[str], root: Path) -> None:
    """Measures benchmarks by name, and keeps each one's record in `docs/records/benchmarks`.

    Args:
        arguments: the command line.
        root: the checkout.

    Raises:
        UserError: if something that is measured fails.
    """
    known = ", ".join(BENCHMARKS)
    parser = ArgumentParser(
        description="Measures charlab beside plainer code, in turn; let nothing else run meanwhile."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all but the last ones by default: {known}")
    parser.add_argument("--pairs", type=int, help="how many rounds; at least five for a figure to be believed")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in BENCHMARKS:
            parser.error(f"There is no benchmark {name}{nearest(name, BENCHMARKS)}")
    os.chdir(root)
    built = {name: BENCHMARKS[name]() for name in given.names or BENCHMARKS}
    for name, benchmark in built.items():
        if given.names or not benchmark.is_asked_for:
            for record in measure(
                name, benchmark, given.pairs or benchmark.pairs, lambda line: print(line, flush=True)
            ):
                save(record, root / "docs" / "records" / "benchmarks")
