"""The sections on speed: benchmarks, and runs that reach a loss within a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charlab.runs.record import Record
from tools import read_json_lines
from tools.results import command, on_machines, row
from tools.results.marks import NONE, Marks

INTRODUCTION = """\
## Speed

From `records/benchmarks.jsonl`, measured by `python -m benchmarks NAME`: charlab next to plainer code, alternating, in
fresh processes. Figures are medians over the rounds; comparisons are medians of the comparisons within each round, with
the lowest and the highest. [Performance](performance.md) has floors and reasons.

| benchmark | figure | charlab | compared with | comparison | goal | rounds |
|---|---|---:|---|---|---|---:|
"""

LOSSES = """\
## A loss within a time

One run and one seed each, final weights, the whole validation text. Counting without training reaches 1.516 (modified
Kneser–Ney of order 7, unlimited context).

| run | parameters | steps | training s | context | blocks | sliding | threads |
|---|---:|---:|---:|---:|---:|---:|---|"""


def benchmarks(file: Path) -> str:
    """Return the section; "" if the file does not exist or has no records."""
    records = read_json_lines(file)
    rows = [_row(record, figure) for record in records for figure in record["figures"]]
    if not rows:
        return ""
    machines = on_machines((f"`{record['name']}`", _machine(record)) for record in records)
    titles = [f"- `{r['name']}`: {r['title']} ({r['measured'][:10]}, {str(r['git_commit'])[:8]})." for r in records]
    return INTRODUCTION + "\n".join([*rows, "", *titles, "", f"Measured {machines}.", ""])


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    return (
        f"{machine['cores']} cores, {machine.get('name', machine['architecture'])}, torch {record['versions']['torch']}"
    )


def losses(runs: Sequence[Record], marks: Marks = NONE) -> str:
    """Return the section on runs that reach a loss within a time; "" if there are none."""
    if not runs:
        return ""
    return "\n".join(
        [LOSSES, *(_run(run, marks) for run in runs), "", "```sh", *dict.fromkeys(map(command, runs)), "```", ""]
    )


def _run(run: Record, marks: Marks) -> str:
    blocks, sliding = run.metric("blocks"), run.metric("sliding")
    cells = [
        run.name.removeprefix("benchmark-").replace("_", " ") + marks.of([run]),
        f"{run.parameters:,}",
        f"{run.steps:,}",
        f"{run.time['training_s']:,.0f}",
        f"{blocks['context_length']}",
        f"{blocks['nll']:.4f}",
        f"{sliding['nll']:.4f}",
        f"{run.machine['threads']} on {run.machine['name']}",
    ]
    return row(cells)


def _row(record: dict[str, Any], figure: dict[str, Any]) -> str:
    against, unit = figure["against"], figure["unit"]
    cells = [
        f"`{record['name']}`",
        figure["what"],
        _quantity(figure["medians"]["charlab"], unit),
        f"{_quantity(figure['medians'][against], unit)} ({against})" if against else "–",
        f"{_compared(figure, 'value')} ({_compared(figure, 'lowest')} to {_compared(figure, 'highest')})",
        "–" if figure["goal"] is None else f"{_compared(figure, 'goal')} {'✓' if figure['reached'] else '✗'}",
        str(len(record["rounds"])),
    ]
    return row(cells)


def _compared(figure: dict[str, Any], key: str) -> str:
    value, compared = figure[key], figure["compared"]
    if compared == "share above":
        return f"{100 * value:+.1f}%"
    if compared == "more by":
        return f"{value:+.3g} {figure['unit']}"
    return _quantity(value, figure["unit"]) if compared == "itself" else f"{value:.2f}×"


def _quantity(value: float, unit: str) -> str:
    return f"{value:,.4g} {unit}".strip() if value < 1000 else f"{value:,.0f} {unit}".strip()
