"""The process of one cell of a study: `scripts/train.py` that ends when its watcher does.

`python -m charlab.cell OVERRIDE …`, with the reading end of a pipe as its standard input.
"""

import sys

from charlab.studies.guard import end_with_watcher

if __name__ == "__main__":
    end_with_watcher()
    from charlab import cli

    sys.exit(cli.train())
