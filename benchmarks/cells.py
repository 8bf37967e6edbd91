"""Put cells that do no work through runner, store and report: `python -m benchmarks.cells NUMBER`.

Each cell is a real process that ends at once. This process writes its record, a copy of a committed one with another
loss. So the benchmark measures what a machine spends on a cell in addition to the cell's own work.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from charlab.runs.archive import Archive
from charlab.studies.cell import write_cell
from charlab.studies.definition import Arm
from charlab.studies.outcomes import cell_path
from charlab.studies.plan import Cell, Plan
from charlab.studies.report.writer import make_report
from charlab.studies.runner import Slot, run_cell
from charlab.studies.sweep import conduct

SEEDS = 25
AT_ONCE = 8
MOST_REPORTED = 1000  # cells
TEMPLATE = "part2-gpt"  # the name of the record that is copied


def make_plan(number: int) -> Plan:
    """Return the plan of a study of `number` cells with 25 seeds."""
    arms = tuple(Arm(f"arm{index:03}", (f"optimizer.lr={1e-4 * (index + 1):.4g}",)) for index in range(number // SEEDS))
    cells = tuple(
        Cell(arm.name, seed, f"simulated/{index:04x}{seed:08x}", (*arm.overrides, f"seed={seed}"))
        for seed in range(SEEDS)
        for index, arm in enumerate(arms)
    )
    return Plan(
        name="simulated", baseline=arms[0].name, arms=arms, cells=cells, seeds=tuple(range(SEEDS)), planned_seeds=SEEDS
    )


def simulate(number: int, output_dir: Path) -> dict[str, float]:
    """Run a study of `number` cells that do no work and return what it took."""
    archive = Archive(Path("records"))
    template = next(record for record in archive.records() if record.name == TEMPLATE)
    curves = archive.curves(template)
    plan = make_plan(number)
    cells = {cell.key: cell for cell in plan.cells}
    console = Console(file=io.StringIO())

    def start(file: Path, log: IO[bytes], slot: Slot) -> subprocess.Popen[bytes]:
        cell = cells[f"{file.parent.name}/{file.stem}"]
        folder = output_dir / "runs" / cell.run
        folder.mkdir(parents=True)
        metrics = [{**entry, "nll": random.Random(cell.key).gauss(entry["nll"], 0.01)} for entry in template.metrics]
        replace(template, folder=folder, metrics=metrics, seed=cell.seed, overrides=list(cell.overrides)).save()
        curves.to_csv(folder / "metrics.csv", index=False)
        return subprocess.Popen(["true"], stdout=log, stderr=log, start_new_session=True)

    def launch(folder: Path, asked: Sequence[Cell]) -> None:
        for cell in asked:
            write_cell(
                cell_path(folder, cell, ".yaml"), template.config, output_dir / "runs" / cell.run, cell.overrides
            )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for ended in pool.map(partial(_run, folder, plan, start), asked):
                assert ended == "finished", ended

    wall, cpu = time.perf_counter(), time.process_time()
    results = conduct(plan, output_dir, launch, console)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    files = sum(len(names) for _, _, names in os.walk(output_dir))
    measured = {
        "cells": number,
        "wall_ms": 1e3 * wall / number,
        "coordinator_ms": 1e3 * cpu / number,
        "peak_memory_mb": _peak_memory_mb(),
        "files": files / number,
    }
    if number <= MOST_REPORTED:
        since = time.perf_counter()
        make_report(results, console=console)
        measured["report_s"] = time.perf_counter() - since
    return measured


def _peak_memory_mb() -> float:
    """Return the peak memory of this process alone; `ru_maxrss` begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 2**10


def _run(folder: Path, plan: Plan, start: Any, cell: Cell) -> str | None:
    outcome = run_cell(folder, cell.key, start=start, plan=plan)
    return None if outcome is None else outcome.fate


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(simulate(int(sys.argv[1]), Path(folder))))
