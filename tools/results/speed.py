"""The sections on speed: benchmarks, and runs that reach a loss within a time."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.__main__ import BENCHMARKS
from charlab.runs.record import Record
from tools import git, read_json_lines
from tools.results import command, commit, on_machines, quantity, row
from tools.results.marks import NONE, Marks
from tools.results.part2 import spread

PASSING = ("seed", "force", "tags", "note")  # keys in which the runs of an experiment may differ

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

Final weights, the whole validation text; of several seeds, the mean ± standard deviation. Counting without training
reaches 1.516 (modified Kneser–Ney of order 7, unlimited context).

| run | parameters | steps | training s | context | blocks | sliding | seeds | threads |
|---|---:|---:|---:|---:|---:|---:|---:|---|"""


def benchmarks(file: Path) -> str:
    """Return the section; "" if the file does not exist or has no records."""
    records = read_json_lines(file)
    rows = [_row(record, figure) for record in records for figure in record["figures"]]
    if not rows:
        return ""
    machines = on_machines((f"`{record['name']}`", _machine(record)) for record in records)
    titles = [f"- `{r['name']}`: {r['title']} ({r['measured'][:10]}, {commit(r['git_commit'])})." for r in records]
    return INTRODUCTION + "\n".join([*rows, "", *titles, "", f"Measured {machines}.", ""])


def latest_change(repository: Path) -> datetime | None:
    """Return the time of the latest commit that changed src/charlab; None if git does not tell."""
    said = (git(repository, "log", "-1", "--format=%cI", "--", "src/charlab") or "").strip()
    return datetime.fromisoformat(said) if said else None


def unmeasured(file: Path, changed: datetime | None) -> list[str]:
    """Return a line on the benchmarks without a record, and one on those that were measured before a change."""
    measured = {record["name"]: datetime.fromisoformat(record["measured"]) for record in read_json_lines(file)}
    absent = [name for name in BENCHMARKS if name not in measured]
    for_gpu = [name for name in absent if name.startswith("gpu_")]
    lines = {
        "Benchmarks not measured (python -m benchmarks NAME)": [name for name in absent if name not in for_gpu],
        "Benchmarks not measured that need a GPU": for_gpu,
        "Benchmarks measured before the latest change of src/charlab": [
            name for name in BENCHMARKS if changed is not None and name in measured and measured[name] < changed
        ],
    }
    return [f"{what}: {', '.join(names)}." for what, names in lines.items() if names]


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    cores = f"{machine['cores']} cores, {machine.get('name', machine['architecture'])}"
    return ", ".join(filter(None, [machine.get("gpu"), cores, f"torch {record['versions']['torch']}"]))


def losses(runs: Sequence[Record], marks: Marks = NONE) -> str:
    """Return the section on runs that reach a loss within a time; "" if there are none."""
    if not runs:
        return ""
    experiments: dict[str, list[Record]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.name, run.seed)):
        experiments[json.dumps([run.name, _but_for_seeds(run.config)])].append(run)
    rows = [_experiment(seeds, marks) for seeds in experiments.values()]
    commands = dict.fromkeys(command(run) for seeds in experiments.values() for run in seeds)
    return "\n".join([LOSSES, *rows, "", "```sh", *commands, "```", ""])


def _but_for_seeds(config: Any) -> Any:
    """Return a configuration without seeds and without what is no part of a run's identity."""
    if isinstance(config, list):
        return [_but_for_seeds(value) for value in config]
    if isinstance(config, dict):
        return {key: _but_for_seeds(value) for key, value in sorted(config.items()) if key not in PASSING}
    return config


def _experiment(runs: Sequence[Record], marks: Marks) -> str:
    """Return the row of an experiment, given its runs, one for each seed."""
    first = runs[0]
    cells = [
        first.name.removeprefix("benchmark-").replace("_", " ") + marks.of(runs),
        f"{first.parameters:,}",
        f"{statistics.mean(run.steps for run in runs):,.0f}",
        f"{statistics.mean(run.time['training_s'] for run in runs):,.0f}",
        f"{first.metric('blocks')['context_length']}",
        spread(runs, "blocks", "nll", 4),
        spread(runs, "sliding", "nll", 4),
        str(len(runs)),
        ", ".join(dict.fromkeys(f"{run.machine['threads']} on {run.machine['name']}" for run in runs)),
    ]
    return row(cells)


def _row(record: dict[str, Any], figure: dict[str, Any]) -> str:
    against, unit = figure["against"], figure["unit"]
    cells = [
        f"`{record['name']}`",
        figure["what"],
        quantity(figure["medians"]["charlab"], unit),
        f"{quantity(figure['medians'][against], unit)} ({against})" if against else "–",
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
    return quantity(value, figure["unit"]) if compared == "itself" else f"{value:.2f}×"
