"""Write the report on a study: `python scripts/report.py --help`."""

import sys

from charlab import cli

if __name__ == "__main__":
    sys.exit(cli.report())
