"""Write a study's report in all formats, as `charlab report` does, and every sweep at its end."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd
from omegaconf import DictConfig
from rich.console import Console

from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.notebook import show_figures
from charlab.studies.plan import FILE_NAME, Plan, find_study
from charlab.studies.report.contents import Contents, Judgment, gather
from charlab.studies.report.document import ALTS
from charlab.studies.report.figures import Drawings
from charlab.studies.report.html import TEMPLATES, render_html
from charlab.studies.report.latex import abridge, render_latex
from charlab.studies.report.literature import BIBLIOGRAPHY
from charlab.studies.report.markdown import render_markdown
from charlab.studies.report.method import without_paths
from charlab.studies.report.scaling import law_row
from charlab.studies.report.style import drawing, picture
from charlab.studies.report.terminal import print_report
from charlab.studies.state import StudyResults, read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from charlab.studies.report.arms import ArmSummary

Format = Literal["markdown", "html", "latex"]
FORMATS: tuple[Format, ...] = get_args(Format)
FOLDER = "report"  # within the study's own

_PAGES: dict[Format, tuple[str, ...]] = {
    "markdown": ("report.md",),
    "html": ("report.html",),
    "latex": ("latex/report.tex", "latex/report-new.tex"),
}
_SIGNATURES = dict.fromkeys((".md", ".html"), "<!-- {} -->") | {".tex": "% {}"}  # the first line of a page
_LAYOUT = "charlab.sty"
_TABLES = ("tuning", "laws", "verdicts", "where")  # that not every report has


@dataclasses.dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        files: by format, the file to open first.
        kept: a paper that was edited by hand and therefore kept as it was; None if there is none.
    """

    contents: Contents
    files: Mapping[Format, Path]
    kept: Path | None = None

    def _repr_html_(self) -> str | None:
        """Return the page for a notebook."""
        return _inner(self.files["html"].read_text(encoding="utf-8")) if "html" in self.files else None


def notebook_page(results: StudyResults) -> str:
    """Return the report on a study as a notebook shows it."""
    contents = gather(results)
    with drawing():
        return _inner(render_html(contents, Drawings(results, contents).for_page()))


def _inner(page: str) -> str:
    return page[page.index("<style>") : page.index("</body>")]


def draw(results: StudyResults) -> Figure:
    """Return a study's main figure: the differences from the baseline, or the curves if nothing is compared."""
    show_figures()
    contents = gather(results)
    with drawing():
        figures = Drawings(results, contents).for_paper()
    for name in ("differences", "scaling", "curves", "costs"):
        if name in figures:
            return figures[name]
    raise UserError(f"There is nothing to draw yet: no cell of {results.plan.name} has finished.")


def report_study(config: DictConfig, console: Console | None = None) -> Report:
    """Write the report on a study that has been run, and print its verdicts and where the report is."""
    output_dir, kept = Path(config.output_dir), Path(config.studies)
    folder = find_study(config.name, [output_dir / "studies", kept])
    results = read_results(Plan.load(folder), output_dir)
    default = folder if folder.is_relative_to(kept) else folder / FOLDER
    output = Path(config.output) if config.output is not None else default
    return make_report(results, output, formats=tuple(config.formats), console=console)


def make_report(
    results: StudyResults,
    folder: Path | None = None,
    *,
    formats: Collection[Format] = FORMATS,
    console: Console | None = None,
) -> Report:
    """Write a report, note in the study's plan that its results have been looked at, and print the verdicts.

    Args:
        folder: where to write the report; `report` in the study's own folder by default.
    """
    if (results.folder / FILE_NAME).exists():
        looks = Plan.load(results.folder).looks  # those of reports that were written while the study ran, too
        if looks != results.plan.looks:
            results = dataclasses.replace(results, plan=dataclasses.replace(results.plan, looks=looks))
    report = write_report(results, folder if folder is not None else results.folder / FOLDER, formats)
    if (results.folder / FILE_NAME).exists():
        saved = Plan.load(results.folder)
        looked = with_look(results, saved)
        if looked != saved:
            looked.save(results.folder)
    print_report(report.contents, report.files, report.kept, console or Console())
    return report


