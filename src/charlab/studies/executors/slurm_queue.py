"""What a SLURM cluster says of its queue, and what it must not hear of the job that asks."""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import sys
import time
from collections.abc import Iterator


@contextlib.contextmanager
def outside_job() -> Iterator[None]:
    """Hide the SLURM job that this process runs in, if any, while the block runs.

    A job that is submitted with its variables, such as `SLURM_CPU_BIND`, would be bound to its cores.
    """
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if inside and name.startswith("SLURM_") and name != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def longest_array() -> int:
    """Return the largest number of jobs in an array on this cluster."""
    answer = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    settings = dict(line.replace(" ", "").partition("=")[::2] for line in answer.stdout.splitlines())
    return max(1, int(settings.get("MaxArraySize", "1001")) - 1)


def cancel(name: str, *options: str) -> None:
    """Cancel the jobs with that name; options of scancel narrow them down."""
    command = ["scancel", *options, f"--user={getpass.getuser()}", f"--name={name}"]
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False)  # it complains if there are none


def wait_for_queue(name: str) -> None:
    """Wait until SLURM has no jobs with that name; retry while it does not answer, and say so once."""
    queue = ["squeue", "--noheader", f"--user={getpass.getuser()}", f"--name={name}", "--format=%i"]
    warned = False
    while True:
        answer = subprocess.run(queue, capture_output=True, text=True, check=False)
        if not (answer.returncode or answer.stdout.strip()):
            return
        if answer.returncode and not warned:
            print(f"squeue does not answer; asking again: {answer.stderr.strip()}", file=sys.stderr)
            warned = True
        time.sleep(2)
