"""The `charlab` command: `charlab COMMAND …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from charlab import __version__, cli

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (cli.train, "train a model and evaluate it, or run a sweep or a study"),
    "evaluate": (cli.evaluate, "compute the perplexity of a trained model"),
    "generate": (cli.generate, "write text with a trained model"),
    "report": (cli.report, "write the report on a study"),
    "find-lr": (cli.find_lr, "suggest a learning rate, by a short training"),
    "runs": (cli.runs, "list, compare and remove runs"),
    "export": (cli.export, "write a trained model for use without charlab"),
}
"""For each command: the function that runs it with its arguments and returns the exit code, and what it does."""

_FIRST_STEPS = """\
charlab COMMAND --help lists what a command takes. A first run, of two minutes:

  charlab train experiment=quickstart

Complete commands with Tab, in bash: eval "$(charlab -sc install=bash)\""""


def usage() -> str:
    """Return what `charlab --help` prints."""
    listed = [f"charlab {name:8} …  {about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join([*listed, f"charlab {'--version':10}  print the version", "", _FIRST_STEPS])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `charlab COMMAND …` with these arguments, the command line's by default; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    called = given[0] if given else "--help"
    if called in COMMANDS:
        return COMMANDS[called][0](given[1:])
    if "LOCAL_RANK" in os.environ:  # a ddp strategy starts further ranks from sys.argv, where Hydra wants no command
        return cli.train(given)
    if called == "--version":
        print(f"charlab {__version__}")
    elif called in ("--help", "-h"):
        print(usage())
    else:
        near = get_close_matches(called, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}."
        print(f"There is no command {called!r}: {hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
