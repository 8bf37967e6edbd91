"""Compare two runs: `charlab runs compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from charlab.command import command
from charlab.errors import UserError
from charlab.quantities import UNKNOWN, fixed, interval, joined, percent, signed
from charlab.runs.code import changed
from charlab.runs.listing import settings_of, short_name, shown_value, varied
from charlab.runs.plots import plot_comparison
from charlab.runs.record import Record
from charlab.runs.store import Store
from charlab.runs.text_differences import TextDifferences, compare_runs, same_text


def compare(runs: Sequence[str], output_dir: Path, plot: str, console: Console) -> None:
    """Print what differs between two runs, how far apart they are and where, and draw their curves."""
    if len(runs) != 2:
        raise UserError(f"compare takes two runs, not {len(runs)}: {command('runs', 'compare', 'RUN', 'RUN')}.")
    a, b = (Record.load(Store(output_dir).named(run)) for run in runs)
    labels = _labels(a, b)
    compared = Table("", *labels, box=None, pad_edge=False)
    settings = [settings_of(record) for record in (a, b)]
    for key in varied(settings):
        compared.add_row(key, *(Text(shown_value(one[key]) if key in one else UNKNOWN) for one in settings))
    if compared.row_count:
        console.print(compared)
    else:
        console.print("Their configurations do not differ.")
    console.print()
    outcome = Table("outcome", *labels, "difference", box=None, pad_edge=False)
    for column in outcome.columns[1:]:
        column.justify = "right"
    outcome.add_row("status", a.status, b.status, "")
    for row in (*_figures(a, b), *_costs(a, b)):
        outcome.add_row(*row)
    console.print(outcome)
    console.print()
    try:
        print_where(compare_runs(a, b), console)
    except UserError as error:
        console.print(f"Where they differ is not known. {error}", highlight=False, markup=False, soft_wrap=True)
    console.print()
    names = changed(a.sources, b.sources)
    same = "is not known" if None in (a.code, b.code) else "is the same" if a.code == b.code else "differs"
    told = f"differs in {joined(names, most=5)}" if names else same
    console.print(f"Their code {told}.", highlight=False, markup=False, soft_wrap=True)
    file = Path(plot or output_dir / f"compare-{short_name(a.folder)}-{short_name(b.folder)}.png")
    if plot_comparison(file, dict(zip(labels, (a.folder, b.folder), strict=True))):
        console.print(f"curves     {file}", highlight=False, markup=False, soft_wrap=True)


def _labels(a: Record, b: Record) -> list[str]:
    """Return the names of two runs, as short as they can be told apart."""
    ways: tuple[Callable[[Path], str], ...] = (short_name, lambda folder: folder.name, str)
    labels: list[str] = []
    for shown in ways:
        labels = [f"{record.name} {shown(record.folder)}" for record in (a, b)]
        if labels[0] != labels[1]:
            break
    return labels


def _figures(a: Record, b: Record) -> Iterator[list[Text]]:
    """Yield a row for each split and protocol: its name, the figure of each run, and their difference.

    A run's own figure comes before those with other settings, which `charlab evaluate` adds later.
    """
    for split, protocol in dict.fromkeys((entry["split"], entry["protocol"]) for entry in (*a.metrics, *b.metrics)):
        first, second = (record.find_figure(protocol, split) or {} for record in (a, b))
        same = first.get("sha256") == second.get("sha256") and ("sha256" in first or same_text(a, b))
        difference = UNKNOWN
        if same and first.get("nll") is not None and second.get("nll") is not None:
            difference = signed(second["nll"] - first["nll"])
        yield [Text(f"{split}/{protocol}"), _figure(first, a), _figure(second, b), Text(difference)]


def _figure(entry: Mapping[str, Any], record: Record) -> Text:
    """Return a figure as the list of runs shows it; that of a model that leaks is struck through."""
    if entry.get("nll") is None:
        return Text(UNKNOWN)
    bound = "≤ " if entry.get("likelihood") == "bound" else ""
    return Text(f"{bound}{fixed(entry['nll'])}", "strike" if record.causality.get("leaks") else "")


def _costs(a: Record, b: Record) -> Iterator[list[Text]]:
    """Yield a row for each cost: its name, the value of each run, and their difference."""
    costs: dict[str, tuple[float | None, float | None]] = {
        "parameters": (a.parameters, b.parameters),
        "steps": (a.steps, b.steps),
        "characters": (a.characters_seen, b.characters_seen),
        "training seconds": (a.time.get("training_s"), b.time.get("training_s")),
    }
    for what, (first, second) in costs.items():
        shown = [UNKNOWN if value is None else f"{value:,.0f}" for value in (first, second)]
        difference = UNKNOWN if first is None or second is None else signed(second - first, 0)
        yield [Text(cell) for cell in (what, *shown, difference)]


def print_where(where: TextDifferences, console: Console) -> None:
    """Print where the second of two runs differs from the first: the parts of the text, and the passages."""
    console.print("Where they differ: nats of the second minus nats of the first, by blocks", highlight=False)
    table = Table("", *("characters", "there", "per character of the text", "95% over texts"), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    split = ""
    for part in (*where.parts, where.whole):
        if part.split != split:
            table.add_row(f"{part.split}:" if part.split else "")
            split = part.split
        table.add_row(
            f"  {part.label}" if split else part.label,
            percent(part.characters / where.whole.characters),
            signed(part.nats / part.characters),
            signed(part.mean),
            UNKNOWN if part.interval is None else interval(part.interval),
        )
    console.print(table)
    console.print()
    console.print("Where they differ most: nats, the place in the validation text, and what is written there")
    grid = Table.grid(padding=(0, 2))
    for options in ({"justify": "right", "min_width": 7}, {"justify": "right", "min_width": 9}, {"overflow": "fold"}):
        grid.add_column(**options)
    for passage in where.passages:
        grid.add_row(signed(passage.nats, 1), f"{passage.start + 1:,}", Text(where.shown(passage)))
    console.print(grid, highlight=False)
