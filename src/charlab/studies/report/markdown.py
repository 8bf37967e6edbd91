"""The report as Markdown, as GitHub shows it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from charlab.studies.report.contents import Contents, Judgment, Sample, Unfinished
from charlab.studies.report.document import Command, Group, Heading, Paragraph, Picture, Points, page
from charlab.studies.report.sentences import Notice
from charlab.studies.report.tables import Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$#&])")
_LIST = re.compile(r"^(\d*)([-+.)])(?= |$)")  # the beginning of a list
_MARKS = {"strong": "**", "alarm": "**", "struck": "~~"}
_ALERTS = {"alarm": "CAUTION", "caution": "WARNING", "note": "NOTE"}


def render_markdown(contents: Contents, figures: Collection[str]) -> str:
    """Return the report; it includes `figures/NAME.png` for each name in `figures`."""
    parts = [_part(part) for part in page(contents, figures)]
    return "\n\n".join([f"# {escape(contents.plan.name)}", escape(f"{contents.summary}."), *filter(None, parts)]) + "\n"


def _part(part: Any) -> str:
    match part:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text):
            return escape(text)
        case Notice(level, text):
            return f"> [!{_ALERTS[level]}]\n> {escape(text)}"
        case Points(items):
            return "\n".join(f"- {escape(str(item))}" for item in items)
        case Group(kind, parts):
            return ("\n" if kind == "cards" else "\n\n").join(map(_part, parts))
        case Judgment():
            caution = f" **{escape(part.caution)}**" if part.caution else ""
            return (
                f"- **{escape(part.comparison.arm)}**, expected to {part.expectation}. {escape(part.reason)}{caution} "
                f"*Would it hold on other text?* {escape(part.other_text)}"
            )
        case Unfinished(cell, status, reason, command):
            blocks = [f"**{escape(cell)}**: {status}", *[block(reason)] * bool(reason), block(command, "sh")]
            return "\n\n".join(blocks)
        case Sample(arm, text):
            return f"**{escape(arm)}**\n\n{block(text, 'text')}"
        case Command(purpose, command):
            return f"{escape(purpose)}:\n\n{block(command, 'sh')}"
        case Picture(name, alt, caption):
            return f"![{alt}](figures/{name}.png)\n\n{escape(caption)}"
        case Table(name="cells"):
            return "Every cell is in [tables/cells.csv](tables/cells.csv); the other tables there have full precision."
        case Table():
            return f"{_table(part)}\n\n{escape(part.caption)}"
    raise TypeError(part)


def escape(text: str) -> str:
    """Return a text that Markdown shows verbatim, on one line."""
    return _LIST.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", " ".join(text.split())))


def block(text: str, language: str = "") -> str:
    """Return a code block, with a fence longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _table(table: Table) -> str:
    heading = list(map(escape, table.headings))
    rule = ["---:" if align == "right" else "---" for align in table.aligns]
    rows = [["".join(_span(*span) for span in entry.spans) for entry in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, rule, *rows])


def _span(text: str, style: str) -> str:
    """Return a piece of text with its mark; spaces at its ends stay outside the marks, as Markdown requires."""
    inner, mark = text.strip(), _MARKS.get(style, "")
    if not inner:
        return text
    before, _, after = text.partition(inner)
    return f"{before}{mark}{escape(inner)}{mark}{after}"
