"""The report as Markdown, as GitHub shows it, with figures beside it."""

from __future__ import annotations

import re
from collections.abc import Collection

from charlab.studies.report.contents import RULES, Contents
from charlab.studies.report.pieces import Entry, Table
from charlab.studies.report.templating import Raw, environment, finalizer

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$#&])")
_MARKS = {"strong": "**", "alarm": "**", "struck": "~~", "faint": "", "plain": ""}


def render_markdown(contents: Contents, figures: Collection[str]) -> str:
    """Returns the report; it shows `figures/NAME.png` for each name in `figures`."""
    jinja = environment(finalize=finalizer(escape))
    jinja.filters |= {"table": _table, "block": _block, "raw": Raw}
    text = jinja.get_template("report.md.jinja").render(
        contents=contents, plan=contents.plan, figures=figures, rules=RULES
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def escape(text: str) -> str:
    """Returns a text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _table(table: Table) -> Raw:
    heading = [escape(column.heading) for column in table.columns]
    rule = ["---:" if column.align == "right" else "---" for column in table.columns]
    rows = [[_entry(entry) for entry in row] for row in table.rows]
    return Raw("\n".join(f"| {' | '.join(row)} |" for row in [heading, rule, *rows]))


def _entry(entry: Entry) -> str:
    return "".join(_span(text, style) for text, style in entry.spans)


def _span(text: str, style: str) -> str:
    """Returns a marked piece; spaces at its ends stay outside of the marks, where Markdown wants them."""
    if style == "code":
        return f"`{text.replace('`', '')}`"
    inner, mark = text.strip(), _MARKS[style]
    if not inner:
        return text
    before, _, after = text.partition(inner)
    return f"{before}{mark}{escape(inner)}{mark}{after}"


def _block(text: str, language: str = "") -> Raw:
    """Returns a block of text shown as it is, with a fence longer than any within."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Raw(f"{fence}{language}\n{text}\n{fence}")
