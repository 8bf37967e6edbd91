"""The `charlab` command: `charlab train | evaluate | generate | report`, each with overrides as Hydra takes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from charlab import __version__, cli

COMMANDS = {"train": cli.train, "evaluate": cli.evaluate, "generate": cli.generate, "report": cli.report}

USAGE = """\
charlab train …       train a model and evaluate it, or run a sweep or a study
charlab evaluate …    compute the perplexity of a trained model
charlab generate …    write text with a trained model
charlab report …      write the report on a study
charlab --version     print the version

charlab COMMAND --help lists what a command takes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `charlab COMMAND …` with these arguments, the command line's by default; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given[0] if given else "--help"
    if command in COMMANDS:
        return COMMANDS[command](given[1:])
    if "LOCAL_RANK" in os.environ:  # a ddp strategy starts further ranks from sys.argv, where Hydra wants no command
        return cli.train(given)
    if command == "--version":
        print(f"charlab {__version__}")
    elif command in ("--help", "-h"):
        print(USAGE)
    else:
        near = get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}."
        print(f"There is no command {command!r}: {hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
