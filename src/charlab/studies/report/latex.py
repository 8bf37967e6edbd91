"""The report as a short paper, to be finished by hand and compiled with pdflatex."""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
import unicodedata
from collections.abc import Collection

from charlab.studies.report.contents import Contents
from charlab.studies.report.render import Raw, environment
from charlab.studies.report.sentences import RULES
from charlab.studies.report.style import short_names
from charlab.studies.report.tables import Entry, Table

MOST_ARMS = 10  # four pages have room for no more
MOST_JUDGMENTS = 6  # beyond that, only the table has them
MOST_SAMPLES = 4
MOST_UNFINISHED = 5
SAMPLE_LINES, SAMPLE_COLUMNS = 9, 46
LONGEST = 600  # characters of a notice
COMMAND_COLUMNS = 104
LONGEST_LABEL = 20

_SIGNS = {
    **{sign: f"\\{sign}" for sign in "{}$&#%"},
    "_": r"\_\allowbreak{}", "-": "-{}", "\N{NO-BREAK SPACE}": "~",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
    '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "°": r"\textdegree{}", "–": r"\textendash{}", "—": r"\textemdash{}",
    "“": r"\textquotedblleft{}", "”": r"\textquotedblright{}", "‘": r"\textquoteleft{}", "’": r"\textquoteright{}",
    "…": r"\ldots{}", "−": r"\ensuremath{-}", "±": r"\ensuremath{\pm}", "×": r"\ensuremath{\times}",
    "≤": r"\ensuremath{\le}", "≥": r"\ensuremath{\ge}", "≈": r"\ensuremath{\approx}", "∞": r"\ensuremath{\infty}",
    "✓": r"\ensuremath{\checkmark}", "✗": r"\ensuremath{\times}", "→": r"\ensuremath{\rightarrow}",
    "·": r"\ensuremath{\cdot}",
}  # fmt: skip
_GREEK = {
    chr(code): unicodedata.name(chr(code)).rpartition(" ")[2].lower().replace("lamda", "lambda")  # as Unicode has it
    for code in range(ord("α"), ord("ω") + 1)
    if chr(code) not in "ος"
}
_WITHOUT_TYPE = frozenset("ĦħĸĿŀŉŦŧſ")  # letters of Latin Extended-A that TeX's T1 fonts lack
_IDENTIFYING = ("commit", "code")  # a reviewer could find the repository by them
_MARKS = {"strong": r"\textbf{%s}", "faint": r"\textcolor{faint}{%s}", "struck": r"\struck{%s}",
          "alarm": r"\textcolor{alarm}{\textbf{%s}}", "code": r"\texttt{%s}"}  # fmt: skip