def with_look(results: StudyResults, saved: Plan | None = None) -> Plan:
    """Return the plan with a look at the seeds that have ended in all arms, unless its last look had as many.

    With planned looks, it is the last one that was reached, although an arm that was settled before has fewer seeds.

    Args:
        saved: the plan to add the look to, which another process may have changed since the results were read; by
            default, that of the results.
    """
    plan, seeds = saved or results.plan, results.plan.seeds
    ended = sum(all(result.ended for result in results.cells if result.cell.seed == seed) for seed in seeds)
    ended = results.reached if results.plan.planned_looks else ended
    if not ended or plan.looks[-1:] == (ended,):
        return plan
    return dataclasses.replace(plan, looks=(*plan.looks, ended))


def write_report(results: StudyResults, folder: Path, formats: Collection[Format] = FORMATS) -> Report:
    """Write the report on a study into a folder: pages, `figures/`, `tables/`, `latex/` and the plan.

    A paper that was edited by hand is kept; the new one is then written next to it as `report-new.tex`.

    Args:
        folder: created if missing; files of earlier reports in it are replaced.
        formats: which pages to write; plan and tables are written in any case. Earlier pages in other formats are
            removed, unless they were edited by hand.
    """
    contents = gather(results)
    results.plan.save(folder)
    tables = csv_tables(results, contents)
    for path in (folder / "tables" / f"{name}.csv" for name in dict.fromkeys((*tables, *_TABLES))):
        if path.stem in tables:
            _write(path, tables[path.stem].to_csv(index=False))
        else:  # only an earlier report had it
            path.unlink(missing_ok=True)
    files: dict[Format, Path] = {}
    kept = None
    shared = {
        _LAYOUT: (TEMPLATES / _LAYOUT).read_bytes(),
        BIBLIOGRAPHY: "\n".join(source.entry for source in contents.sources).encode(),
    }
    with drawing():
        drawings = Drawings(results, contents)
        figures = drawings.for_paper() if {"markdown", "latex"} & set(formats) else {}
        if "markdown" in formats:
            _write_figures(folder / "figures", figures, "pdf", "png")
            files["markdown"] = folder / "report.md"
            _write_page(files["markdown"], render_markdown(contents, figures))
        if "html" in formats:
            files["html"] = folder / "report.html"
            _write_page(files["html"], render_html(contents, drawings.for_page()))
        if "latex" in formats:
            short = abridge(contents)
            figures = figures if short is contents else Drawings(results, short).for_paper()
            _write_figures(folder / "latex" / "figures", figures, "pdf")
            for name, content in shared.items():
                _write(folder / "latex" / name, content)
            paper = folder / "latex" / "report.tex"
            files["latex"] = _write_paper(paper, render_latex(short, figures))
            kept = paper if files["latex"] != paper else None
    for other in set(FORMATS) - set(formats):
        _remove_pages(folder, other, shared)
    return Report(contents, files, kept)


def csv_tables(results: StudyResults, contents: Contents) -> dict[str, pd.DataFrame]:
    """Return the tables in full precision by name: cells, results, budgets and, if known, verdicts and where."""
    cells = results.table()
    cells["reason"] = cells["reason"].map(without_paths)
    tables = {
        "cells": cells,
        "results": pd.DataFrame([_result_row(arm) for arm in contents.arms.values()]),
        "budgets": results.budgets().rename_axis("arm").reset_index(),
    }
    if tuned := {arm.name: dataclasses.asdict(arm.tuned) for arm in results.plan.arms if arm.tuned is not None}:
        tables["tuning"] = pd.DataFrame([{"arm": name, **found} for name, found in tuned.items()])
    if contents.scaling and contents.scaling.laws:
        tables["laws"] = pd.DataFrame(list(map(law_row, contents.scaling.laws.values())))
    if contents.judgments:
        tables["verdicts"] = pd.DataFrame([_verdict_row(judgment) for judgment in contents.judgments])
    if contents.where.arms:
        tables["where"] = contents.where.frame()
    return tables


