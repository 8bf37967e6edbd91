"""A report as a document: its parts in reading order, independent of the format."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

from charlab.quantities import count
from charlab.studies.report.contents import Contents
from charlab.studies.report.sentences import RULES, TIME_RULES
from charlab.studies.report.tables import Span

Text = str | tuple[Span, ...]


class Heading(NamedTuple):
    """The heading of a section."""

    text: str


class Paragraph(NamedTuple):
    """A paragraph; a "place" is for the author to fill in."""

    text: str
    style: Literal["plain", "quote", "faint", "rules", "place"] = "plain"


class Points(NamedTuple):
    """A list; in the paper, a small paragraph if it is long and seldom read."""

    items: tuple[Text, ...]
    small: bool = False


class Picture(NamedTuple):
    """A figure by its name: "differences", "scaling", "factors", "curves" or "costs"."""

    name: str
    alt: str
    caption: str


class Pointers(NamedTuple):
    """A sentence that refers to tables and figures by their names."""

    tables: tuple[str, ...]
    figures: tuple[str, ...]


class Command(NamedTuple):
    """A command and its purpose."""

    purpose: str
    command: str


class Group(NamedTuple):
    """Parts of one kind, next to each other if there is room."""

    kind: Literal["cards", "samples", "commands", "unfinished"]
    parts: tuple[Any, ...]


_WHERE = "Where the difference is (exploratory)"
ALTS = {
    "differences": "Differences from the baseline for each arm, seed by seed, with mean, interval and margin",
    "factors": "Loss on validation text against the varied numbers",
    "scaling": "Loss against size, with the law of each family",
    "curves": "Loss on validation text against steps, characters and seconds",
    "costs": "Loss against cost",
}


def page(contents: Contents, figures: Collection[str]) -> Iterator[Any]:
    """Yield the parts of a report for a screen: the kinds above, notices, tables; judgments and the like in groups."""
    plan, law = contents.plan, contents.scaling
    yield from contents.notices
    if not plan.sweep:
        none = Paragraph("No hypothesis was stated.", "faint")
        yield from _section("Hypothesis", Paragraph(plan.hypothesis, "quote") if plan.hypothesis else none)
    if contents.verdicts:
        drawn = _pictures(contents, figures, "differences")
        rules = Paragraph(_rules(contents), "rules")
        yield from _section("Verdicts", Group("cards", contents.judgments), *drawn, contents.verdicts.without(), rules)
    yield from _section("Law over sizes", *_pictures(contents, figures, "scaling"), law and Points(law.sentences))
    yield from _section("Results", contents.results)
    yield from _section("Costs", contents.budgets)
    yield from _section("Tuning", contents.tuning)
    yield from _section("Best values", *_pictures(contents, figures, "factors"), _best_values(contents))
    older = f"Run by other code than today's: {contents.older}." if contents.older else ""
    unfinished = _group("unfinished", contents.unfinished)
    yield from _section("Cells that need attention", unfinished, *_waiting(contents), *_faint(older))
    yield from _section("Learning curves", *_pictures(contents, figures, "curves"))
    yield from _section("Quality against cost", *_pictures(contents, figures, "costs"))
    yield from _section(_WHERE, *contents.where.tables, *_faint(contents.where.note))
    yield from _section("Samples", _group("samples", contents.samples))
    yield from _section("Method", Points(contents.method), contents.settings)
    yield from _section("Limits", Points(contents.limits))
    yield from _section("Reproduce", _commands(contents))
    environment = Points(tuple(f"{name}: {value}" for name, value in contents.environment.items()))
    yield from _section("Cells", contents.cells, environment)
    yield from _section("References", _sources(contents))


def paper(contents: Contents, figures: Collection[str], *, judged: bool) -> Iterator[Any]:
    """Yield the parts of a paper, with placeholders for what only its author knows.

    Args:
        judged: whether there is room for a sentence on each arm.
    """
    plan, verdicts, law = contents.plan, contents.verdicts, contents.scaling
    pictures = _pictures(contents, figures, "scaling", "differences", "factors", "curves", "costs")
    yield from contents.notices
    none = Paragraph("Hypothesis: none was stated before the runs.", "place")
    yield from _section(
        "Hypothesis",
        Paragraph(plan.hypothesis, "quote") if plan.hypothesis else none,
        Paragraph("Why it may be true, and what is already known, with references.", "place"),
        *pictures[:1],
    )
    left_out = len(plan.arms) - len(contents.arms)
    are = f"{count(left_out, 'more arm')} {'is' if left_out == 1 else 'are'}"
    yield from _section(
        "Method",
        Paragraph(" ".join([*contents.method, *[_rules(contents)] * bool(verdicts)])),
        Paragraph("What else the reader has to know; an anonymous link to the code.", "place"),
        Paragraph("The arms:"),
        Points(tuple(_arm(contents, arm) for arm in contents.arms)),
        Paragraph(f"{are} in the other formats of this report and in its tables.") if left_out else None,
        contents.settings,
    )
    tables = (contents.settings, verdicts, contents.results, contents.budgets, contents.tuning)
    failed = (Paragraph("Cells that need attention:"), Group("unfinished", contents.unfinished))
    yield from _section(
        "Results",
        Pointers(tuple(table.name for table in tables if table), tuple(picture.name for picture in pictures)),
        verdicts and verdicts.without("expected to", *["seeds to settle"] * judged),  # which the judgments repeat
        contents.results,
        contents.budgets,
        contents.tuning,
        *pictures[1:],
        law and Points(law.sentences),
        _best_values(contents),
        Group("cards", contents.judgments) if judged else None,
        *_waiting(contents),
        *(failed if contents.unfinished else ()),
        Paragraph("What this means: where the hypothesis holds, where it does not, and why; one paragraph.", "place"),
    )
    if contents.where.tables:
        parts = contents.where.tables[0]  # the passages are in the other formats
        yield from _section(_WHERE, Pointers((parts.name,), ()), parts, *_faint(contents.where.note))
    yield from _section("Samples", _group("samples", contents.samples))
    missing = Paragraph("What else must be known before anyone relies on this.", "place")
    yield from _section("Limits", Points(contents.limits), missing)
    yield from _section("Reproduce", _commands(contents))
    yield from _section("References", _sources(contents))


def _section(heading: str, *parts: Any) -> Iterator[Any]:
    """Yield a heading and the parts below it that are not None; nothing if all are."""
    if found := [part for part in parts if part is not None]:
        yield from (Heading(heading), *found)


def _group(kind: Literal["samples", "unfinished"], parts: tuple[Any, ...]) -> Group | None:
    return Group(kind, parts) if parts else None


def _faint(*texts: str) -> list[Paragraph]:
    return [Paragraph(text, "faint") for text in texts if text]


def _waiting(contents: Contents) -> list[Paragraph]:
    return _faint(*(f"{label}: {names}." for label, names in contents.waiting.items()))


def _pictures(contents: Contents, figures: Collection[str], *names: str) -> list[Picture]:
    return [Picture(name, ALTS[name], contents.captions[name]) for name in names if name in figures]


def _rules(contents: Contents) -> str:
    return RULES if contents.plan.target is None else f"{RULES} {TIME_RULES}"


def _best_values(contents: Contents) -> Points | None:
    margin = contents.plan.margin
    sentences = tuple(sentence for factor in contents.factors for sentence in factor.sentences(margin))
    return Points(sentences) if sentences else None


def _commands(contents: Contents) -> Group:
    return Group("commands", tuple(Command(purpose, command) for purpose, command in contents.commands.items()))


def _sources(contents: Contents) -> Points | None:
    return Points(tuple(source.listed for source in contents.sources), small=True) if contents.sources else None


def _arm(contents: Contents, name: str) -> Text:
    overrides = contents.plan.arm(name).overrides
    settings = Span(" ".join(overrides), "code") if overrides else Span("the settings shared by all")
    baseline = " (baseline)" if contents.arms[name].is_baseline else ""
    return Span(name, "strong"), Span(f"{baseline}: "), settings
