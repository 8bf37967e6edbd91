"""`docs/results.md`: tables written from the records of real runs, which are kept beside them."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.record import FILE_NAME, Record

KEPT_FILES = (FILE_NAME, "metrics.csv")

# One published run each: name and steps of ours -> estimates on train and validation text, in nats per character.
PUBLISHED = {
    ("part1-bigram", 1000): (2.473, 2.502),
    ("part1-bigram_embedding", 1000): (2.458, 2.493),
    ("part1-single_head", 1000): (2.352, 2.390),
    ("part1-multi_head", 1000): (1.933, 2.074),
    ("part1-transformer", 200): (2.486, 2.496),
    ("part1-transformer", 1000): (1.671, 1.823),
    ("part1-transformer", 1800): (1.420, 1.628),
}

HEADER = """\
# Results

Written by `python scripts/results.py` from the run records in `docs/records/`; not by hand. Losses are in nats per
character on tiny Shakespeare. *Estimate* is the mean over random batches of windows, on train / validation text;
*blocks* is every character of the validation text once; both with the final weights. Times are wall-clock seconds on
the machine named, which is shared and noisy.
"""


def keep(run: Path, records: Path) -> None:
    """Copies the record and the curves of a finished run into `records`, without its checkpoints.

    Raises:
        UserError: if there is no finished run in the folder.
    """
    record = Record.load(run)
    if record.status != "finished":
        raise UserError(f"The run in {run} is {record.status}: finish it before keeping its record.")
    folder = records / record.name / record.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    for name in KEPT_FILES:
        shutil.copyfile(run / name, folder / name)


def write_results(records: Path, page: Path) -> None:
    """Writes the page from every record below `records`."""
    runs = [Record.load(path.parent) for path in sorted(records.rglob(FILE_NAME))]
    sections = [HEADER, _part1(run for run in runs if run.name.startswith("part1-"))]
    write_atomically(page, lambda file: file.write("\n".join(sections).encode()))


def _part1(runs: Iterable[Record]) -> str:
    order = [name for name, _ in PUBLISHED]
    ranked = sorted(runs, key=lambda run: (order.index(run.name) if run.name in order else len(order), run.steps))
    lines = [
        "## Part 1: the ladder",
        "",
        "| model | parameters | steps | estimate | published | blocks | bpc | perplexity | training s | on |",
        "|---|---:|---:|---|---|---|---:|---:|---:|---|",
        *map(_row, ranked),
        "",
        "The same numbers again, by these commands:",
        "",
        "```sh",
        *(f"python scripts/train.py {shlex.join(run.overrides)}" for run in ranked),
        "```",
    ]
    machines = sorted({f"{run.machine['device']}: {run.machine['name']}" for run in ranked})
    return "\n".join([*lines, "", f"Machines: {'; '.join(machines)}.", ""])


def _row(run: Record) -> str:
    estimates = [f"{run.metric('estimate', split)['nll']:.3f}" for split in ("train", "validation")]
    published = PUBLISHED.get((run.name, run.steps))
    blocks = run.metric("blocks")
    figures = [f"{blocks['nll']:.4f}", f"{blocks['bpc']:.4f}", f"{blocks['perplexity']:.3f}"]
    if run.causality.get("leaks"):
        figures = [f"~~{figure}~~" for figure in figures]
        figures[0] += f" leaks; honest {run.causality['honest_nll']:.2f} ± {run.causality['honest_error']:.2f}"
    threads = f"{run.machine['threads']} cores" if run.machine["device"] == "cpu" else run.machine["device"]
    cells = [
        run.name.removeprefix("part1-").replace("_", " "),
        f"{run.parameters:,}",
        f"{run.steps:,}",
        " / ".join(estimates),
        " / ".join(f"{loss:.3f}" for loss in published) if published else "–",
        *figures,
        f"{run.time['training_s']:,.0f}",
        threads,
    ]
    return f"| {' | '.join(cells)} |"
