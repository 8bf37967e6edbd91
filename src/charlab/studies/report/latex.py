"""The report as a short paper, to be finished by hand and compiled with pdflatex."""

from __future__ import annotations

import dataclasses
import re
import shlex
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from charlab.quantities import joined
from charlab.studies.report.contents import Contents, Judgment, Sample, Unfinished
from charlab.studies.report.document import Group, Heading, Paragraph, Picture, Pointers, Points, paper
from charlab.studies.report.sentences import Notice
from charlab.studies.report.style import short_names
from charlab.studies.report.tables import Entry, Span, Table

MOST_ARMS = 10  # four pages have room for no more
MOST_JUDGMENTS = 6  # beyond that, only the table has them
MOST_SAMPLES = 4  # with samples of more arms, none is shown
MOST_UNFINISHED = 5
SAMPLE_LINES, SAMPLE_COLUMNS = 9, 46
LONGEST = 600  # characters of a notice
COMMAND_COLUMNS = 104
LONGEST_LABEL = 20

_SIGNS = {
    **{sign: f"\\{sign}" for sign in "{}$&#%"},
    "_": r"\_\allowbreak{}", "-": "-{}",
    "[": "{[}", "*": "{*}",  # at the start of a line, TeX takes them for options of the line break before it
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
          "alarm": r"\textcolor{alarm}{\textbf{%s}}", "code": r"\texttt{\small %s}"}  # fmt: skip


def render_latex(contents: Contents, figures: Collection[str]) -> str:
    """Return the paper; it includes `figures/NAME.pdf` for each name in `figures`.

    Whatever would make it longer than four pages is only in the other formats; see `abridge` for arms.
    """
    short = short_names(list(contents.arms), LONGEST_LABEL)
    judged = 0 < len(contents.judgments) <= MOST_JUDGMENTS
    environment = [f"{name}: {value}" for name, value in contents.environment.items() if name not in _IDENTIFYING]
    shown = contents if len(contents.samples) <= MOST_SAMPLES else dataclasses.replace(contents, samples=())
    body = [_part(part, short) for part in paper(shown, figures, judged=judged)]
    small = rf"{{\small {escape(_cut('; '.join(environment)))}.\par}}"
    return "\n\n".join([_PREAMBLE % escape(contents.plan.name), *body, small, "\\end{document}\n"])


_PREAMBLE = r"""%% Written by charlab from the records of a study. Replace every \place{...} by your own text.
%% Compile with: latexmk -pdf report.tex
\documentclass[10pt]{article}
\usepackage{charlab}
\title{\place{Title} \\[2pt] \large Study \texttt{%s}}
\author{Anonymous author(s)}
\begin{document}
\maketitle
\suppressfloats[t]

\begin{abstract}
\place{Abstract: the question, what was done, what was found, what it means; four sentences.}
\end{abstract}"""
_LEVELS = {"alarm": r"\notice{alarm}{\bfseries %s}", "caution": r"\notice{caution}{%s}", "note": r"\notice{faint}{%s}"}
_SHOWN = {
    "differences": "differences seed by seed",
    "scaling": "loss against size, with the fitted laws",
    "factors": "loss against what was varied",
    "curves": "loss during training",
    "costs": "loss against its cost",
    "where": "differences by part of the text",
}
_PARAGRAPHS = {"quote": r"\emph{%s}", "place": r"\place{%s}"}


def _part(part: Any, short: Mapping[str, str]) -> str:
    match part:
        case Heading(text):
            return rf"\section{{{escape(text)}}}"
        case Paragraph(text, style):
            return _PARAGRAPHS.get(style, "%s") % escape(_cut(text) if style == "faint" else text)
        case Notice(level, text):
            return _LEVELS[level] % escape(_cut(text))
        case Points(items, small):
            texts = [escape(item) if isinstance(item, str) else "".join(map(_span, item)) for item in items]
            return rf"{{\footnotesize {' '.join(texts)}\par}}" if small else _points(texts)
        case Group("samples", parts):
            return _samples(parts, short)
        case Group("commands", parts):
            written = (
                rf"\begin{{command}}{{{escape(purpose)}:}}{_verbatim(command_lines(text), breaks=True)}\end{{command}}"
                for purpose, text in parts
            )
            return "\n".join(written)
        case Group("unfinished", parts):
            shown = [_unfinished(one) for one in parts[:MOST_UNFINISHED]]
            more = f"{len(parts) - len(shown)} more; the other formats of this report have them all."
            return _points([*shown, *[more] * (len(parts) > len(shown))])
        case Group(_, parts):
            return _points([_judgment(one, short) for one in parts], r"\small")
        case Picture(name, _, caption):
            included = rf"\includegraphics[width=\linewidth,height=3.2in,keepaspectratio]{{figures/{name}.pdf}}"
            return _float("figure", included, rf"\caption{{{escape(caption)}}}\label{{figure:{name}}}")
        case Pointers(tables, figures):
            have = [rf"the {_SHOWN.get(name, name)} in Table~\ref{{table:{name}}}" for name in tables]
            show = [rf"Figure~\ref{{figure:{name}}} shows the {_SHOWN[name]}" for name in figures]
            return " ".join(f"{text}." for text in (f"See {joined(have, most=100)}", "; ".join(show)) if text)
        case Table(name, caption):
            medians = name == "budgets"  # the ranges are in the other formats
            caption = caption.replace(", with the range if they differ", "") if medians else caption
            tabular = rf"\footnotesize\begin{{fitted}}{_table(part, short, faint=not medians)}\end{{fitted}}"
            return _float("table", rf"\caption{{{escape(caption)}}}\label{{table:{name}}}", tabular)
    raise TypeError(part)