def render_latex(contents: Contents, figures: Collection[str]) -> str:
    """Return the paper; it includes `figures/NAME.pdf` for each name in `figures`.

    What would make it longer than four pages is left to the other formats; see `abridge` for arms.
    """
    short = short_names(list(contents.arms), LONGEST_LABEL)
    jinja = environment(
        escape,
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    jinja.filters |= {
        "table": functools.partial(_table, short=short),
        "lines": _lines,
        "command": _command,
        "breakable": functools.partial(escape, breaks=True),
        "cut": _cut,
        "label": lambda arm: short.get(arm, arm),
    }
    judgments = contents.judgments if len(contents.judgments) <= MOST_JUDGMENTS else ()
    dropped = ["expected to", *["seeds to settle"] * bool(judgments)]  # columns that the judgments repeat
    text = jinja.get_template("report.tex.jinja").render(
        contents=contents,
        plan=contents.plan,
        figures=figures,
        rules=RULES,
        verdicts=contents.verdicts.without(*dropped) if contents.verdicts else None,
        judgments=judgments,
        samples=contents.samples[:MOST_SAMPLES],
        unfinished=contents.unfinished[:MOST_UNFINISHED],
        most_unfinished=MOST_UNFINISHED,
        environment={name: value for name, value in contents.environment.items() if name not in _IDENTIFYING},
        left_out=len(contents.plan.arms) - len(contents.arms),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def abridge(contents: Contents) -> Contents:
    """Return the contents without the arms beyond `MOST_ARMS`; the same object if there are no more."""
    kept = list(contents.arms)[:MOST_ARMS]
    if len(kept) == len(contents.arms):
        return contents
    gone = set(contents.arms) - set(kept)
    unprinted = {f"One cell of {arm}" for arm in gone}

    def without(table: Table) -> Table:
        rows = tuple(row for row in table.rows if row[0].key not in gone)
        return dataclasses.replace(table, rows=rows)

    return dataclasses.replace(
        contents,
        arms={arm: contents.arms[arm] for arm in kept},
        comparisons={arm: found for arm, found in contents.comparisons.items() if arm in kept},
        judgments=tuple(judgment for judgment in contents.judgments if judgment.comparison.arm in kept),
        verdicts=without(contents.verdicts) if contents.verdicts else None,
        results=without(contents.results),
        budgets=without(contents.budgets),
        samples=tuple(sample for sample in contents.samples if sample.arm in kept),
        commands={purpose: command for purpose, command in contents.commands.items() if purpose not in unprinted},
    )


def escape(text: str, *, breaks: bool = False) -> Raw:
    """Return a text that TeX prints as it is, on one line; with `breaks`, it may break after commas and the like."""
    written = "".join(map(_sign, " ".join(unicodedata.normalize("NFC", text).split())))
    return Raw(re.sub(r"([,=/.])(?=\S)", r"\1\\allowbreak{}", written) if breaks else written)


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if character in _GREEK:
        return rf"\ensuremath{{\{_GREEK[character]}}}"
    if character.isascii() and character.isprintable():
        return character
    if "À" <= character <= "ſ" and character.isalpha() and character not in _WITHOUT_TYPE:
        return character
    return rf"\unknown{{{ord(character):04X}}}"


def _table(table: Table, short: dict[str, str], *, faint: bool = True) -> Raw:
    """Return a tabular with the short names of arms, without what is faint if so told."""
    heading = " & ".join(escape(column.heading) for column in table.columns)
    rows = [" & ".join(_entry(entry, short, faint) for entry in row) + r" \\" for row in table.rows]
    columns = "".join("r" if column.align == "right" else "l" for column in table.columns)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heading + r" \\", r"\midrule", *rows, r"\bottomrule"]
    return Raw("\n".join([*lines, r"\end{tabular}"]))


def _entry(entry: Entry, short: dict[str, str], faint: bool) -> str:
    """Return an entry with its marks; a space at the start of a piece is kept."""
    pieces = []
    for text, style in entry.spans if faint or len(entry.spans) == 1 else entry.spans[:1]:
        inner = escape(short.get(text, text))
        space = "~" if text.startswith(" ") else ""
        pieces.append(space + (_MARKS[style] % inner if style in _MARKS else inner))
    return "".join(pieces)


def _lines(text: str) -> Raw:
    """Return the first lines of a text with their indentation."""
    shown = [line[:SAMPLE_COLUMNS] for line in text.split("\n")[:SAMPLE_LINES]]
    written = [r"\ " * (len(line) - len(line.lstrip())) + escape(line) for line in shown]
    return Raw("\\\\\n".join(line or r"\strut" for line in written))


def command_lines(command: str) -> list[str]:
    """Return a command in lines for a shell: broken between words, each but the last with a backslash at its end."""
    lines: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if lines and len(lines[-1]) + len(word) < COMMAND_COLUMNS:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}" if lines else word)
    return [*(f"{line} \\" for line in lines[:-1]), *lines[-1:]]


def _command(text: str) -> Raw:
    written = [r"\ " * (len(line) - len(line.lstrip())) + escape(line, breaks=True) for line in command_lines(text)]
    return Raw("\\\\\n".join(written))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
