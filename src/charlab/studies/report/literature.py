"""What a report cites: the source of every method that its runs were configured with, and of its statistics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from charlab.runs.definitions import targets

if TYPE_CHECKING:
    from charlab.runs.record import Record
    from charlab.studies.plan import Plan

BIBLIOGRAPHY = "references.bib"
_VENUES = ("journal", "booktitle", "institution", "howpublished")


class Source(NamedTuple):
    """An entry of the bibliography.

    Attributes:
        entry: the entry in BibTeX.
        covers: the constructors and statistics that it is the source of.
        cited: how a text cites it, as in "Su et al. 2021".
        listed: how a list of references shows it.
    """

    entry: str
    covers: tuple[str, ...]
    cited: str
    listed: str


@cache
def bibliography() -> tuple[Source, ...]:
    """Return all sources that charlab knows, by author and year."""
    text = files(__package__).joinpath(BIBLIOGRAPHY).read_text(encoding="utf-8")
    found = (_source(entry) for entry in re.findall(r"^@.*?^\}\n", text, flags=re.M | re.S))
    return tuple(sorted(found, key=lambda source: source.listed))


def _source(entry: str) -> Source:
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", entry, flags=re.M))
    keywords = re.split(r" (?=charlab|torch)", fields["keywords"])
    names = [author.partition(",")[0] for author in fields["author"].split(" and ")]
    few = len(names) < 3 and "others" not in names
    cited = f"{' and '.join(names) if few else f'{names[0]} et al.'} {fields['year']}"
    full = [" ".join(reversed(author.split(", "))) for author in fields["author"].split(" and ")]
    authors = ", ".join(full) if len(full) < 4 and "others" not in full else f"{full[0]} et al."
    venue = next(fields[name] for name in _VENUES if name in fields)
    where = f"{venue} {fields['volume']}" if "volume" in fields else venue
    title = f"{fields['title']}{'' if fields['title'].endswith('?') else '.'}"
    listed = f"{authors.removesuffix('.')}. {title} {where}, {fields['year']}."
    plain = re.sub(r"^  keywords = .*\n", "", entry, flags=re.M)
    return Source(plain, tuple(keywords), cited, re.sub("[{}]", "", listed))


class Citation(NamedTuple):
    """A method that a study used, by the name of its constructor ("" for one of statistics), and its source."""

    method: str
    source: Source


def literature(plan: Plan, records: Sequence[Record]) -> tuple[Citation, ...]:
    """Return the methods that a study's runs were configured with, and those of its statistics, with their sources."""
    used = {target for record in records for target in targets(record.config)}
    if plan.compares:
        used |= {"other text"} if plan.target is None else set()  # stretches of the text have no times
        used |= {"several arms"} if len(plan.arms) > 2 else set()
        used |= {"planned looks"} if plan.planned_looks else set()
    return tuple(
        Citation(what.rpartition(".")[2] if "." in what else "", source)
        for source in bibliography()
        for what in source.covers
        if what in used
    )
