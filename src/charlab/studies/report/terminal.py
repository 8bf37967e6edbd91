"""What is said of a report on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from charlab.studies.report import wording
from charlab.studies.report.contents import Contents
from charlab.studies.report.pieces import UNKNOWN

if TYPE_CHECKING:
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.report.write import Report

DIGITS = 3  # of differences
_NOTICE_STYLES = {"alarm": "bold red", "caution": "yellow", "note": "dim"}
_VERDICT_STYLES = {"supported": "bold green", "refuted": "bold red", "equivalent": "bold blue"}


def print_report(report: Report, console: Console) -> None:
    """Prints what has to be read first, the verdicts with the arms' results, and where the report lies."""
    contents = report.contents
    console.print()
    for notice in contents.notices:
        console.print(Text(notice.text, _NOTICE_STYLES[notice.level]))
    console.print(_table(contents))
    if report.kept is not None:
        text = f"{_shown(report.kept)} has been worked on and is as it was; the new one lies beside it."
        console.print(Text(text, "yellow"), soft_wrap=True)
    for kind, path in report.files.items():
        console.print(f"{kind:<9} {_shown(path)}", soft_wrap=True, highlight=False, markup=False)


def _table(contents: Contents) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for heading in ("nats/char", *["better by", "95% interval", "p (Holm)"] * bool(contents.comparisons)):
        table.add_column(heading, justify="right", no_wrap=True)
    if contents.comparisons:
        table.add_column("verdict")
    names = {judgment.comparison.arm: judgment.verdict for judgment in contents.judgments}
    for name, arm in contents.arms.items():
        figure = _figure(arm)
        comparison = contents.comparisons.get(name)
        if comparison is None:
            table.add_row(Text(name), figure, *[Text("baseline", "dim")] * bool(contents.comparisons))
            continue
        shows = comparison.verdict != "none"
        table.add_row(
            Text(name),
            figure,
            comparison.sign + wording.signed(comparison.mean, DIGITS) if comparison.n else UNKNOWN,
            Text(wording.interval(comparison.interval_95, DIGITS)) if comparison.n > 1 else UNKNOWN,
            wording.probability(comparison.p_difference_holm) if shows else UNKNOWN,
            Text(
                names[name],
                _VERDICT_STYLES.get(comparison.verdict, "bold"),
            ),
        )
    return table


def _figure(arm: ArmSummary) -> Text:
    """Returns an arm's mean nll: crossed out if it is false, with the honest one beside it."""
    sign = "≤ " if arm.likelihood == "bound" else ""
    if not arm.leaks:
        return Text(sign + wording.figure(arm.mean))
    honest = f" {arm.honest.mean:.2f}" if arm.honest is not None else ""
    return Text.assemble((wording.figure(arm.mean), "strike dim"), (honest, "bold"))


def _shown(path: Path) -> str:
    """Returns a path as short as it can be given."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
