"""Measure `charlab runs` over many runs, copies of the committed records: `python -m benchmarks.listing [NUMBER]`."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.processes import run_program
from charlab.curves import FILE_NAME as CURVES
from charlab.runs.archive import Archive
from charlab.runs.folder import SAMPLES

RECORDS = Path(__file__).parents[1] / "records"
REPEATS = 3


def main(number: int) -> None:
    """Write `number` run folders, list them in a new process, and print the shortest time; the same for no runs.

    On a busy machine, CPU time is more reliable than wall-clock time.
    """
    records = Archive(RECORDS).records()
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryDirectory() as folder:
        for index in range(number):
            record = records[index % len(records)]
            fingerprint = f"{index:04x}{record.fingerprint[4:]}"
            copy = replace(record, folder=Path(folder, "runs", record.name, fingerprint), fingerprint=fingerprint)
            copy.config["seed"] = copy.seed = index
            copy.save()
            for name in (CURVES, SAMPLES, "loss.png", "nll.npy", "checkpoints/last.ckpt", ".hydra/config.yaml"):
                (copy.folder / name).parent.mkdir(exist_ok=True)
                (copy.folder / name).touch()
        for outputs in (empty, folder):
            command = ("-m", "charlab", "runs", f"output_dir={outputs}", "sort=nll")
            before = os.times()
            seconds = min(run_program(*command)["wall_s"] for _ in range(REPEATS))
            after = os.times()
            spent = sum(b - a for a, b in zip(before[2:4], after[2:4], strict=True)) / REPEATS  # of child processes
            listed = f"{number if outputs == folder else 0:,} runs"
            print(f"charlab runs, {listed}: {seconds:.2f} s, {spent:.2f} s of CPU time", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
