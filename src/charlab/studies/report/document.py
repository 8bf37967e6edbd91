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


_ALTS = {
    "differences": "Differences from the baseline for each arm, seed by seed, with mean, interval and margin",
    "factors": "Loss on validation text against the varied numbers",
    "scaling": "Loss against size, with the law of each family",
    "curves": "Loss on validation text against steps, characters and seconds",
    "costs": "Loss against cost",
}


def page(contents: Contents, figures: Collection[str]) -> Iterator[Any]:
    """Yield the parts of a report for a screen: the kinds above, notices, tables; judgments and the like in groups."""
    yield from contents.notices
    if not contents.plan.sweep:
        yield Heading("Hypothesis")
        stated = contents.plan.hypothesis
        yield Paragraph(stated, "quote") if stated else Paragraph("No hypothesis was stated.", "faint")
    if contents.verdicts:
        yield Heading("Verdicts")
        yield Group("cards", contents.judgments)
        yield from _pictures(contents, figures, "differences")
        yield contents.verdicts.without()
        yield Paragraph(_rules(contents), "rules")
    if contents.scaling:
        yield Heading("Law over sizes")
        yield from _pictures(contents, figures, "scaling")
        yield Points(contents.scaling.sentences)
    yield from (Heading("Results"), contents.results, Heading("Costs"), contents.budgets)
    if contents.tuning:
        yield from (Heading("Tuning"), contents.tuning)
    if contents.factors:
        yield Heading("Best values")
        yield from _pictures(contents, figures, "factors")
        yield _best_values(contents)
    if contents.unfinished or contents.waiting or contents.older:
        yield Heading("Cells that need attention")
        yield Group("unfinished", contents.unfinished)
        yield from (Paragraph(f"{label}: {names}.", "faint") for label, names in contents.waiting.items())
        if contents.older:
            yield Paragraph(f"Run by other code than today's: {contents.older}.", "faint")
    for name, heading in (("curves", "Learning curves"), ("costs", "Quality against cost")):
        if name in figures:
            yield Heading(heading)
            yield from _pictures(contents, figures, name)
    if contents.where.arms or contents.where.note:
        yield Heading("Where the difference is (exploratory)")
        yield from contents.where.tables
        yield from [Paragraph(contents.where.note, "faint")] * bool(contents.where.note)
    if contents.samples:
        yield from (Heading("Samples"), Group("samples", contents.samples))
    yield from (Heading("Method"), Points(contents.method))
    if contents.settings:
        yield contents.settings
    yield from (Heading("Limits"), Points(contents.limits))
    yield from (Heading("Reproduce"), _commands(contents), Heading("Cells"), contents.cells)
    yield Points(tuple(f"{name}: {value}" for name, value in contents.environment.items()))
    if contents.sources:
        yield from (Heading("References"), Points(tuple(source.listed for source in contents.sources), small=True))


def paper(contents: Contents, figures: Collection[str], *, judged: bool) -> Iterator[Any]:
    """Yield the parts of a paper, with placeholders for what only its author knows.

    Args:
        judged: whether there is room for a sentence on each arm.
    """
    plan, verdicts = contents.plan, contents.verdicts
    yield from contents.notices
    yield Heading("Hypothesis")
    none = Paragraph("Hypothesis: none was stated before the runs.", "place")
    yield Paragraph(plan.hypothesis, "quote") if plan.hypothesis else none
    yield Paragraph("Why it may be true, and what is already known, with references.", "place")
    pictures = list(_pictures(contents, figures, "scaling", "differences", "factors", "curves", "costs"))
    yield from pictures[:1]
    yield Heading("Method")
    yield Paragraph(" ".join([*contents.method, *[_rules(contents)] * bool(verdicts)]))
    yield Paragraph("What else the reader has to know; an anonymous link to the code.", "place")
    yield Paragraph("The arms:")
    yield Points(tuple(_arm(contents, arm) for arm in contents.arms))
    if left_out := len(plan.arms) - len(contents.arms):
        are = "is" if left_out == 1 else "are"
        yield Paragraph(f"{count(left_out, 'more arm')} {are} in the other formats of this report and in its tables.")
    if contents.settings:
        yield contents.settings
    yield Heading("Results")
    tables = [
        table for table in (contents.settings, verdicts, contents.results, contents.budgets, contents.tuning) if table
    ]
    yield Pointers(tuple(table.name for table in tables), tuple(picture.name for picture in pictures))
    if verdicts:
        yield verdicts.without("expected to", *["seeds to settle"] * judged)  # which the judgments repeat
    yield from (contents.results, contents.budgets)
    if contents.tuning:
        yield contents.tuning
    yield from pictures[1:]
    if contents.scaling:
        yield Points(contents.scaling.sentences)
    if contents.factors:
        yield _best_values(contents)
    if judged:
        yield Group("cards", contents.judgments)
    yield from (Paragraph(f"{label}: {names}.", "faint") for label, names in contents.waiting.items())
    if contents.unfinished:
        yield from (Paragraph("Cells that failed or diverged:"), Group("unfinished", contents.unfinished))
    yield Paragraph("What this means: where the hypothesis holds, where it does not, and why; one paragraph.", "place")
    if contents.where.tables:
        parts, _ = contents.where.tables  # the passages are in the other formats
        yield from (Heading("Where the difference is (exploratory)"), Pointers((parts.name,), ()), parts)
    if contents.samples:
        yield from (Heading("Samples"), Group("samples", contents.samples))
    yield from (Heading("Limits"), Points(contents.limits))
    yield Paragraph("What else must be known before anyone relies on this.", "place")
    yield from (Heading("Reproduce"), _commands(contents))
    if contents.sources:
        yield from (Heading("References"), Points(tuple(source.listed for source in contents.sources), small=True))


def _pictures(contents: Contents, figures: Collection[str], *names: str) -> Iterator[Picture]:
    yield from (Picture(name, _ALTS[name], contents.captions[name]) for name in names if name in figures)


def _rules(contents: Contents) -> str:
    return RULES if contents.plan.target is None else f"{RULES} {TIME_RULES}"


def _best_values(contents: Contents) -> Points:
    margin = contents.plan.margin
    return Points(tuple(sentence for factor in contents.factors for sentence in factor.sentences(margin)))


def _commands(contents: Contents) -> Group:
    return Group("commands", tuple(Command(purpose, command) for purpose, command in contents.commands.items()))


def _arm(contents: Contents, name: str) -> Text:
    overrides = contents.plan.arm(name).overrides
    settings = Span(" ".join(overrides), "code") if overrides else Span("the settings shared by all")
    baseline = " (baseline)" if name == contents.plan.baseline else ""
    return Span(name, "strong"), Span(f"{baseline}: "), settings
