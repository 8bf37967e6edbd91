"""Write `docs/results.md` from the records of real runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from charlab.configuration.overrides import translate
from charlab.runs.record import Record


def row(cells: Iterable[str]) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def command(run: Record) -> str:
    """Return the command that repeats a run."""
    return f"charlab train {shlex.join(translate(run.overrides)[0])}"
