"""Part 1 of the results: the ladder, next to the published figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from charlab.runs.archive import Archive
from charlab.runs.plots import draw_loss
from charlab.runs.record import Record
from charlab.studies.report.style import picture
from tools.results import command, on_machines, row
from tools.results.marks import NONE, Marks

# Of one published run each: (name, steps) -> estimates on train and validation text, in nats per character.
PUBLISHED = {
    ("part1-bigram", 0): (4.645, 4.653),
    ("part1-bigram", 200): (2.900, 2.916),
    ("part1-bigram", 1000): (2.473, 2.502),
    ("part1-bigram_embedding", 0): (4.332, 4.334),
    ("part1-bigram_embedding", 1000): (2.458, 2.493),
    ("part1-single_head", 0): (4.193, 4.192),
    ("part1-single_head", 200): (2.592, 2.600),
    ("part1-single_head", 1000): (2.352, 2.390),
    ("part1-multi_head", 0): (4.159, 4.160),
    ("part1-multi_head", 200): (2.444, 2.473),
    ("part1-multi_head", 1000): (1.933, 2.074),
    ("part1-transformer", 0): (4.233, 4.232),
    ("part1-transformer", 200): (2.486, 2.496),
    ("part1-transformer", 1000): (1.671, 1.823),
    ("part1-transformer", 1800): (1.420, 1.628),
}
HEADLINE = "part1-transformer"
DRAWN = ("part1-long",)  # whose losses are drawn
SAMPLE_LINES = 6  # of the README's sample


def part1(archive: Archive, docs: Path, marks: Marks = NONE) -> str:
    """Return the section, with the picture of each run that has one in the folder `figures` of the documents."""
    order, runs = [name for name, _ in PUBLISHED], _ladder(archive)
    ranked = sorted(runs, key=lambda run: (order.index(run.name) if run.name in order else len(order), run.steps))
    lines = [
        "## Part 1: the ladder",
        "",
        "| model | parameters | steps | estimate | published | blocks | bpc | perplexity | training s | on |",
        "|---|---:|---:|---|---|---|---:|---:|---:|---|",
        *(_row(run, marks) for run in ranked),
        "",
        *_at_published_steps(ranked, archive),
        "These commands repeat the runs:",
        "",
        "```sh",
        *map(command, ranked),
        "```",
    ]
    machines = on_machines((_label(run), run.machine["name"]) for run in ranked)
    curves = [
        f"\n![Losses of the model {_label(run)} over {run.steps:,} steps]({figure.relative_to(docs).as_posix()})"
        for run in ranked
        if (figure := docs / "figures" / f"{run.name}.png").exists()
    ]
    return "\n".join([*lines, "", f"Trained {machines}.", *curves, ""])


def pictures(archive: Archive) -> dict[str, Callable[[], bytes]]:
    """Return for the name of each run whose losses are drawn a function that returns its picture, a PNG file."""
    longest = {run.name: run for run in sorted(_ladder(archive), key=lambda run: run.steps) if run.name in DRAWN}
    return {name: partial(_picture, run, archive) for name, run in longest.items()}


def _picture(run: Record, archive: Archive) -> bytes:
    leaks = bool(run.causality.get("leaks"))
    return picture(draw_loss(archive.curves(run), title=run.name, leaks=leaks), "png")


def headline(archive: Archive, marks: Marks = NONE) -> str:
    """Return the README's table of the ladder's transformer, next to the published figures, and its sample."""
    runs = [run for run in _ladder(archive) if run.name == HEADLINE]
    if not runs:
        return ""
    run = max(runs, key=lambda run: run.steps)
    estimates = _estimates(run, archive)
    published = {step: PUBLISHED[HEADLINE, step] for step in estimates if (HEADLINE, step) in PUBLISHED}
    table = [
        row(["steps" + marks.of([run]), *(f"{step:,}" for step in estimates)]),
        f"|---|{'---:|' * len(estimates)}",
    ]
    for split, name in enumerate(("train", "validation")):
        table.append(row([name, *(f"{losses[split]:.3f}" for losses in estimates.values())]))
        shown = (f"{published[step][split]:.3f}" if step in published else "" for step in estimates)
        table.append(row(["published", *shown]))
    sample = archive.sample(run).strip("\n").splitlines()[:SAMPLE_LINES]
    return "\n".join([*table, *(["", "```text", *sample, "```"] if sample else []), *marks.sentence([run])])


def _ladder(archive: Archive) -> list[Record]:
    return [run for run in archive.records() if run.name.startswith("part1-")]


def _estimates(run: Record, archive: Archive) -> dict[int, tuple[float, float]]:
    """Return a run's estimates on train and validation text, in nats per character, by step."""
    curves, splits = archive.curves(run), dict[str, dict[int, float]]()
    for split in ("train", "validation"):
        rows = curves[curves["metric"].isin([f"{split}/nll", f"estimate/{split}/nll"])]  # today's name and a former one
        splits[split] = dict(zip(rows["step"].astype(int), rows["value"], strict=True))
    return {step: (loss, splits["validation"][step]) for step, loss in splits["train"].items()}


def _at_published_steps(runs: Sequence[Record], archive: Archive) -> list[str]:
    lines = [
        "At the published steps, train / validation by the estimate (step 1,000 is their 999):",
        "",
        "| model | step | estimate | published |",
        "|---|---:|---|---|",
    ]
    for run in {run.name: run for run in runs}.values():  # the longest of each model
        for step, losses in _estimates(run, archive).items():
            if published := PUBLISHED.get((run.name, step)):
                figures = (" / ".join(f"{loss:.3f}" for loss in pair) for pair in (losses, published))
                lines.append(row([_label(run), f"{step:,}", *figures]))
    return [*lines, ""]


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
    precision = run.config.get("trainer", {}).get("precision") or "auto"
    if precision not in ("auto", "float32"):
        threads += f", {precision.removesuffix('-mixed')}"
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
    return row(cells)
