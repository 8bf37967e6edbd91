"""Compute the perplexity of a trained model: `python scripts/evaluate.py --help`."""

import sys

from charlab import cli

if __name__ == "__main__":
    sys.exit(cli.evaluate())
