"""The report as one web page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from charlab.studies.report.contents import RULES, Contents
from charlab.studies.report.figures import COSTS
from charlab.studies.report.pieces import Entry
from charlab.studies.report.tables import SYMBOLS
from charlab.studies.report.templating import environment, source

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TAGS = {
    "strong": ("<strong>", "</strong>"),
    "faint": ('<span class="faint">', "</span>"),
    "struck": ("<s>", "</s>"),
    "alarm": ('<strong class="alarm">', "</strong>"),
    "code": ("<code>", "</code>"),
}


def render_html(contents: Contents, figures: Mapping[str, Figure]) -> str:
    """Returns the page.

    Args:
        contents: what it says.
        figures: by name, as `drawings.for_page` draws them.
    """
    from charlab.studies.report.drawing import as_address

    jinja = environment(autoescape=True)
    jinja.filters |= {"shown": _shown, "sort_key": _sort_key}
    return jinja.get_template("report.html.jinja").render(
        contents=contents,
        plan=contents.plan,
        figures={name: as_address(figure) for name, figure in figures.items()},
        costs={f"cost-{cost}": label for cost, label in COSTS.items() if f"cost-{cost}" in figures},
        symbols=SYMBOLS,
        rules=RULES,
        style=Markup(source("report.css")),
        script=Markup(source("report.js")),
    )


def _shown(entry: Entry) -> Markup:
    """Returns an entry of a table with its marks."""
    pieces = []
    for text, style in entry.spans:
        before, after = _TAGS.get(style, ("", ""))
        pieces.append(Markup(before) + escape(text) + Markup(after))
    return Markup("").join(pieces)


def _sort_key(entry: Entry) -> Any:
    """Returns what the page sorts by; nothing where it comes last."""
    return "" if entry.key is None or entry.key != entry.key else entry.key
