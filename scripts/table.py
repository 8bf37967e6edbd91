"""Makes the table of Part 2 in docs/results.md, and goes on with it: `python scripts/table.py --help`."""

import sys
from pathlib import Path

from charlab.errors import UserError
from charlab.runs.results.making import main

if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], Path(__file__).parents[1]))
    except UserError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on.")
