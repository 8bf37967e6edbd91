"""Write `docs/results.md` from the records of real runs."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable

from charlab.configuration.overrides import translate
from charlab.runs.record import Record

CHANGES = "+changes"  # the end of a commit from which files differed; see `charlab.runs.machine.git_commit`


def row(cells: Iterable[str]) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def quantity(value: float, unit: str, digits: int = 4) -> str:
    """Return a measured quantity with its unit, in so many significant digits or, from 1,000, in whole numbers."""
    is_small = float(f"{value:.{digits}g}") < 1000
    return f"{value:,.{digits}g} {unit}".strip() if is_small else f"{value:,.0f} {unit}".strip()


def command(run: Record) -> str:
    """Return the command that repeats a run; `force`, which is no part of what it is, is left out."""
    overrides = [override for override in run.overrides if not override.startswith("force=")]
    return f"charlab train {shlex.join(translate(overrides)[0])}"


def commit(known: str | None) -> str:
    """Return a commit in short, and whether files differed from it."""
    if known is None:
        return "no commit"
    return known[:8] if is_committed(known) else f"{known[:8]}, with uncommitted changes"


def is_committed(known: str | None) -> bool:
    """Return whether a commit is known, and no file differed from it."""
    return known is not None and not known.endswith(CHANGES)


def on_machines(named: Iterable[tuple[str, str]]) -> str:
    """Return "on MACHINE" for pairs of a name and a machine, or, of several machines, also what was made on which."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, machine in named:
        names[machine] += [name] if name not in names[machine] else []
    if len(names) == 1:
        return f"on {next(iter(names))}"
    return "; ".join(f"on {machine}: {', '.join(some)}" for machine, some in sorted(names.items()))
