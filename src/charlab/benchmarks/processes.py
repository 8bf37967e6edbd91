"""Fresh processes that measure, and what they say."""

from __future__ import annotations

import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charlab.benchmarks.pairs import Measurement
from charlab.errors import UserError
from charlab.runs.record import FILE_NAME, Record

# A terminal is pretended, so that the progress bar is drawn.
ENVIRONMENT = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}


def run_module(module: str, *arguments: object) -> dict[str, Any]:
    """Runs `python -m module` and returns the JSON in the last line that it prints, with `wall_s` added."""
    output, seconds = _run([sys.executable, "-m", module, *map(str, arguments)])
    return {**json.loads(output.splitlines()[-1]), "wall_s": seconds}


def run_program(*command: str) -> Measurement:
    """Runs a command to its end, whatever its exit code, and returns how long it took."""
    since = time.perf_counter()
    subprocess.run([sys.executable, *command], capture_output=True, check=False)
    return {"wall_s": time.perf_counter() - since}


def run_training(*overrides: str) -> Measurement:
    """Trains by `scripts/train.py` and returns what the run's record and curves say, with `wall_s` added.

    `step_ms` is the median over stretches between two loggings, evaluation left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "scripts/train.py", *overrides, f"output_dir={folder}"]
        _, seconds = _run(command)
        (path,) = Path(folder).glob(f"runs/*/*/{FILE_NAME}")
        record = Record.load(path.parent)
        measured: dict[str, float] = {
            "wall_s": seconds,
            "training_s": record.time["training_s"],
            "evaluation_s": record.time["evaluation_s"],
            "evaluation_share": record.time["evaluation_s"] / seconds,
            "steps": record.steps,
            "blocks": record.metric("blocks")["nll"],
            "peak_memory_mb": (record.peak_memory_bytes or 0) / 2**20,
        }
        with (path.parent / "metrics.csv").open(newline="") as curves:
            rows = [row for row in csv.DictReader(curves) if row["metric"] == "train/loss"]
        points = [(int(row["step"]), float(row["seconds"])) for row in rows]
        stretches = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points)]
        return {**measured, "step_ms": 1e3 * statistics.median(stretches)} if stretches else measured


def run_to_first_step(*overrides: str) -> Measurement:
    """Starts `scripts/train.py` and returns how long it took until the first step was done and logged."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "scripts/train.py", *overrides, "callbacks.metrics.every_n_steps=1"]
        since = time.perf_counter()
        process = subprocess.Popen([*command, f"output_dir={folder}"], stdout=subprocess.DEVNULL)
        seconds = None
        while seconds is None and process.poll() is None:
            time.sleep(0.002)
            if any("train/loss" in path.read_text() for path in Path(folder).glob("runs/*/*/metrics.csv")):
                seconds = time.perf_counter() - since
        if process.wait() != 0 or seconds is None:
            raise UserError(f"{' '.join(command)} ended with exit code {process.returncode}: run it by itself.")
        return {"first_step_s": seconds}


def run_trainings_at_once(commands: Sequence[Sequence[str]], *, at_once: bool) -> Measurement:
    """Trains several models, all at once or one after the other, and returns how long that took together."""
    with tempfile.TemporaryDirectory() as folder:
        since = time.perf_counter()
        running = []
        for number, overrides in enumerate(commands):
            command = [sys.executable, "scripts/train.py", *overrides, f"output_dir={folder}/{number}"]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            if not at_once:
                running[-1].wait()
        codes = [process.wait() for process in running]
        if any(codes):
            raise UserError("A training of the benchmark failed: run it by itself with scripts/train.py.")
        return {"wall_s": time.perf_counter() - since}


def text_path() -> Path:
    """Returns where tiny Shakespeare lies.

    Raises:
        UserError: if it is not in the data folder.
    """
    path = Path(os.environ.get("CHARLAB_DATA", "data")) / "tinyshakespeare" / "input.txt"
    if not path.exists():
        raise UserError(f"The benchmarks need {path}: train on data=tinyshakespeare once, which downloads it.")
    return path


def _run(command: Sequence[str]) -> tuple[str, float]:
    since = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ENVIRONMENT})
    seconds = time.perf_counter() - since
    if done.returncode != 0:
        raise UserError(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout, seconds
