"""What a report is made of, in no particular format: marked text, tables, notices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

UNKNOWN = "–"

Style = Literal["plain", "strong", "faint", "struck", "alarm", "code"]


class Span(NamedTuple):
    """A piece of text, not yet escaped for any format."""

    text: str
    style: Style = "plain"


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table.

    Attributes:
        spans: what is shown.
        key: what a reader's sorting goes by; None comes last.
    """

    spans: tuple[Span, ...]
    key: float | str | None = None

    @property
    def text(self) -> str:
        """What is shown, without its marks."""
        return "".join(span.text for span in self.spans)


class Column(NamedTuple):
    """A table's column; figures stand to the right."""

    heading: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: fit for a file; its CSV is called so.
        caption: what it shows and how to read it.
        columns: from left to right.
        rows: an entry per column.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]

    def without(self, *headings: str) -> Table:
        """Returns the table without these columns, and without those in which nothing is known."""
        kept = [
            index
            for index, column in enumerate(self.columns)
            if column.heading not in headings and any(row[index].text != UNKNOWN for row in self.rows)
        ]
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return Table(self.name, self.caption, tuple(self.columns[index] for index in kept), rows)


class Notice(NamedTuple):
    """What has to be read before anything else."""

    level: Literal["alarm", "caution", "note"]
    text: str


def entry(text: str, key: float | str | None = None, style: Style = "plain") -> Entry:
    """Returns an entry of one piece, sorted by its text if by nothing else."""
    return Entry((Span(text, style),), text if key is None else key)


def joined(words: Sequence[str], conjunction: str = "and", most: int = 8) -> str:
    """Returns a list as it is written in a sentence; of more than `most` words, the first and how many more."""
    if len(words) > most:
        return f"{', '.join(words[:most])} {conjunction} {len(words) - most} more"
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"
