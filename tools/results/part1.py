"""Part 1 of the results: the ladder, next to the published figures."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from charlab.configuration.overrides import translate
from charlab.runs.record import Record
from tools.results.marks import NONE, Marks

# Of one published run each: (name, steps) -> estimates on train and validation text, in nats per character.
PUBLISHED = {
    ("part1-bigram", 1000): (2.473, 2.502),
    ("part1-bigram_embedding", 1000): (2.458, 2.493),
    ("part1-single_head", 1000): (2.352, 2.390),
    ("part1-multi_head", 1000): (1.933, 2.074),
    ("part1-transformer", 200): (2.486, 2.496),
    ("part1-transformer", 1000): (1.671, 1.823),
    ("part1-transformer", 1800): (1.420, 1.628),
}


def part1(runs: Sequence[Record], docs: Path, marks: Marks = NONE) -> str:
    """Return the section, with the curve of each run that has one.

    Args:
        runs: the records of Part 1.
        docs: folder of the page; a run's curve is shown if it is in `figures/NAME.png` there.
        marks: the records by former code.
    """
    order = [name for name, _ in PUBLISHED]
    ranked = sorted(runs, key=lambda run: (order.index(run.name) if run.name in order else len(order), run.steps))
    lines = [
        "## Part 1: the ladder",
        "",
        "| model | parameters | steps | estimate | published | blocks | bpc | perplexity | training s | on |",
        "|---|---:|---:|---|---|---|---:|---:|---:|---|",
        *(_row(run, marks) for run in ranked),
        "",
        "These commands repeat the runs:",
        "",
        "```sh",
        *(f"charlab train {shlex.join(translate(run.overrides)[0])}" for run in ranked),
        "```",
    ]
    machines = sorted({f"{run.machine['device']}: {run.machine['name']}" for run in ranked})
    curves = [
        f"\n![Losses of the model {_label(run)} over {run.steps:,} steps]({figure.relative_to(docs).as_posix()})"
        for run in ranked
        if (figure := docs / "figures" / f"{run.name}.png").exists()
    ]
    return "\n".join([*lines, "", f"Machines: {'; '.join(machines)}.", *curves, ""])


def _label(run: Record) -> str:
    return run.name.removeprefix("part1-").replace("_", " ")


def _row(run: Record, marks: Marks) -> str:
    estimates = [f"{run.metric('estimate', split)['nll']:.3f}" for split in ("train", "validation")]
    published = PUBLISHED.get((run.name, run.steps))
    blocks = run.metric("blocks")
    figures = [f"{blocks['nll']:.4f}", f"{blocks['bpc']:.4f}", f"{blocks['perplexity']:.3f}"]
    if run.causality.get("leaks"):
        figures = [f"~~{figure}~~" for figure in figures]
        figures[0] += f" leaks; honest {run.causality['honest_nll']:.2f} ± {run.causality['honest_error']:.2f}"
    threads = (
        f"{run.machine['threads']} core{'s' * (run.machine['threads'] > 1)}"
        if run.machine["device"] == "cpu"
        else run.machine["device"]
    )
    cells = [
        _label(run) + marks.of([run]),
        f"{run.parameters:,}",
        f"{run.steps:,}",
        " / ".join(estimates),
        " / ".join(f"{loss:.3f}" for loss in published) if published else "–",
        *figures,
        f"{run.time['training_s']:,.0f}",
        threads,
    ]
    return f"| {' | '.join(cells)} |"
