"""Benchmarks of size: texts of up to 100 million characters, studies of up to 10,000 cells, and lists of runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

from benchmarks.made_up import made_up_text
from benchmarks.pairs import OURS, Benchmark, Figure, Measurement, Side
from benchmarks.processes import QUIET, run_module, run_program, run_training
from charlab.curves import FILE_NAME as CURVES
from charlab.runs.archive import Archive
from charlab.runs.folder import CHECKPOINT, SAMPLES

SIZES = {OURS: 10**8, "10 million": 10**7, "1 million": 10**6}
CELLS = {OURS: 10_000, "1,000": 1000, "100": 100}
RUNS = {OURS: 2000, "an empty folder": 0}
SMALL = ("model=gru", "model.hidden_dim=64", "data.context_length=64", "data.batch_size=16", "compute.compile=false")


def _sides(measure: Callable[[int], Measurement], sizes: Mapping[str, int]) -> dict[str, Side]:
    def side(size: int, _round: int) -> Measurement:
        return measure(size)

    return {name: partial(side, size) for name, size in sizes.items()}


def _on_text(path: Path, *overrides: str) -> Measurement:
    """Train on a made-up text, with its ids in a temporary folder, and return what `run_training` returns."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, CHARLAB_DATA=folder):
        return run_training("data=textfile", f"data.path={path}", "logger=csv", *QUIET, *overrides)


def _long_text() -> Benchmark:
    return _long(
        "characters",
        Figure("step_ms", "a training step", "ms", "share above", "1 million", 0.1),
        Figure("evaluation_us", "the final evaluation, per character", "µs", "share above", "10 million", 0.1),
        Figure("wall_s", "whole process", "s", "itself", "1 million"),
    )


def _long_bytes() -> Benchmark:
    return _long("bytes")  # memory alone, which does not depend on what else the machine does


def _long(tokens: str, *more: Figure) -> Benchmark:
    overrides = (f"data/tokenizer={tokens}", "trainer.max_steps=300", "trainer.log_every_n_steps=50")

    def train(length: int) -> Measurement:
        measured = _on_text(made_up_text(length, markup=tokens == "bytes"), *SMALL, *overrides)
        evaluation_us = 1e6 * measured["evaluation_s"] / (0.1 * length)
        return {**measured, "characters": length, "evaluation_us": evaluation_us}

    return Benchmark(
        f"A small GRU on 100 million characters{_read_as(tokens)}, against fewer",
        _sides(train, SIZES),
        [Figure("peak_memory_mb", "peak memory", "MiB", "more by", "1 million", 300.0), *more],
        pairs=1,
        is_asked_for=True,
    )


def _read_as(tokens: str) -> str:
    """Return the end of "100 million characters": only bytes are read from a text with markup."""
    return " with markup, as bytes" if tokens == "bytes" else ""


def _long_counts(tokens: str) -> Benchmark:
    model = ("model=ngram_kneser_ney", "model.order=5", "data.validation_fraction=0.001")

    def count(length: int) -> Measurement:
        measured = _on_text(made_up_text(length, markup=tokens == "bytes"), f"data/tokenizer={tokens}", *model)
        counting_us = 1e6 * measured["training_s"] / (0.9 * length)
        return {**measured, "characters": length, "counting_us": counting_us}

    return Benchmark(
        f"Counts of 5-grams of 100 million characters{_read_as(tokens)}, against fewer",
        _sides(count, SIZES),
        [
            Figure("training_s", "counting", "s", "itself", "1 million"),
            Figure("counting_us", "counting, per character", "µs", "share above", "10 million"),
            Figure("peak_memory_mb", "peak memory", "MiB", "more by", "10 million"),
        ],
        pairs=1,
        is_asked_for=True,
    )


def _many_cells() -> Benchmark:
    """Return a simulation whose cells do no work, and whose records are copies of a kept one."""
    return Benchmark(
        "10,000 cells that do no work, against fewer",
        _sides(partial(run_module, "benchmarks.cells"), CELLS),
        [
            Figure("coordinator_ms", "computing time of the study, per cell", "ms", "share above", "100", 0.2),
            Figure("wall_ms", "whole study, per cell", "ms", "share above", "100"),
            Figure("peak_memory_mb", "peak memory of the study", "MiB", "itself", "100", 500.0),
            Figure("files", "files that a study adds to a cell's run", "", "itself", "100", 12.0),
        ],
        pairs=1,
        is_asked_for=True,
    )


def _large_study() -> Benchmark:
    values = ",".join(f"{1e-4 * (number + 1):.1e}" for number in range(20))
    sweep = ("-m", "data=play", "model=gpt", f"optimizer.lr={values}", "seed=range(0,25)", "dry_run=true")

    def plan_and_report(_: int) -> Measurement:
        with tempfile.TemporaryDirectory() as folder:
            planned = run_program("scripts/train.py", *sweep, f"output_dir={folder}")
        return {"plan_s": planned["wall_s"], "report_s": run_module("benchmarks.cells", 500)["report_s"]}

    return Benchmark(
        "A study of 500 cells: 20 arms with 25 seeds",
        {OURS: plan_and_report},
        [
            Figure("plan_s", "planning, as a dry run", "s", "itself", None, 20.0),
            Figure("report_s", "its report", "s", "itself", None, 60.0),
        ],
        pairs=3,
        is_asked_for=True,
    )


def _listing() -> Benchmark:
    return Benchmark(
        "`charlab runs` over 2,000 runs, against an empty folder of outputs",
        _sides(_list_runs, RUNS),
        [
            Figure("wall_s", "the command", "s", "itself", "an empty folder", 3.0),
            Figure("cpu_s", "its computing time", "s", "more by", "an empty folder"),
        ],
    )


def _list_runs(number: int) -> Measurement:
    """Write the folders of as many runs, copies of the committed records, and list them in a new process."""
    records = Archive(Path("records")).records()
    with tempfile.TemporaryDirectory() as outputs:
        for index in range(number):
            record = records[index % len(records)]
            fingerprint = f"{index:04x}{record.fingerprint[4:]}"
            copy = replace(record, folder=Path(outputs, "runs", record.name, fingerprint), fingerprint=fingerprint)
            copy.config["seed"] = copy.seed = index
            copy.save()
            for name in (CURVES, SAMPLES, "loss.png", "nll.npy", str(CHECKPOINT), ".hydra/config.yaml"):
                (copy.folder / name).parent.mkdir(exist_ok=True)
                (copy.folder / name).touch()
        before = os.times()
        measured = run_program("-m", "charlab", "runs", f"output_dir={outputs}", "sort=nll")
        after = os.times()
    spent = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return {**measured, "cpu_s": spent}


BENCHMARKS = {
    "long_text": _long_text,
    "long_bytes": _long_bytes,
    "long_counts": lambda: _long_counts("characters"),
    "long_counts_bytes": lambda: _long_counts("bytes"),
    "many_cells": _many_cells,
    "large_study": _large_study,
    "listing": _listing,
}