def abridge(contents: Contents) -> Contents:
    """Return the contents without the arms beyond `MOST_ARMS`; the same object if there are no more."""
    kept = dict(list(contents.arms.items())[:MOST_ARMS])
    if len(kept) == len(contents.arms):
        return contents
    gone = set(contents.arms) - set(kept)
    unprinted = {f"One cell of {arm}" for arm in gone}
    tables = {
        name: dataclasses.replace(table, rows=tuple(row for row in table.rows if row[0].key not in gone))
        for name in ("verdicts", "results", "budgets", "settings", "tuning")
        if (table := getattr(contents, name)) is not None
    }
    return dataclasses.replace(
        contents,
        arms=kept,
        judgments=tuple(judgment for judgment in contents.judgments if judgment.comparison.arm in kept),
        samples=tuple(sample for sample in contents.samples if sample.arm in kept),
        commands={purpose: command for purpose, command in contents.commands.items() if purpose not in unprinted},
        **tables,
    )


def escape(text: str, *, breaks: bool = False) -> str:
    """Return a text that TeX prints verbatim, on one line; with `breaks`, it may break after commas and the like."""
    written = "".join(map(_sign, " ".join(unicodedata.normalize("NFC", text).split())))
    return re.sub(r"([,=/.])(?=\S)", r"\1\\allowbreak{}", written) if breaks else written


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


def _float(kind: str, *lines: str) -> str:
    where = "tb" if kind == "figure" else "t"  # the bottom, so that the first page has a figure
    return "\n".join([rf"\begin{{{kind}}}[{where}]\centering", *lines, rf"\end{{{kind}}}"])


def _points(items: Sequence[str], size: str = "") -> str:
    return "\n".join([rf"\begin{{points}}{size}", *(rf"\item {item}" for item in items), r"\end{points}"])


def _judgment(judgment: Judgment, short: Mapping[str, str]) -> str:
    arm = judgment.comparison.arm
    caution = rf" \textbf{{{escape(judgment.caution)}}}" if judgment.caution else ""
    said = f"(expected to {judgment.expectation}). {_cut(judgment.reason)}"
    return rf"\textbf{{{escape(short.get(arm, arm))}}} {escape(said)}{caution}"


def _unfinished(cell: Unfinished) -> str:
    last = (cell.reason.splitlines() or [""])[-1]
    return rf"\textbf{{{escape(cell.cell)}}}: {escape(f'{cell.status}. {_cut(last)}')}"


def _samples(samples: Sequence[Sample], short: Mapping[str, str]) -> str:
    """Return samples side by side, two in a row."""
    written = []
    for arm, text in samples:
        shown = _verbatim([line[:SAMPLE_COLUMNS] for line in text.split("\n")[:SAMPLE_LINES]])
        name = escape(short.get(arm, arm))
        block = rf"\textbf{{{name}}}\begin{{sample}}{shown}\end{{sample}}"
        written.append(rf"\begin{{minipage}}[t]{{0.49\linewidth}}{block}\end{{minipage}}")
    rows = [r"\hfill".join(written[index : index + 2]) for index in range(0, len(written), 2)]
    return "\n".join(rf"{row}\par" for row in rows)


def _table(table: Table, short: Mapping[str, str], *, faint: bool) -> str:
    """Return a tabular with the short names of arms; if not `faint`, without the faint text."""
    heading = " & ".join(escape(short.get(heading, heading)) for heading in table.headings)
    rows = [" & ".join(_entry(entry, short, faint) for entry in row) + r" \\" for row in table.rows]
    columns = "".join(align[0] for align in table.aligns)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heading + r" \\", r"\midrule", *rows, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


def _entry(entry: Entry, short: Mapping[str, str], faint: bool) -> str:
    spans = entry.spans if faint else entry.spans[:1]
    return "".join(_span(Span(short.get(text, text), style)) for text, style in spans)


def _span(span: Span) -> str:
    """Return a piece of text with its mark; spaces at its ends are kept."""
    text, style = span
    inner = escape(text, breaks=style == "code")
    before, after = ("~" if text[:1] == " " else ""), ("~" if text[-1:] == " " else "")
    return before + (_MARKS[style] % inner if style in _MARKS else inner) + after


def command_lines(command: str) -> list[str]:
    """Return a shell command in lines, broken between words; each but the last ends with a backslash."""
    lines: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if lines and len(lines[-1]) + len(word) < COMMAND_COLUMNS:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}" if lines else word)
    return [*(f"{line} \\" for line in lines[:-1]), *lines[-1:]]


def _verbatim(lines: Sequence[str], *, breaks: bool = False) -> str:
    """Return lines with their indentation."""
    written = [r"\ " * (len(line) - len(line.lstrip())) + escape(line, breaks=breaks) for line in lines]
    return "\\\\\n".join(line or r"\strut" for line in written)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
