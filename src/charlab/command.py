"""How the user calls charlab: every command that charlab prints has the form of the one that was typed."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SCRIPTS = ("train", "evaluate", "generate", "report")
"""The programs that a checkout also has in its folder `scripts`."""
_VARIABLE = "CHARLAB_CALLED_BY"


def remember_call() -> None:
    """Remember how this process was called, also for the processes that it starts: the cells of a study."""
    os.environ[_VARIABLE] = sys.argv[0]


def command(program: str, *arguments: str) -> str:
    """Return a command line in the form that the user used: `charlab`, `python -m charlab` or `python scripts/….py`.

    >>> command("evaluate", "run=outputs/runs/first")
    'charlab evaluate run=outputs/runs/first'
    """
    called = Path(os.environ.get(_VARIABLE, sys.argv[0]))
    package = Path(__file__).parent
    if called.resolve().parent == package.parents[1] / "scripts" and program in SCRIPTS:
        words = ["python", str(called.with_name(f"{program}.py"))]
    elif called.suffix == ".py" and called.resolve().parent in (package, package.parents[1] / "scripts"):
        words = ["python", "-m", "charlab", program]
    else:
        words = ["charlab", program]
    return shlex.join([*words, *arguments])


def split_options(arguments: Sequence[str], defaults: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the value of each option, given as KEY=VALUE or by default, and the remaining arguments.

    >>> split_options(["status=finished", "limit=3"], {"limit": "100", "sort": ""})
    ({'limit': '3', 'sort': ''}, ['status=finished'])
    """
    options, rest = dict(defaults), []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if separator and key in options:
            options[key] = value
        else:
            rest.append(argument)
    return options, rest
