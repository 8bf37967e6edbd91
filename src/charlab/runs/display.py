"""What the terminal shows of a run: earlier attempts before it trains, and its summary afterwards."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping
from html import escape
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from charlab.command import command
from charlab.errors import UserError
from charlab.notebook import Output, data_uri
from charlab.quantities import duration, flop_rate
from charlab.runs import definitions, store
from charlab.runs.draw import complete, sample
from charlab.runs.folder import CHECKPOINT, SAMPLES, events_folder
from charlab.runs.identity import members_of_other_code
from charlab.runs.plots import LOSS_PLOT
from charlab.runs.record import FILE_NAME, Record

SAMPLE_LENGTH = 500
PARTIAL = ("estimate", "online")  # protocols that score only a sample of the text, or a model that adapts to it


def show_if_finished(config: DictConfig, folder: Path, console: Console | None = None) -> Record | None:
    """Return the record of a configuration's run and print its table if it is finished; None if it must be trained.

    Neither torch nor Lightning is imported if the configuration or the machine determines the device.

    Args:
        config: a composed `conf/train.yaml`.
    """
    if config.force:
        return None
    found = store.locate_in(folder, config)
    if found.finished is not None:
        show(found.finished, console or Output(), config.get("at_end", ()))
        return found.finished
    store.check_resumable(found, config)
    return None


def show(record: Record, console: Console, at_end: Collection[str] = ()) -> None:
    """Print the table of a finished run, after adding what it lacks of `at_end`."""
    try:
        complete(record, at_end)
    except UserError as error:  # for example, a read-only folder
        tell(console, str(error))
    console.print("This run is finished already (force=true trains it again):", soft_wrap=True)
    console.print(str(record.folder), soft_wrap=True, markup=False, highlight=False)
    if record.begun_by:
        console.print(f"It was started by different code ({', '.join(record.begun_by)}).", highlight=False)
    print_summary(record, console)


def announce(found: store.RunLocation, config: DictConfig, console: Console) -> None:
    """Print which earlier attempts at a run exist, and which of its members were trained by different code."""
    for run, names in members_of_other_code(config).items():
        told = f"({store.changes(names)}): its weights now run in the changed model."
        tell(console, f"The run {run} was trained by different code {told}")
    for other in found.others[-1:]:
        told = f"This run was {store.status_word(other)} by different code ({store.differences(other, found.identity)})"
        hint = "" if other.status in ("finished", "tried") else " resume=any_code resumes it with today's code."
        tell(console, f"{told}: it stays in {other.folder}, and a new run trains in {found.folder}.{hint}")
    if found.has_lost_checkpoint:
        tell(console, f"The finished run in {found.folder} has lost its checkpoint: it is trained again.")


def tell(console: Console, sentence: str) -> None:
    """Print a sentence on one line, without marking numbers."""
    console.print(sentence, soft_wrap=True, highlight=False, markup=False)


def print_summary(record: Record, console: Console) -> None:
    """Print a run's results, its costs, a sample of its text and the paths of its files.

    These attributes of the record are used:

    - `metrics`: a list of {protocol, split, nll, bpc, perplexity, likelihood, standard_error}, in nats and bits per
      character; None if a value is not finite;
    - `causality`: {leaks, reason, honest_nll, honest_error}, or empty if the model was not checked;
    - `floor`: {split: nats per character}, empty if unknown;
    - `best`: {step, nll} of `checkpoints/best.ckpt`, or None;
    - `time`: {setup_s, training_s, evaluation_s}; `parameters`; `steps`; `characters_seen`.

    The sample is the beginning of `samples.txt` in the run's folder. The results come last, so that a small terminal
    still shows them.
    """
    leaks = record.causality.get("leaks")
    if console.is_jupyter:  # which displays the record as a card
        if leaks or record.metrics:
            console.print(_leak(record.causality) if leaks else _main_figure(record))
        return
    console.print()
    samples = record.folder / SAMPLES
    if samples.exists():
        text = Text(_printable(samples.read_text(encoding="utf-8", errors="replace")))
        console.print(Panel(text, title="sample", title_align="left", border_style="dim", expand=False))
    for label, value in _places(record.folder).items():
        console.print(f"{label:<10} {value}", soft_wrap=True, highlight=False, markup=False)  # unwrapped, for copying
    console.print()
    console.print(_costs(record))
    print_results(record, console)
    if record.metrics and not leaks:
        console.print(_main_figure(record))
    if record.config.get("note"):
        console.print(f"{'note':<10} {record.config['note']}", highlight=False, markup=False)


def card(record: Record) -> str:
    """Return what a notebook shows of a run: figures with their protocols, the loss curve, and a sample of its text."""
    leaks = bool(record.causality.get("leaks"))
    rows = [
        "".join(
            f"<td>{escape(text)}</td>"
            for text in (entry["split"], entry["protocol"], *_figures(entry, record.floor.get(entry["split"])))
        )
        for entry in record.metrics
    ]
    heading = "".join(
        f"<th>{text}</th>" for text in ("split", "protocol", "nats/char", "bits/char", "perplexity", "floor")
    )
    style = "border-collapse: separate; border-spacing: 1em 0" + "; text-decoration: line-through" * leaks
    table = (
        f'<table style="{style}"><tr>{heading}</tr>{"".join(f"<tr>{row}</tr>" for row in rows)}</table>' if rows else ""
    )
    alarm = f"<p><strong>leaks</strong> {escape(str(record.causality['reason']))}</p>" if leaks else ""
    picture = f'<img src="{data_uri(record.plot())}" alt="loss" style="width: 100%">' if len(record.curves()) else ""
    text = _printable(sample(record))
    shown = f'<pre style="white-space: pre-wrap; font-size: 85%">{escape(text)}</pre>' if text else ""
    error = f"<p>{escape(record.error)}</p>" if record.error else ""
    costs = (
        f"{record.parameters:,} parameters · {record.steps:,} steps · {duration(record.time.get('training_s', 0.0))}"
    )
    return (
        f"<div><p><strong>{escape(record.name)}</strong> {record.status} · {costs}</p>{error}{alarm}{table}"
        '<div style="display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start">'
        f'<div style="flex: 1 1 20em; max-width: 34em">{picture}</div>'
        f'<div style="flex: 1 1 16em; max-width: 34em">{shown}</div></div>'
        f"<p><code>{escape(str(record.folder))}</code></p></div>"
    )


def _figures(entry: Mapping[str, Any], floor: float | None) -> tuple[str, str, str, str]:
    bound = "≤ " if entry["likelihood"] == "bound" else ""
    nll, bpc, perplexity = (
        _figure(entry[key], f"{bound}{{:.{digits}f}}") for key, digits in (("nll", 4), ("bpc", 4), ("perplexity", 3))
    )
    return nll, bpc, perplexity, "" if floor is None else f"{floor:.4f}"


def print_results(record: Record, console: Console) -> None:
    """Print a record's results, with an explanation if the model leaks or adapts to the text it reads."""
    console.print()
    console.print(_results(record))
    for entry in record.metrics:
        if entry["protocol"] == "online":
            console.print(_online(entry))
    for reason in dict.fromkeys(entry["reason"] for entry in record.metrics if entry.get("reason")):
        console.print(reason, soft_wrap=True, markup=False)
    if record.causality.get("leaks"):
        console.print(_leak(record.causality))


