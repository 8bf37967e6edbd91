"""The track: which runs are an entry, and the table of the entries in `docs/track.md`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from benchmarks.training import GPU_RECIPE_LOSS as LOSS
from charlab.configuration.compose import compose
from charlab.models.contract import CountedModel
from charlab.models.mixture import Mixture
from charlab.runs.identity import identify
from charlab.runs.record import Record, runs_of
from tools import read_json_lines
from tools.results import commit, is_committed, row
from tools.results.states import arm
from tools.results.wanted import SEEDS

FILE = "track.jsonl"  # in records/
CHARACTERS = 111_539  # of the validation text, all but the first
KNOWN = ("charlab", "torch", "lightning", "pytorch_optimizer")  # whose code reads no other text

HEADER = """\
| date | what it changed | loss, three seeds | training clock | whole process | yardstick | machine | commit |
|---|---|---|---:|---:|---:|---|---|"""
CLASSES = {False: "By gradient steps alone", True: "With counts"}


def faults(runs: Sequence[Record]) -> list[str]:
    """Return a sentence for each reason why runs cannot be an entry; none if they can."""
    text, found = compose(["data=tinyshakespeare"]).data, []
    if sorted(run.seed for run in runs) != [*SEEDS]:
        found.append(f"The seeds are {[run.seed for run in runs]}: an entry is a run of each of {[*SEEDS]}.")
    if len({arm(run.overrides) for run in runs}) > 1:
        found.append("The runs differ in more than their seeds.")
    return found + [f"{run.name}, seed {run.seed}, {fault}." for run in runs for fault in _faults(run, text)]


def _faults(run: Record, text: DictConfig) -> Iterator[str]:
    if run.status != "finished":
        yield f"is {run.status}"
        return
    data, blocks, config = run.config["data"], run.metric("blocks"), OmegaConf.create(run.config)
    fractions = [f"{split}_fraction" for split in ("train", "validation")]
    if run.corpus["sha256"] != text.corpus.sha256 or any(data[key] != text[key] for key in fractions):
        yield "does not read the published splits of tiny Shakespeare"
    if config.get("init_from") or config.get("extend") or runs_of(run.config["model"]):
        yield "starts from another run, whose time would count too"
    if foreign := [name for name in run.sources if name.partition(".")[0] not in KNOWN]:
        yield f"has code that may read another text ({', '.join(foreign)})"
    if run.causality.get("leaks"):
        yield "sees what it predicts"
    if blocks["nll"] is None:
        yield "has no finite loss"
    elif blocks["characters"] != CHARACTERS or blocks["nll"] > LOSS:
        yield f"has {blocks['nll']:.4f} nats over {blocks['characters']:,} characters: {LOSS} over {CHARACTERS:,} count"
    if run.machine["device"] != "cpu" or run.machine["threads"] * run.machine["processes"] > 2:
        yield "did not run on two cores"
    if not run.is_by(identify(config).code):
        yield "is by other code than today's"
    if not is_committed(run.git_commit):
        yield f"is by code that is not committed ({commit(run.git_commit)})"


def entry(changed: str, runs: Sequence[Record], process_s: Sequence[float], gflops: Sequence[float]) -> dict[str, Any]:
    """Return an entry, which holds all that the table shows.

    Args:
        changed: what it changed.
        runs: a run of each seed.
        process_s: seconds of each whole process; empty if they were not measured.
        gflops: the yardstick before each run; empty if it was not measured.
    """
    return {
        "date": max(run.finished or "" for run in runs),
        "changed": changed,
        "counts": _counts(runs[0].config["model"]),
        "blocks": [run.metric("blocks")["nll"] for run in runs],
        "training_s": [run.time["training_s"] for run in runs],
        "process_s": list(process_s),
        "gflops": list(gflops),
        "machine": f"{runs[0].machine['name']}, {runs[0].machine['threads']} threads",
        "git_commit": runs[0].git_commit,
        "runs": [f"{run.name}/{run.fingerprint}" for run in runs],
    }


def _counts(node: Any) -> bool:
    """Return whether any part of a model is fitted by counting."""
    if isinstance(node, dict):
        made = get_object(node["_target_"]) if "_target_" in node else None
        counts = isinstance(made, type) and issubclass(made, CountedModel) and not issubclass(made, Mixture)
        return counts or any(map(_counts, node.values()))
    return isinstance(node, list) and any(map(_counts, node))


def track(file: Path) -> str:
    """Return a table of each class, by date; a time shorter than all earlier ones is bold."""
    entries = sorted(read_json_lines(file), key=lambda entry: str(entry["date"]))
    tables = {counts: _rows([found for found in entries if found["counts"] == counts]) for counts in CLASSES}
    return "\n".join("\n".join([f"{CLASSES[counts]}:", "", HEADER, *rows, ""]) for counts, rows in tables.items())


def _rows(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    best = float("inf")
    for found in entries:
        training = statistics.mean(found["training_s"])
        seconds = f"**{training:.0f} s**" if training < best else f"{training:.0f} s"
        best = min(best, training)
        cells = [
            found["date"][:10],
            found["changed"],
            " · ".join(f"{nll:.4f}" for nll in found["blocks"]),
            seconds,
            f"{statistics.mean(found['process_s']):.0f} s" if found["process_s"] else "–",
            f"{statistics.median(found['gflops']):.0f}" if found["gflops"] else "–",
            found["machine"],
            commit(found["git_commit"]),
        ]
        yield row(cells)
