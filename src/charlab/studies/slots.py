"""Shares of a machine's cores and GPUs, so that cells that run at once do not slow each other down."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charlab.studies.locks import held

SECONDS_BETWEEN_LOOKS = 0.1
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """One share of a machine, for one cell at a time.

    Attributes:
        index: which one, from 0.
        cores: the cores to run on; no two slots share one while there are enough.
        gpus: what `CUDA_VISIBLE_DEVICES` is to be; None to leave it as it is.
    """

    index: int
    cores: tuple[int, ...]
    gpus: str | None = None

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Returns the environment variables of a process in this slot, with `base` for the rest.

        Numbers of threads that are lower already are left so, and OpenMP's holds for libraries that have none.
        """
        given = {name: int(base[name]) for name in THREAD_VARIABLES if base.get(name, "").isdigit()}
        most = min(len(self.cores), given.get("OMP_NUM_THREADS", len(self.cores)))
        threads = {name: str(min(most, given.get(name, most))) for name in THREAD_VARIABLES}
        gpus = {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": self.gpus}
        return {**base, **threads, **gpus}


def share(index: int, count: int, cores: Sequence[int], gpus: Sequence[str] = ()) -> Slot:
    """Returns one of `count` shares of these cores and GPUs.

    With fewer GPUs than slots several slots use the same one, in turn; with more, a slot has several.
    """
    if count <= len(cores):
        mine = cores[index * len(cores) // count : (index + 1) * len(cores) // count]
    else:
        mine = [cores[index % len(cores)]]
    chosen = (gpus[index::count] or [gpus[index % len(gpus)]]) if gpus else None
    return Slot(index, tuple(mine), ",".join(chosen) if chosen else None)


@contextmanager
def claim(study: Path, count: int, *, deal_gpus: bool = True) -> Iterator[Slot]:
    """Waits for one of `count` slots on this machine, and holds it.

    Args:
        study: the study's folder.
        count: how many cells may run at once on this machine.
        deal_gpus: whether GPUs are to be dealt out; otherwise whoever started this process has done so.
    """
    cores = usable_cores()
    folder = study / "slots" / socket.gethostname() / f"from-core-{min(cores)}"  # others may have been given others
    with ExitStack() as stack:
        index = None
        while index is None:
            for candidate in range(count):
                try:
                    stack.enter_context(held(folder / f"{candidate}.lock", timeout=0))
                except TimeoutError:
                    continue
                index = candidate
                break
            else:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield share(index, count, cores, visible_gpus() if deal_gpus and count > 1 else ())


def usable_cores() -> list[int]:
    """Returns the cores that this process may run on, those side by side that belong together."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0), key=lambda core: (*_place(core), core))


def _place(core: int) -> tuple[int, int]:
    """Returns package and physical core, which two hardware threads share."""
    topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
    try:
        return int((topology / "physical_package_id").read_text()), int((topology / "core_id").read_text())
    except (OSError, ValueError):
        return 0, core


def visible_gpus() -> list[str]:
    """Returns the NVIDIA GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=False)
    return [str(index) for index, _ in enumerate(line for line in listed.stdout.splitlines() if line[:3] == "GPU")]


@dataclass(frozen=True)
class Capacity:
    """What a launcher makes of a machine.

    Attributes:
        at_once: how many cells it runs at once on this machine.
        assigns_gpus: whether it decides itself which GPU a job sees.
        outlives_sweep: whether its jobs go on when the sweep's process is gone.
    """

    at_once: int = 1
    assigns_gpus: bool = False
    outlives_sweep: bool = False

    @classmethod
    def of(cls, launcher: Mapping[str, Any]) -> Capacity:
        """Returns that of a Hydra launcher, by its configuration, on this machine."""
        target, cores = str(launcher.get("_target_", "")), len(usable_cores())
        if target.endswith("JoblibLauncher"):
            jobs = int(launcher["n_jobs"])
            return cls(at_once=jobs if jobs > 0 else max(1, cores + 1 + jobs))  # as joblib counts them
        if target.endswith("SlurmLauncher"):
            at_once = cores // int(launcher.get("cpus_per_task") or 1)
            return cls(max(1, at_once), assigns_gpus="CUDA_VISIBLE_DEVICES" in os.environ, outlives_sweep=True)
        if target.endswith("RayLauncher"):
            at_once = int(cores // (launcher["remote"].get("num_cpus") or 1))
            return cls(max(1, at_once), assigns_gpus="CUDA_VISIBLE_DEVICES" in os.environ)
        return cls()
