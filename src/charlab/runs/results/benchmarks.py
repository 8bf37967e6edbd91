"""The figures of speed, from the records of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INTRODUCTION = """\
## Speed

Written from `docs/records/benchmarks/`, which `python scripts/benchmark.py NAME` measures: charlab and what stands
beside it in turn, in fresh processes. Figures are medians over the rounds, comparisons medians of those within each,
with the lowest and the highest. [performance.md](performance.md) has floors and reasons.

| benchmark | figure | charlab | beside it | comparison | to reach | rounds |
|---|---|---:|---|---|---|---:|
"""


def benchmarks(folder: Path) -> str:
    """Returns the section; nothing if there are no records in the folder."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    rows = [_row(record, figure) for record in records for figure in record["figures"]]
    if not rows:
        return ""
    machines = sorted({f"{r['machine']['cores']} cores, torch {r['versions']['torch']}" for r in records})
    return INTRODUCTION + "\n".join([*rows, "", f"Measured on {'; '.join(machines)}.", ""])


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
    return f"| {' | '.join(cells)} |"


def _compared(figure: dict[str, Any], key: str) -> str:
    value, compared = figure[key], figure["compared"]
    if compared == "share above":
        return f"{100 * value:+.1f}%"
    if compared == "more by":
        return f"{value:+.3g} {figure['unit']}"
    return _quantity(value, figure["unit"]) if compared == "itself" else f"{value:.2f}×"


def _quantity(value: float, unit: str) -> str:
    return f"{value:,.4g} {unit}".strip() if value < 1000 else f"{value:,.0f} {unit}".strip()