def _results(record: Record) -> RenderableType:
    """Return the table of results, with a row for each split and protocol."""
    leaks = bool(record.causality.get("leaks"))
    has_errors = any(entry.get("standard_error") is not None for entry in record.metrics)
    has_floor = bool(record.floor) and not leaks  # the gap of an invalid figure is meaningless
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("split")
    table.add_column("protocol")
    headings = ["nats/char", *["± error"] * has_errors, "bits/char", "perplexity", *["floor", "gap"] * has_floor]
    for heading in headings:
        table.add_column(heading, justify="right")
    for entry in record.metrics:
        error, floor = entry.get("standard_error"), record.floor.get(entry["split"])
        *figures, shown_floor = _figures(entry, floor)
        nll, bpc, perplexity = (Text.assemble((figure, "strike dim" if leaks else "")) for figure in figures)
        row = [nll, *[Text("" if error is None else f"{error:.4f}")] * has_errors, bpc, perplexity]
        if leaks:
            row[-1] = Text.assemble(perplexity, (" leaks", "bold red"), _honest(record.causality, ", honest {}"))
        if has_floor and floor is not None:
            gap = None if entry["nll"] is None else entry["nll"] - floor
            row += [Text(shown_floor, "dim"), Text(_figure(gap, "{:+.4f}", ""))]
        table.add_row(Text(entry["split"]), entry["protocol"], *row)  # a text may be called [b].txt
    return Group(Text.assemble((record.name, "bold"), f"  {record.status}"), Text(), table, Text())


