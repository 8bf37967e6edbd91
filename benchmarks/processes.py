"""Fresh processes that measure, and what they report."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.pairs import Measurement
from charlab.curves import FILE_NAME as CURVES
from charlab.curves import VALIDATION, read_curves
from charlab.errors import UserError
from charlab.runs.record import FILE_NAME, Record
from charlab.studies.outcomes import cell_path
from charlab.studies.plan import Plan
from charlab.studies.state import read_results

# Pretend to be a terminal, so that the progress bar is drawn.
ENVIRONMENT = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100"}

QUIET = ("evaluate_every=1000000", "estimate_batches=1")
"""Overrides for runs in which only the steps matter."""


def run_module(module: str, *arguments: object) -> dict[str, Any]:
    """Run `python -m module` and return the JSON in its last line of output, with `wall_s` added."""
    output, seconds = _run([sys.executable, "-m", module, *map(str, arguments)])
    return {**json.loads(output.splitlines()[-1]), "wall_s": seconds}


def run_recipe(*arguments: object) -> Measurement:
    """Train by nanoGPT's recipe in the plainest way; `step_ms` is the median.

    The recipe itself computes estimates only, so scoring the whole validation text does not count towards `wall_s`.
    """
    found = run_module("tests.references.nanogpt_recipe", text_path(), *arguments)
    return {
        **{key: found[key] for key in ("steps", "training_s", "evaluation_s", "blocks")},
        "wall_s": found["wall_s"] - found["score_s"],
        "step_ms": 1e3 * statistics.median(found["step_s"]),
        "peak_memory_mb": found["peak_memory_bytes"] / 2**20,
    }


def run_program(*command: str, exit_code: int = 0) -> Measurement:
    """Run a command that should end with `exit_code` and return how long it took."""
    return {"wall_s": _run([sys.executable, *command], exit_code)[1]}


@contextmanager
def _training(*overrides: str) -> Iterator[tuple[Path, list[str]]]:
    """Yield a temporary output folder, and the command that trains in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), [sys.executable, "scripts/train.py", *overrides, f"output_dir={folder}"]


def run_training(*overrides: str, estimates: Sequence[int] = ()) -> Measurement:
    """Train with `scripts/train.py` and return what the run's record and curves say, with `wall_s` added.

    `step_ms` is the median over the intervals between logged steps, without evaluation. `exit_s` is the time of the
    process after its last line, and `rest_s` its time besides training.

    Args:
        estimates: optimizer steps, all evaluated, whose validation estimates are returned as `estimate_STEP`.
    """
    with _training(*overrides) as (folder, command):
        seconds, exit_s = _run_until_exit(command)
        (path,) = folder.glob(f"runs/*/*/{FILE_NAME}")
        record = Record.load(path.parent)
        measured: dict[str, float] = {
            "wall_s": seconds,
            "exit_s": exit_s,
            "rest_s": seconds - record.time["training_s"],
            "training_s": record.time["training_s"],
            "evaluation_s": record.time["evaluation_s"],
            "evaluation_share": record.time["evaluation_s"] / seconds,
            "steps": record.steps,
            **{name: record.metric(name)["nll"] for name in ("blocks", "sliding") if record.has_figure(name)},
            "peak_memory_mb": (record.peak_memory_bytes or 0) / 2**20,
        }
        curves = read_curves(path.parent / CURVES)
        estimate = curves[curves["metric"] == VALIDATION[0]].set_index("step")["value"]
        measured |= {f"estimate_{step}": float(estimate[step]) for step in estimates}
        logged = curves.query("metric == 'train/loss'")
        step_s = float((logged["seconds"].diff() / logged["step"].diff()).median())
        if step_s > 0:  # not nan, as it is of a single logged step
            measured["step_ms"] = 1e3 * step_s
            measured["characters_per_second"] = record.characters_seen / record.steps / step_s
            measured["flops"] = (record.flops_per_step or 0) / step_s  # per second
        return measured


