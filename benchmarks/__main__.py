"""Measure charlab's speed next to plainer code and keep the records: `python -m benchmarks NAME…`."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from benchmarks import gpu, inference, losses, scale, training
from benchmarks.pairs import FILE_NAME, measure, save
from charlab.configuration.messages import nearest
from charlab.errors import UserError

ROOT = Path(__file__).parents[1]

BENCHMARKS = {
    **training.BENCHMARKS,
    **losses.BENCHMARKS,
    **inference.BENCHMARKS,
    **scale.BENCHMARKS,
    **gpu.BENCHMARKS,
}
"""For each name, a function that returns the benchmark."""
GROUPS = {"gpu": gpu.GROUP}
"""Names that stand for several benchmarks."""


def main(arguments: Sequence[str]) -> None:
    """Measure benchmarks by name and keep the record of each in `records/benchmarks.jsonl`.

    Raises:
        UserError: if one of the measured programs fails, or there is no GPU for a benchmark that needs one.
    """
    built = {name: make() for name, make in BENCHMARKS.items()}
    default = [name for name, benchmark in built.items() if not benchmark.is_asked_for]
    parser = ArgumentParser(
        prog="python -m benchmarks",
        description="Measure charlab next to plainer code, alternating between the two. Keep the machine idle.",
        epilog=f"Benchmarks: {', '.join(BENCHMARKS)}. Without a name, all but the slow ones run: {', '.join(default)}. "
        f"gpu stands for {', '.join(gpu.GROUP)}: 8 minutes on one H100 or H200, estimated from their steps.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks to run")
    parser.add_argument("--pairs", type=int, help="number of rounds; five or more for a trustworthy figure")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in BENCHMARKS and name not in GROUPS:
            parser.error(f"there is no benchmark {name}{nearest(name, [*BENCHMARKS, *GROUPS])}")
    os.chdir(ROOT)
    names = [member for name in given.names for member in GROUPS.get(name, (name,))]
    for name in names or default:
        pairs = given.pairs or built[name].pairs
        for record in measure(name, built[name], pairs, lambda line: print(line, flush=True)):
            save(record, ROOT / "records" / FILE_NAME)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
