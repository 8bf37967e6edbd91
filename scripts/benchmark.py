"""Measures charlab's speed and keeps the records: `python scripts/benchmark.py NAME…`, then `scripts/results.py`."""

import sys
from pathlib import Path

from charlab.benchmarks.program import main
from charlab.errors import UserError

if __name__ == "__main__":
    try:
        main(sys.argv[1:], Path(__file__).parents[1])
    except UserError as error:
        sys.exit(str(error))