def _result_row(arm: ArmSummary) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": arm.name, "baseline": arm.is_baseline, "seeds": arm.seeds, "planned": arm.planned}
    for measure, column in (("value", "nll"), ("bpc", "bpc"), ("perplexity", "perplexity")):
        row |= {column: arm.figures[measure].mean, f"{column}_half_width_95": arm.figures[measure].half_width}
    honest = arm.honest.mean if arm.honest is not None else None
    return row | {"likelihood": arm.likelihood, "leaks": arm.leaks, "honest_nll": honest}


def _verdict_row(judgment: Judgment) -> dict[str, Any]:
    """Return the figures of a verdict: intervals in two columns, lists of seeds in one."""
    comparison = judgment.comparison
    row: dict[str, Any] = {}
    timed = {"metric", "target", "mean_sign", "unreached", "baseline_unreached"}
    for name, value in vars(comparison).items():
        if comparison.target is None and name in timed:
            continue
        if name.startswith("interval"):
            row |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif name == "differences":
            row |= {f"difference_{seed}": difference for seed, difference in value.items()}
        else:
            row[name] = " ".join(map(str, value)) if isinstance(value, tuple) else value
        if name == "verdict":
            row |= {"in_words": judgment.verdict, "caution": judgment.caution}
    return row | {"reason": judgment.reason, "other_text": judgment.other_text}


def _write_figures(folder: Path, figures: Mapping[str, Figure], *kinds: str) -> None:
    """Write the figures as files of these kinds, and remove those that only an earlier report had."""
    for path in (folder / f"{name}.{kind}" for name in ALTS for kind in kinds):
        if path.stem in figures:
            _write(path, picture(figures[path.stem], path.suffix[1:]))
        else:
            path.unlink(missing_ok=True)


def _remove_pages(folder: Path, format: Format, shared: Mapping[str, bytes]) -> None:
    """Remove the pages of an earlier report in this format, and their figures, unless they were edited by hand.

    Args:
        shared: the contents of the files that each paper needs, by name.
    """
    pages = [folder / name for name in _PAGES[format] if (folder / name).is_file()]
    own = [page for page in pages if _is_unchanged(page)]
    for page in own:
        page.unlink()
    if not own or format == "html":  # it has no other files
        return
    home = own[0].parent
    if any(path.suffix in (".md", ".tex") for path in home.iterdir()):  # a page that is kept may use the rest
        return
    _write_figures(home / "figures", {}, "pdf", "png")
    for name, content in (shared if format == "latex" else {}).items():
        if (home / name).is_file() and (home / name).read_bytes() == content:
            (home / name).unlink()
    for emptied in (home / "figures", home):
        with contextlib.suppress(OSError):  # it has other files
            emptied.rmdir()


def _write_paper(path: Path, text: str) -> Path:
    """Write the paper, next to the existing one if that was edited by hand, and return its path."""
    if path.exists() and not _is_unchanged(path):
        path = path.with_name("report-new.tex")
    _write_page(path, text)
    return path


def _write_page(path: Path, text: str) -> None:
    """Write a page, whose first line signs the rest."""
    raw = text.encode()
    _write(path, _signature(path, raw) + raw)


def _is_unchanged(path: Path) -> bool:
    """Return whether a page is as charlab wrote it."""
    raw = path.read_bytes()
    rest = raw.partition(b"\n")[2]
    return raw == _signature(path, rest) + rest


def _signature(path: Path, raw: bytes) -> bytes:
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return (_SIGNATURES[path.suffix].format(f"Unchanged since charlab wrote it: {digest}") + "\n").encode()


def _write(path: Path, content: str | bytes) -> None:
    raw = content.encode() if isinstance(content, str) else content
    write_atomically(path, lambda file: file.write(raw))
