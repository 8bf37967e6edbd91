"""How costs grow with the length of a text and with the number of cells: tables and a picture for `performance.md`."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.scale import CELLS, SIZES
from charlab.studies.report.style import COLORS, GRID, LABEL_COLORS, MARKERS, drawing, picture
from tools import read_json_lines
from tools.results import quantity, row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURE = "growth"
DESCRIPTION = "Cost per character against the length of a text, and computing time per cell against the number of cells"
WIDTH, HEIGHT = 5.5, 1.9  # inches


class Cost(NamedTuple):
    """A row of a table.

    Attributes:
        what: the first cell.
        benchmark: name of the benchmark that measures it.
        key: entry of a measurement.
        unit: of the quantity.
        label: of its line in the picture; "" if it has none.
    """

    what: str
    benchmark: str
    key: str
    unit: str
    label: str = ""


class Table(NamedTuple):
    """A table, and a panel of the picture.

    Attributes:
        size: what grows.
        sizes: the sizes by the sides of the benchmarks.
        drawn: what the panel's vertical axis shows.
        costs: the rows.
    """

    size: str
    sizes: Mapping[str, int]
    drawn: str
    costs: Sequence[Cost]


TEXT = Table(
    "characters of text",
    SIZES,
    "µs per character",
    (
        Cost("peak memory of training a small GRU", "long_text", "peak_memory_mb", "MiB"),
        Cost("a training step", "long_text", "step_ms", "ms"),
        Cost("the final evaluation, per character", "long_text", "evaluation_us", "µs", "final evaluation"),
        Cost("counting 5-grams", "long_counts", "training_s", "s"),
        Cost("counting 5-grams, per character", "long_counts", "counting_us", "µs", "counting 5-grams"),
        Cost("peak memory of counting", "long_counts", "peak_memory_mb", "MiB"),
        Cost("peak memory of training on bytes", "long_bytes", "peak_memory_mb", "MiB"),
    ),
)
STUDY = Table(
    "cells of a study",
    CELLS,
    "ms per cell",
    (
        Cost("computing time of the study, per cell", "many_cells", "coordinator_ms", "ms", "computing time"),
        Cost("wall time, per cell", "many_cells", "wall_ms", "ms"),
        Cost("peak memory of the study", "many_cells", "peak_memory_mb", "MiB"),
        Cost("files that the study adds, per cell", "many_cells", "files", ""),
    ),
)

Measured = dict[Cost, dict[int, float]]
"""The medians over the rounds by size, the smallest size first."""


def growth(file: Path, docs: Path) -> str:
    """Return the tables, without the rows that were not measured, and a link to the picture if it exists.

    Args:
        file: the records of the benchmarks.
        docs: folder of the documents, with the picture in `figures`.
    """
    parts = []
    for table, measured in _measured(file):
        sizes = _sizes(measured)
        lines = [row([table.size, *map(_size, sizes)]), f"|---|{'---:|' * len(sizes)}"]
        for cost, values in measured.items():
            cells = (quantity(values[size], cost.unit, 3) if size in values else "–" for size in sizes)
            lines.append(row([cost.what, *cells]))
        parts.append("\n".join(lines))
    figure = docs / "figures" / f"{PICTURE}.png"
    if parts and figure.exists():
        parts.append(f"![{DESCRIPTION}]({figure.relative_to(docs).as_posix()})")
    return "\n\n".join(parts)


def pictures(file: Path) -> dict[str, Callable[[], bytes]]:
    """Return for the picture's name a function that returns it, a PNG file; nothing if nothing in it was measured."""
    return {PICTURE: partial(_picture, file)} if _panels(file) else {}


def _picture(file: Path) -> bytes:
    with drawing():
        return picture(draw(file), "png")


def draw(file: Path) -> Figure:
    """Draw a panel for each table of which something was measured, within `charlab.studies.report.style.drawing`."""
    from matplotlib.figure import Figure

    panels = _panels(file)
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=200, layout="constrained")
    for axes, (table, lines) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        _draw_panel(axes, table, lines)
    return figure


def _draw_panel(axes: Axes, table: Table, lines: Measured) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    for (cost, values), color, marker in zip(lines.items(), COLORS, MARKERS, strict=False):
        x, y = list(values), list(values.values())
        axes.plot(x, y, color=color, marker=marker, markersize=3.5, linewidth=1.2)
        ink = LABEL_COLORS.get(color, color)
        axes.annotate(cost.label, (x[0], y[0]), (0, 6), textcoords="offset points", color=ink, fontsize=7)
    costs = [value for values in lines.values() for value in values.values()]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(_sizes(lines), labels=list(map(_size, _sizes(lines))))
    axes.set_ylim(min(costs) / 2, 3 * max(costs))  # with room for the labels
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()
    axes.set_xlabel(table.size)
    axes.set_ylabel(table.drawn)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _measured(file: Path) -> list[tuple[Table, Measured]]:
    """Return the tables of which something was measured."""
    rounds = {record["name"]: record["rounds"] for record in read_json_lines(file)}
    found = []
    for table in (TEXT, STUDY):
        measured: Measured = defaultdict(dict)
        for cost in table.costs:
            pairs = rounds.get(cost.benchmark, ())
            for side, size in sorted(table.sizes.items(), key=itemgetter(1)):
                if values := [pair[side][cost.key] for pair in pairs if cost.key in pair.get(side, {})]:
                    measured[cost][size] = statistics.median(values)
        if measured:
            found.append((table, measured))
    return found


def _panels(file: Path) -> list[tuple[Table, Measured]]:
    """Return the tables of which something is drawn, with their lines alone."""
    found = []
    for table, measured in _measured(file):
        if lines := {cost: values for cost, values in measured.items() if cost.label}:
            found.append((table, lines))
    return found


def _sizes(measured: Measured) -> list[int]:
    return sorted({size for values in measured.values() for size in values})


def _size(size: int) -> str:
    return f"{size / 1e6:g} million" if size >= 10**6 else f"{size:,}"
