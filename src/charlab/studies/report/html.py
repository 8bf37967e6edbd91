"""The report as one self-contained web page; a notebook shows the part that starts at the style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from charlab.notebook import data_uri
from charlab.studies.report.contents import Contents, Judgment, Sample, Unfinished
from charlab.studies.report.document import Command, Group, Heading, Paragraph, Picture, Points, page
from charlab.studies.report.figures import AXES
from charlab.studies.report.sentences import Notice
from charlab.studies.report.style import ALARM, VERDICT_COLORS
from charlab.studies.report.tables import SYMBOLS, Entry, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
_TAGS = {
    "plain": Markup("{}"),
    "strong": Markup("<strong>{}</strong>"),
    "faint": Markup('<span class="faint">{}</span>'),
    "struck": Markup("<s>{}</s>"),
    "alarm": Markup('<strong class="alarm">{}</strong>'),
    "code": Markup("<code>{}</code>"),
}
_PARAGRAPHS = {"quote": Markup("<blockquote>{}</blockquote>")}


def render_html(contents: Contents, figures: Mapping[str, Figure]) -> str:
    """Return the page."""
    addresses = {name: data_uri(figure) for name, figure in figures.items()}
    parts = page(contents, {name.partition("-")[0] for name in figures})
    kind = "Sweep" if contents.plan.sweep else "Study"
    colors = "; ".join(f"--{name}: {color}" for name, color in {"alarm": ALARM, **VERDICT_COLORS}.items())
    css, script = (Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))
    return Markup((TEMPLATES / "report.html").read_text(encoding="utf-8")).format(
        kind=kind,
        name=contents.plan.name,
        summary=contents.summary,
        css=css,
        script=script,
        colors=colors,
        body=Markup("\n").join(_part(part, addresses) for part in parts),
    )


def _part(part: Any, pictures: Mapping[str, str]) -> Markup:
    match part:
        case Heading(text):
            return Markup("<h2>{}</h2>").format(text)
        case Paragraph(text, style):
            return _PARAGRAPHS.get(style, Markup('<p class="{1}">{0}</p>')).format(text, style)
        case Notice(level, text):
            role = Markup(' role="alert"') if level == "alarm" else ""
            return Markup('<p class="notice {}"{}>{}</p>').format(level, role, text)
        case Points(items):
            return Markup("<ul>\n{}</ul>").format(_lines("<li>{}</li>", items))
        case Group(kind, parts):
            inner = Markup("\n").join(_part(one, pictures) for one in parts)
            few = kind != "unfinished" or len(parts) <= 6  # else the reader opens those of interest
            inner = inner if few else Markup(inner.replace("<details open", "<details"))
            return Markup('<div class="{}">\n{}\n</div>').format(kind, inner)
        case Judgment():
            return _card(part)
        case Unfinished(cell, status, reason, command):
            shown = Markup('<pre class="reason">{}</pre>').format(reason) if reason else ""
            return Markup(
                '<details open class="unfinished"><summary><strong>{}</strong> <span class="alarm">{}</span></summary>'
                '{}<pre class="command">{}</pre></details>'
            ).format(cell, status, shown, command)
        case Sample(arm, text):
            return Markup('<figure class="sample"><figcaption>{}</figcaption><pre>{}</pre></figure>').format(arm, text)
        case Command(purpose, command):
            return Markup('<p class="purpose">{}</p>\n<pre class="command">{}</pre>').format(purpose, command)
        case Picture(name, alt, caption):
            images = [
                Markup('<img class="{}" src="{}" alt="{}">').format(name, address, AXES.get(key, alt))
                for key, address in pictures.items()
                if key.partition("-")[0] == name
            ]
            panels = "panels" if len(images) > 1 else "panel"
            frame = Markup('<figure><div class="{}">{}</div><figcaption>{}</figcaption></figure>')
            return frame.format(panels, Markup("\n").join(images), caption)
        case Table():
            return _table(part)
    raise TypeError(part)


def _lines(pattern: str, items: Any) -> Markup:
    return Markup("").join(Markup(f"{pattern}\n").format(item) for item in items)


def _card(judgment: Judgment) -> Markup:
    comparison, verdict, reason, expectation, caution, other = judgment
    mark = Markup('<p class="caution"><strong>{}</strong></p>\n').format(caution) if caution else ""
    return Markup(
        '<article class="card {0}">\n<h3>{1}</h3>\n'
        '<p class="verdict"><span aria-hidden="true">{2}</span> {3}</p>\n<p class="faint">expected to {4}</p>\n'
        '<p>{5}</p>\n{6}<p><span class="faint">Would it hold on other text?</span> {7}</p>\n</article>'
    ).format(judgment.shown, comparison.arm, SYMBOLS[judgment.shown], verdict, expectation, reason, mark, other)


def _table(table: Table) -> Markup:
    columns = list(zip(table.aligns, table.headings, strict=True))
    heading = Markup("").join(
        Markup('<th scope="col" class="{}"><button type="button">{}</button></th>').format(*column)
        for column in columns
    )
    classes = [align + " verdict" * (heading == "verdict") for align, heading in columns]
    rows = [
        Markup("").join(
            Markup('<td class="{}" data-key="{}">{}</td>').format(kind, _sort_key(entry), _shown(entry))
            for kind, entry in zip(classes, row, strict=True)
        )
        for row in table.rows
    ]
    return Markup(
        '<figure class="table"><div class="scroll" tabindex="0" role="region" aria-label="Table of {0}">\n'
        '<table class="{0}"><thead><tr>{1}</tr></thead><tbody>\n{2}</tbody></table></div>\n'
        '<figcaption>{3} <span class="hint">Click a heading to sort.</span></figcaption></figure>'
    ).format(table.name, heading, _lines("<tr>{}</tr>", rows), table.caption)


def _shown(entry: Entry) -> Markup:
    return Markup("").join(_TAGS[style].format(text) for text, style in entry.spans)


def _sort_key(entry: Entry) -> Any:
    """Return what the page sorts by; "" sorts last."""
    if isinstance(entry.key, float) and math.isinf(entry.key):
        return "Infinity" if entry.key > 0 else "-Infinity"  # as JavaScript reads it
    return "" if entry.key is None or entry.key != entry.key else entry.key
