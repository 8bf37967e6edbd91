"""The report as Markdown and as one web page that loads nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from charlab.studies.costs import COSTS
from charlab.studies.report.contents import Contents
from charlab.studies.report.sentences import RULES
from charlab.studies.report.style import ALARM, VERDICT_COLORS, data_uri
from charlab.studies.report.tables import SYMBOLS, Entry, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATES = Path(__file__).parent / "templates"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~$#&])")  # for Markdown
_MARKS = {"strong": "**", "alarm": "**", "struck": "~~", "faint": "", "plain": ""}
_TAGS = {
    "plain": "{}",
    "strong": "<strong>{}</strong>",
    "faint": '<span class="faint">{}</span>',
    "struck": "<s>{}</s>",
    "alarm": '<strong class="alarm">{}</strong>',
    "code": "<code>{}</code>",
}


class Raw(str):
    """A text that is escaped already."""

    __slots__ = ()


def environment(escape: Callable[[str], str] | None = None, **options: Any) -> jinja2.Environment:
    """Return what renders the templates; an undefined variable raises.

    Args:
        escape: applied to every value that a template prints unless it is `Raw`; None escapes for HTML.
        options: of `jinja2.Environment`.
    """
    finalize = None if escape is None else lambda value: value if isinstance(value, Raw) else escape(str(value))
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=escape is None,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def source(name: str) -> str:
    """Return the text of a template that is not rendered."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def render_html(contents: Contents, figures: Mapping[str, Figure]) -> str:
    """Return the page.

    Args:
        contents: what it says.
        figures: by name, from `Drawings.for_page`.
    """
    jinja = environment()
    jinja.filters |= {"shown": _shown, "sort_key": _sort_key}
    return jinja.get_template("report.html.jinja").render(
        contents=contents,
        plan=contents.plan,
        figures={name: data_uri(figure) for name, figure in figures.items()},
        costs={key: cost.axis for name, cost in COSTS.items() if (key := f"cost-{name}") in figures},
        symbols=SYMBOLS,
        rules=RULES,
        colors={"alarm": ALARM, **VERDICT_COLORS},
        style=Markup(source("report.css")),
        script=Markup(source("report.js")),
    )


def _shown(entry: Entry) -> Markup:
    return Markup("").join(Markup(_TAGS[style]).format(text) for text, style in entry.spans)


def _sort_key(entry: Entry) -> Any:
    """Return what the page sorts by; "" sorts last."""
    return "" if entry.key is None or entry.key != entry.key else entry.key


def render_markdown(contents: Contents, figures: Collection[str]) -> str:
    """Return the report as GitHub shows it; it includes `figures/NAME.png` for each name in `figures`."""
    jinja = environment(escape_markdown)
    jinja.filters |= {"table": _markdown_table, "block": markdown_block, "raw": Raw}
    text = jinja.get_template("report.md.jinja").render(
        contents=contents, plan=contents.plan, figures=figures, rules=RULES
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def escape_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def markdown_block(text: str, language: str = "") -> Raw:
    """Return a code block, with a fence longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Raw(f"{fence}{language}\n{text}\n{fence}")


def _markdown_table(table: Table) -> Raw:
    heading = [escape_markdown(column.heading) for column in table.columns]
    rule = ["---:" if column.align == "right" else "---" for column in table.columns]
    rows = [["".join(_markdown_span(*span) for span in entry.spans) for entry in row] for row in table.rows]
    return Raw("\n".join(f"| {' | '.join(row)} |" for row in [heading, rule, *rows]))


def _markdown_span(text: str, style: str) -> str:
    """Return a marked piece; spaces at its ends stay outside the marks, as Markdown requires."""
    if style == "code":
        return f"`{text.replace('`', '')}`"
    inner, mark = text.strip(), _MARKS[style]
    if not inner:
        return text
    before, _, after = text.partition(inner)
    return f"{before}{mark}{escape_markdown(inner)}{mark}{after}"
