"""The report's verdicts on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from charlab.quantities import UNKNOWN, duration, fixed, percent, probability, ratio, signed
from charlab.studies.report.method import relative
from charlab.studies.report.sentences import bound_sign

if TYPE_CHECKING:
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.report.contents import Contents, Judgment

_NOTICE_STYLES = {"alarm": "bold red", "caution": "yellow", "note": "dim"}
_VERDICT_STYLES = {"supported": "bold green", "refuted": "bold red", "equivalent": "bold blue",
                   "inconclusive": "bold", "none": "dim"}  # fmt: skip


def print_report(contents: Contents, files: Mapping[Any, Path], kept: Path | None, console: Console) -> None:
    """Print what to read first, the verdicts with the arms' results, and where the report is.

    Args:
        files: by format, the file to open first.
        kept: a paper that was edited by hand and therefore kept as it was; None if there is none.
    """
    if not console.is_jupyter:  # which shows the results as a page
        console.print()
        for notice in contents.notices:
            console.print(Text(notice.text, _NOTICE_STYLES[notice.level]))
        console.print(_verdicts(contents))
        low, high = _levels(contents)
        if low != high:
            console.print(Text(f"Intervals: {low} to {high}, the level at which Holm's method tested the arm.", "dim"))
        for sentence in contents.scaling.sentences if contents.scaling else ():
            console.print(Text(sentence))
    if kept is not None:
        text = f"{relative(str(kept))} was edited by hand and is kept; the new paper is next to it."
        console.print(Text(text, "yellow"), soft_wrap=True)
    for kind, path in files.items():
        console.print(f"{kind:<9} {relative(str(path))}", soft_wrap=True, highlight=False, markup=False)


def _verdicts(contents: Contents) -> Table:
    """Return the table of verdicts, or of figures and costs if nothing is compared."""
    judgments = {judgment.comparison.arm: judgment for judgment in contents.judgments}
    better = "better by" if contents.plan.target is None else "sooner by"
    low, high = _levels(contents)
    interval = f"{low} interval" if low == high else "interval"
    headings = (better, interval, "p (Holm)") if judgments else ("bits/char", "perplexity", "training")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for heading in ("nats/char", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    if judgments:
        table.add_column("verdict")
    for name, arm in contents.arms.items():
        if name in judgments:
            rest = _verdict(judgments[name])
        elif judgments:
            rest = [Text("baseline", "dim")]
        else:
            cost = arm.costs.get("training_s")
            rest = [_figure(arm, "bpc"), _figure(arm, "perplexity", 3), Text(duration(cost.median if cost else None))]
        table.add_row(Text(name), _figure(arm), *rest)
    return table


def _levels(contents: Contents) -> tuple[str, str]:
    """Return the lowest and the highest confidence level of the intervals."""
    levels = [judgment.comparison.confidence for judgment in contents.judgments] or [0.95]
    return percent(min(levels)), percent(max(levels))


def _verdict(judgment: Judgment) -> list[Text]:
    comparison = judgment.comparison
    write: Callable[[float], str] = partial(signed, digits=3) if comparison.target is None else ratio
    single = 1 if comparison.target is None else 0  # pairs that have no interval
    return [
        Text(bound_sign(comparison) + write(comparison.mean) if comparison.n else UNKNOWN),
        Text(f"[{', '.join(map(write, comparison.interval))}]" if comparison.n > single else UNKNOWN),
        Text(probability(comparison.p_holm) if comparison.verdict != "none" else UNKNOWN),
        Text(judgment.verdict, _VERDICT_STYLES[judgment.shown]),
    ]


def _figure(arm: ArmSummary, measure: str = "value", digits: int = 4) -> Text:
    """Return an arm's mean; a false one is crossed out, with the honest nll next to it."""
    figure = fixed(arm.figures[measure].mean, digits)
    if not arm.leaks:
        return Text(f"{'≤ ' if arm.likelihood == 'bound' and figure != UNKNOWN else ''}{figure}")
    honest = f" {fixed(arm.honest.mean, 2)}" if arm.honest is not None and measure == "value" else ""
    return Text.assemble((figure, "strike dim"), (honest, "bold"))