def _figure(value: float | None, pattern: str, otherwise: str = "not finite") -> str:
    return otherwise if value is None else pattern.format(value)


def _honest(causality: Mapping[str, Any], pattern: str) -> str:
    """Return the perplexity when text is scored character by character, as in generation; "" if unknown.

    It is measured on a sample of the text, so it has a standard error.
    """
    nll, error = causality.get("honest_nll"), causality.get("honest_error")
    if nll is None:
        return ""
    if nll > 700:
        return pattern.format("not finite")
    return pattern.format(f"{math.exp(nll):.1f}" + (f" ± {math.exp(nll) * error:.1f}" if error is not None else ""))


def _online(entry: Mapping[str, Any]) -> RenderableType:
    names = ("context_length", "block_length", "optimizer", "learning_rate", "steps_per_block")
    settings = ", ".join(f"{name}={entry[name]}" for name in names if entry.get(name) is not None)
    told = (
        f"The model adapts to the text while it reads it ({settings}): "
        "a figure not to be compared with those of other protocols."
    )
    return Group(Text.assemble(("online  ", "bold"), told), Text())


def _leak(causality: Mapping[str, Any]) -> RenderableType:
    honest = _honest(causality, " Scored character by character, as it generates, its perplexity is {}.")
    return Group(Text.assemble(("leaks  ", "bold red"), causality["reason"], (honest, "bold")), Text())


def _costs(record: Record) -> RenderableType:
    """Return the table of costs: parameters, characters, steps and time."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("parameters", f"{record.parameters:,}")
    training = record.time.get("training_s", 0.0)
    speed = f"  {record.characters_seen / training:,.0f} per second" if training else ""
    grid.add_row("trained on", f"{record.characters_seen:,} characters in {record.steps:,} steps{speed}")
    parts = {"set-up": "setup_s", "training": "training_s", "evaluation": "evaluation_s"}
    times = [f"{part} {duration(record.time[key])}" for part, key in parts.items() if key in record.time]
    grid.add_row("time", " · ".join(times))
    if record.flops_per_step and training:
        peak = record.machine.get("peak_flops")
        rate = record.flops_per_step * record.steps / training
        grid.add_row("compute", flop_rate(rate, peak * record.machine["processes"] if peak else None))
    if record.callbacks:
        grid.add_row("callbacks", f"{', '.join(record.callbacks)} (neither charlab's nor Lightning's)")
    if record.best is not None:
        bound = "≤ " if any(entry["likelihood"] == "bound" for entry in record.metrics) else ""
        best = f"{bound}{record.best['nll']:.4f} nats/char after step {record.best['step']:,}: checkpoint=best"
        grid.add_row("best on dev", best)
    return grid


def _main_figure(record: Record) -> RenderableType:
    """Return the line that names the one result to quote: of the whole validation text, by the last protocol.

    The run's own settings come before others, which `charlab evaluate` adds later.
    """
    metrics = record.metrics
    whole = [entry for entry in metrics if entry["split"] == "validation" and entry["protocol"] not in PARTIAL]
    split, protocol = list(dict.fromkeys((entry["split"], entry["protocol"]) for entry in whole or metrics))[-1]
    entry = record.find_figure(protocol, split) or metrics[-1]
    bound = "≤ " if entry["likelihood"] == "bound" else ""
    figure = f"{_figure(entry['perplexity'], f'{bound}{{:.3f}}')} perplexity"
    return Text.assemble("result     ", (figure, "bold"), f" on {entry['split']} ({entry['protocol']})")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in text[:SAMPLE_LENGTH].expandtabs())


def _places(folder: Path) -> dict[str, str]:
    """Return the paths of the run's files that exist, and the commands that show its curves and draw the rest."""
    places = {"record": str(folder / FILE_NAME)}
    if (folder / LOSS_PLOT).exists():
        places["loss plot"] = str(folder / LOSS_PLOT)
    if events_folder(folder) is not None:
        places["curves"] = f"tensorboard --logdir {shlex.quote(str(folder))}"
    if not (folder / LOSS_PLOT).exists() and (folder / CHECKPOINT).exists():
        trust = ["trust=true"] if (folder / definitions.FILE_NAME).exists() else []
        places["pictures"] = command("runs", "draw", str(folder), *trust)
    return places
