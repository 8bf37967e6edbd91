"""Write `docs/results.md` from the records of real runs."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable

from charlab.configuration.overrides import translate
from charlab.runs.record import Record


def row(cells: Iterable[str]) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def command(run: Record) -> str:
    """Return the command that repeats a run."""
    return f"charlab train {shlex.join(translate(run.overrides)[0])}"


def on_machines(named: Iterable[tuple[str, str]]) -> str:
    """Return "on MACHINE" for pairs of a name and a machine, or, of several machines, also what was made on which."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, machine in named:
        names[machine] += [name] if name not in names[machine] else []
    if len(names) == 1:
        return f"on {next(iter(names))}"
    return "; ".join(f"on {machine}: {', '.join(some)}" for machine, some in sorted(names.items()))