def run_to_first_step(*overrides: str) -> Measurement:
    """Start `scripts/train.py` and return the time until the first step was logged."""
    with _training(*overrides, "trainer.log_every_n_steps=1") as (folder, command):
        since = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        seconds = None
        while seconds is None and process.poll() is None:
            time.sleep(0.002)
            if any("train/loss" in path.read_text() for path in folder.glob(f"runs/*/*/{CURVES}")):
                seconds = time.perf_counter() - since
        if process.wait() != 0 or seconds is None:
            raise UserError(f"{' '.join(command)} ended with exit code {process.returncode}: run it by itself.")
        return {"first_step_s": seconds}


def run_trainings_at_once(commands: Sequence[Sequence[str]], *, at_once: bool) -> Measurement:
    """Train several models, at once or one after the other, and return the total time."""
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


def run_sweep(*overrides: str) -> Measurement:
    """Sweep with `scripts/train.py -m` and return the total time."""
    with _training("-m", *overrides) as (_, command):
        return {"wall_s": _run(command)[1]}


def run_study(*overrides: str) -> Measurement:
    """Run a study with `scripts/train.py` and return its total time, and two medians over its cells.

    `first_step_s` is the time from the start of a cell to its first training step, and `overhead_s` its time besides
    training, evaluation and compilation.
    """
    with _training("-m", *overrides, "trainer.log_every_n_steps=1") as (folder, command):
        since = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        started: dict[str, float] = {}
        stepped: dict[str, float] = {}
        plan = None
        while process.poll() is None:
            time.sleep(0.01)
            if plan is None:
                for path in folder.glob("studies/*/plan.json"):
                    plan, study = Plan.load(path.parent), path.parent
                continue
            for cell in plan.cells:
                if cell.key not in started and cell_path(study, cell, ".log").exists():
                    started[cell.key] = time.perf_counter()
                if cell.key in started and cell.key not in stepped:
                    curves = folder / "runs" / cell.run / CURVES
                    if curves.exists() and "train/loss" in curves.read_text():
                        stepped[cell.key] = time.perf_counter()
        seconds = time.perf_counter() - since
        if process.returncode != 0 or plan is None:
            raise UserError(f"{' '.join(command)} ended with exit code {process.returncode}: run it by itself.")
        measured = ("training_s", "evaluation_s", "compilation_s")
        overheads = [
            (result.seconds or 0.0) - sum(result.record.time[name] for name in measured)
            for result in read_results(plan, folder).cells
            if result.record is not None
        ]
        return {
            "wall_s": seconds,
            "first_step_s": statistics.median(stepped[key] - started[key] for key in stepped),
            "overhead_s": statistics.median(overheads),
        }


def text_path() -> Path:
    """Return the path of tiny Shakespeare.

    Raises:
        UserError: if it is not in the data folder.
    """
    path = Path(os.environ.get("CHARLAB_DATA", "data")) / "tinyshakespeare" / "input.txt"
    if not path.exists():
        raise UserError(f"The benchmarks need {path}: train on data=tinyshakespeare once, which downloads it.")
    return path


def run_twice(*overrides: str) -> Measurement:
    """Train with `scripts/train.py`, and return how long the same command takes once the run is finished."""
    with _training(*overrides) as (_, command):
        _run(command)
        return {"again_s": _run(command)[1]}


def _run_until_exit(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return how long it took in all, and after its last output."""
    environment = {**os.environ, **ENVIRONMENT}
    since = last = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        for _ in process.stdout:
            last = time.perf_counter()
        code, end = process.wait(), time.perf_counter()
        errors.seek(0)
        said = errors.read().strip()[-500:]
    if code != 0:
        raise UserError(f"{' '.join(command)} ended with exit code {code}: {said}")
    return end - since, end - last


def _run(command: Sequence[str], exit_code: int = 0) -> tuple[str, float]:
    since = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ENVIRONMENT})
    seconds = time.perf_counter() - since
    if done.returncode != exit_code:
        said = (done.stderr.strip() or done.stdout.strip())[-500:]  # pytest prints to standard output
        raise UserError(f"{' '.join(command)} ended with exit code {done.returncode}: {said}")
    return done.stdout, seconds
