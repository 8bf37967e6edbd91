"""Run cells as tasks on a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charlab.configuration.messages import one_sentence
from charlab.errors import UserError
from charlab.quantities import count
from charlab.studies.executors import Executor, usable_cores
from charlab.studies.plan import Cell
from charlab.studies.runner import Slot, run_cell


class Ray(Executor):
    """Run each cell as a Ray task, on this machine if no cluster is given; the tasks end with this process.

    Args:
        init: arguments of `ray.init`, used unless Ray is already initialized.
        remote: arguments of `ray.remote` for each cell.
    """

    def __init__(self, *, init: dict[str, Any], remote: dict[str, Any]) -> None:
        self.init, self.remote = init, remote
        self.at_once = max(1, int(len(usable_cores()) // (remote.get("num_cpus") or 1)))
        self._started = False

    def __exit__(self, *exception: object) -> None:
        if self._started:
            import ray

            ray.shutdown()

    def run(self, study: Path, cells: Sequence[Cell]) -> None:
        """Run cells; see `Executor`."""
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # `uv run` would upload the working folder
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves the cells on a busy machine
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            self._started = True
            quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
            try:
                ray.init(**quiet | self.init)
            except (ray.exceptions.RayError, ConnectionError) as error:  # the latter if there is no such cluster
                raise UserError(f"Ray does not start: {one_sentence(error)}") from error
        lost: list[Exception] = []
        slot = Slot(max(1, int(self.remote.get("num_cpus") or 1)))
        left: list[Any] = []
        try:
            task: Any = ray.remote(**{"max_retries": 0, **self.remote})(run_cell)
            left.extend(task.remote(study, cell.key, slot) for cell in cells)
            while left:
                done, left = ray.wait(left)
                try:
                    ray.get(done)
                except ray.exceptions.RayError as error:
                    lost.append(error)
        except KeyboardInterrupt:
            for reference in left:
                ray.cancel(reference, force=True)
            raise
        if lost:
            reason = " ".join(str(lost[0]).split()).rstrip(".")
            told = f"Ray has lost {len(lost)} of {count(len(cells), 'cell')} ({reason}): run the command again."
            if len(lost) == len(cells):
                raise UserError(told)
            print(told, file=sys.stderr)
