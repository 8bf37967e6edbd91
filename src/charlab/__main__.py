"""The `charlab` command: `charlab COMMAND …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from charlab import __version__, cli
from charlab.command import command
from charlab.configuration.programs import VALUES

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (cli.train, "train a model and evaluate it, or run a sweep or a study"),
    "evaluate": (cli.evaluate, "compute the perplexity of a trained model"),
    "generate": (cli.generate, "write text with a trained model"),
    "report": (cli.report, "write the report on a study"),
    "find-lr": (cli.find_lr, "suggest a learning rate, by a short training"),
    "runs": (cli.runs, "list, compare, tag and remove runs"),
    "verify": (cli.verify, "check a run or a study without trusting it"),
    "export": (cli.export, "write a trained model for use without charlab"),
    "new": (cli.new, "write a model, a study or a project to start from"),
}
"""For each command: the function that runs it with its arguments and returns the exit code, and what it does."""


def usage() -> str:
    """Return what `charlab --help` prints."""
    listed = [f"charlab {name:8} …  {about}" for name, (_, about) in COMMANDS.items()]
    return f"""\
{chr(10).join(listed)}
charlab {"--version":10}  print the version

charlab COMMAND --help lists what a command takes. A first run, of two minutes:

  {command("train", "experiment=quickstart")}

Complete commands with Tab, in bash: eval "$(charlab -sc install=bash)\""""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `charlab COMMAND …` with these arguments, the command line's by default; return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    called = given[0] if given else "--help"
    if called in ("-sc", "--shell-completion"):
        return _complete(given)
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


def _complete(arguments: Sequence[str]) -> int:
    """Let Hydra complete a command's overrides, as it does for a program with a single command.

    A shell gives the line typed so far, `charlab train mod`, in the variable COMP_LINE.
    """
    if arguments[1:2] and arguments[1].startswith("query="):
        program, _, line = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
        called, space, rest = line.lstrip().partition(" ")
        if not space:
            print(" ".join(COMMANDS))
            return 0
        called = "train" if called == "find-lr" else called  # it takes the same overrides
        if called not in VALUES:  # not Hydra's
            print("model study project" if called == "new" else "")
            return 0
        os.environ["COMP_LINE"] = f"{program} {rest}"
        return COMMANDS[called][0](arguments)
    return cli.train(arguments)


if __name__ == "__main__":
    sys.exit(main())
