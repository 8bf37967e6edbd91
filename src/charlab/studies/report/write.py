"""Writing a study's report: its pages, its figures, its tables and the paper."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from charlab.files import write_atomically
from charlab.studies.report.contents import Contents, gather
from charlab.studies.report.drawing import drawing, picture
from charlab.studies.report.drawings import Drawings
from charlab.studies.report.html import render_html
from charlab.studies.report.latex import abridge, render_latex
from charlab.studies.report.markdown import render_markdown
from charlab.studies.report.templating import source
from charlab.studies.report.wording import without_paths

if TYPE_CHECKING:
    from charlab.studies.results import StudyResults

Format = Literal["markdown", "html", "latex"]
FORMATS: tuple[Format, ...] = get_args(Format)

_FIGURES = ("differences", "curves", "costs")
_SIGNATURE = "% Unchanged since charlab wrote it: "
_LAYOUT = "charlab.sty"


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that has been written.

    Attributes:
        contents: what it says.
        files: by format, what to open first.
        kept: a paper that somebody has worked on, which is as it was; None if there is none.
    """

    contents: Contents
    files: Mapping[Format, Path]
    kept: Path | None = None


def write_report(results: StudyResults, folder: Path, formats: Collection[Format] = FORMATS) -> Report:
    """Writes the report on a study into a folder: pages, `figures/`, `tables/`, `latex/` and the plan.

    A paper in which somebody has written since is left alone; the new one then lies beside it as `report-new.tex`.

    Args:
        results: of the study.
        folder: made if it is not there; files of former reports in it are replaced.
        formats: which pages to write; plan and tables are written in any case.

    Raises:
        UserError: if the folder cannot be written to.
    """
    contents = gather(results)
    results.plan.save(folder)
    for name, table in csv_tables(results, contents).items():
        _write(folder / "tables" / f"{name}.csv", table.to_csv(index=False))
    files: dict[Format, Path] = {}
    kept = None
    with drawing():
        drawings = Drawings(results, contents)
        figures = drawings.for_paper() if "markdown" in formats or "latex" in formats else {}
        pdfs = {name: picture(figure, "pdf") for name, figure in figures.items()}
        if "markdown" in formats:
            pngs = {name: picture(figure, "png") for name, figure in figures.items()}
            _write_figures(folder / "figures", pdf=pdfs, png=pngs)
            files["markdown"] = folder / "report.md"
            _write(files["markdown"], render_markdown(contents, figures))
        if "html" in formats:
            files["html"] = folder / "report.html"
            _write(files["html"], render_html(contents, drawings.for_page()))
        if "latex" in formats:
            short = abridge(contents)
            if short is not contents:
                figures = Drawings(results, short).for_paper()
                pdfs = {name: picture(figure, "pdf") for name, figure in figures.items()}
            _write_figures(folder / "latex" / "figures", pdf=pdfs)
            _write(folder / "latex" / _LAYOUT, source(_LAYOUT))
            files["latex"] = _write_paper(folder / "latex" / "report.tex", render_latex(short, figures))
            kept = folder / "latex" / "report.tex" if files["latex"].name != "report.tex" else None
    return Report(contents, files, kept)


def csv_tables(results: StudyResults, contents: Contents) -> dict[str, pd.DataFrame]:
    """Returns the tables in full precision, by name: cells, results, budgets and, where there are any, verdicts."""
    cells = results.table()
    cells["reason"] = cells["reason"].map(without_paths)
    tables = {
        "cells": cells,
        "results": pd.DataFrame([_result_row(contents, name) for name in contents.arms]),
        "budgets": results.budgets().rename_axis("arm").reset_index(),
    }
    if contents.comparisons:
        tables["verdicts"] = pd.DataFrame(
            [_verdict_row(contents, index) for index in range(len(contents.judgments))],
        )
    return tables


def _result_row(contents: Contents, name: str) -> dict[str, Any]:
    arm = contents.arms[name]
    row: dict[str, Any] = {"arm": name, "baseline": arm.is_baseline, "seeds": arm.seeds, "planned": arm.planned}
    for measure, column in (("value", "nll"), ("bpc", "bpc"), ("perplexity", "perplexity")):
        row |= {column: arm.figures[measure].mean, f"{column}_half_width_95": arm.figures[measure].half_width}
    honest = arm.honest.mean if arm.honest is not None else None
    return row | {"likelihood": arm.likelihood, "leaks": arm.leaks, "honest_nll": honest}


def _verdict_row(contents: Contents, index: int) -> dict[str, Any]:
    """Returns the figures of a verdict; intervals in two columns, seeds in one."""
    comparison, text = contents.judgments[index].comparison, contents.judgments[index].other_text
    fields = {field.name: getattr(comparison, field.name) for field in dataclasses.fields(comparison)}
    row: dict[str, Any] = {}
    for name, value in fields.items():
        if name.startswith("interval"):
            row |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif name == "differences":
            row |= {f"difference_{seed}": difference for seed, difference in value.items()}
        else:
            row[name] = " ".join(map(str, value)) if isinstance(value, tuple) else value
        if name == "verdict":
            row |= {"in_words": contents.judgments[index].verdict, "caution": comparison.caution}
    return row | {"reason": comparison.reason, "other_text": text}


def _write_figures(folder: Path, **pictures: Mapping[str, bytes]) -> None:
    """Writes the figures, by kind and name, and removes those of a former report that this one does not have."""
    for kind, found in pictures.items():
        for name in _FIGURES:
            path = folder / f"{name}.{kind}"
            if name in found:
                _write(path, found[name])
            else:
                path.unlink(missing_ok=True)


def _write_paper(path: Path, text: str) -> Path:
    """Writes the paper, beside one that has been worked on; returns where."""
    if path.exists() and _is_changed(path.read_text(encoding="utf-8")):
        path = path.with_name("report-new.tex")
    _write(path, f"{_SIGNATURE}{_digest(text)}\n{text}")
    return path


def _is_changed(text: str) -> bool:
    """Whether a paper is no longer what was written."""
    first, _, rest = text.partition("\n")
    return first != f"{_SIGNATURE}{_digest(rest)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(path: Path, content: str | bytes) -> None:
    raw = content.encode() if isinstance(content, str) else content
    write_atomically(path, lambda file: file.write(raw))
