"""Train a language model: `python scripts/train.py --help`."""

import sys

from charlab import cli

if __name__ == "__main__":
    sys.exit(cli.train())
