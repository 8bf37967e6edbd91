"""Marks of runs by earlier code. They depend on today's code; the rest of a page depends only on the records."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from charlab.quantities import count
from charlab.runs.record import Record

MARK = " †"


@dataclass(frozen=True)
class Marks:
    """The records that are not by today's code.

    Attributes:
        former: these records, as NAME/FINGERPRINT; empty to mark nothing.
    """

    former: Collection[str] = field(default=frozenset())

    def of(self, runs: Iterable[Record]) -> str:
        """Return the mark of a row that shows these runs; "" if all are by today's code."""
        return MARK if self._number(runs) else ""

    def sentence(self, runs: Iterable[Record]) -> list[str]:
        """Return the lines that explain the marks of these runs, the first one empty; none if none is marked."""
        number = self._number(runs)
        return ["", f"† made at least in part by earlier code: {count(number, 'run')}."] if number else []

    def _number(self, runs: Iterable[Record]) -> int:
        return sum(f"{run.name}/{run.fingerprint}" in self.former for run in runs)


NONE = Marks()


def unmarked(text: str) -> str:
    """Return a page without its marks, which is what the records alone determine."""
    return re.sub(r"\n\n†[^\n]*", "", text).replace(MARK, "")
