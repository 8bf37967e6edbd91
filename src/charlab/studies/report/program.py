"""The program behind `scripts/report.py`, and what is done at the end of a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from charlab.configuration.nearest import nearest
from charlab.errors import UserError
from charlab.studies.plan import FILE_NAME, Plan
from charlab.studies.report.terminal import print_report
from charlab.studies.report.write import FORMATS, Format, Report, write_report
from charlab.studies.results import StudyResults, read_results

FOLDER = "report"  # below the study's own


def report_study(config: DictConfig, console: Console | None = None) -> Report:
    """Writes the report on a study that has been run, and prints its verdicts and where it lies.

    Args:
        config: a composed `conf/report.yaml`.
        console: where to print; standard output by default.

    Raises:
        UserError: if there is no such study, or its plan cannot be read.
    """
    output_dir, kept = Path(config.output_dir), Path(config.studies)
    homes = [output_dir / "studies", kept]
    if config.name is None:
        known = sorted({path.parent.name for home in homes for path in home.glob(f"*/{FILE_NAME}")})
        raise UserError(f"No study is named: give study=NAME{nearest('', known)}")
    folder = _find(config.name, homes)
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
    """Writes a report, notes in the study's plan that its results have been looked at, and prints the verdicts.

    Args:
        results: of the study.
        folder: where the report goes; below the study's own by default.
        formats: which pages to write.
        console: where to print; standard output by default.
    """
    report = write_report(results, folder if folder is not None else results.folder / FOLDER, formats)
    if (results.folder / FILE_NAME).exists():
        looked = with_look(results)
        if looked != results.plan:
            looked.save(results.folder)
    print_report(report, console or Console())
    return report


def with_look(results: StudyResults) -> Plan:
    """Returns the plan with the number of seeds that have ended with all arms, if that is not its last look."""
    plan = results.plan
    ended = sum(all(result.ended for result in results.cells if result.cell.seed == seed) for seed in plan.seeds)
    if not ended or plan.looks[-1:] == (ended,):
        return plan
    return dataclasses.replace(plan, looks=(*plan.looks, ended))


def _find(name: str, homes: list[Path]) -> Path:
    """Returns the folder of the study of that name, in the first of `homes` that has one."""
    for home in homes:
        if (home / name / FILE_NAME).is_file():
            return home / name
    known = [path.parent.name for home in homes for path in home.glob(f"*/{FILE_NAME}")]
    places = " or ".join(str(home) for home in homes)
    raise UserError(f"There is no study {name!r} in {places}{nearest(name, known)}")
