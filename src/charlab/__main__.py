"""`python -m charlab COMMAND …`."""

import sys

from charlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
