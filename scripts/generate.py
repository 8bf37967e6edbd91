"""Generate text with a trained model: `python scripts/generate.py --help`."""

import sys

from charlab import cli

if __name__ == "__main__":
    sys.exit(cli.generate())
