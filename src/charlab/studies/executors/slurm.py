"""Run cells as jobs on a SLURM cluster with submitit."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charlab.errors import UserError
from charlab.studies.executors import Executor, usable_cores
from charlab.studies.executors.slurm_queue import cancel, longest_array, outside_job, wait_for_queue
from charlab.studies.plan import Cell
from charlab.studies.runner import Slot, run_cell
from charlab.types import PositiveInt


class Slurm(Executor):
    """Run each cell as a job of a job array.

    If this process is killed, its jobs continue; the study's next command replaces those that are still pending.

    The arguments are submitit's without `slurm_`; see `conf/launcher/slurm.yaml`.
    """

    def __init__(
        self,
        *,
        timeout_min: PositiveInt,
        cpus_per_task: PositiveInt | None,
        gpus_per_node: PositiveInt | None,
        mem_gb: PositiveInt | None,
        partition: str | None,
        account: str | None,
        array_parallelism: PositiveInt,
        setup: list[str],
        additional_parameters: dict[str, Any],
    ) -> None:
        self.cpus_per_task = cpus_per_task
        self.at_once = max(1, len(usable_cores()) // (cpus_per_task or 1))
        general = {"timeout_min": timeout_min, "cpus_per_task": cpus_per_task, "gpus_per_node": gpus_per_node}
        own = {"partition": partition, "account": account, "array_parallelism": array_parallelism, "setup": setup}
        parameters: dict[str, Any] = {"mem_gb": mem_gb, "slurm_additional_parameters": additional_parameters}
        if cpus_per_task is not None and cpus_per_task > 1:  # srun of SLURM 22.05 and 23.02 does not inherit it
            parameters["slurm_srun_args"] = [f"--cpus-per-task={cpus_per_task}"]
        parameters |= general | {f"slurm_{name}": value for name, value in own.items()}
        self.parameters = {name: value for name, value in parameters.items() if value is not None}

    def check(self, output_dir: Path) -> None:
        """Raise `UserError` if there is no sbatch, or SLURM would expand characters of the folder."""
        if shutil.which("sbatch") is None:
            raise UserError("launcher=slurm needs sbatch, which is not on this machine: run the command where it is.")
        if "%" in str(output_dir.absolute()) or "\\" in str(output_dir.absolute()):
            raise UserError(f"{output_dir.absolute()} has a % or a \\, a pattern to SLURM: choose another output_dir.")

    def run(self, study: Path, cells: Sequence[Cell]) -> None:
        """Run cells; see `Executor`."""
        import submitit
        from submitit.core.utils import FailedJobError

        name = f"charlab-{hashlib.sha256(str(study.resolve()).encode()).hexdigest()[:8]}"  # always the study's
        cancel(name, "--state=PENDING")  # left by a command that was killed: these cells include theirs
        size = longest_array()
        executor = submitit.AutoExecutor(folder=study / "jobs" / "%j", cluster="slurm")
        fixed = {"name": name, "stderr_to_stdout": True, "slurm_signal_delay_s": 10}  # between warning and kill
        executor.update_parameters(**fixed, **self.parameters)
        try:
            for first in range(0, len(cells), size):
                chunk = cells[first : first + size]
                slots = [Slot(self.cpus_per_task)] * len(chunk)
                with outside_job():
                    executor.map_array(run_cell, [study] * len(chunk), [cell.key for cell in chunk], slots)
                wait_for_queue(name)
        except FailedJobError as error:
            reason = " ".join(str(error).replace("sbatch: error:", "").split()).rstrip(".")
            keys = "launcher.KEY=…, with the keys of conf/launcher/slurm.yaml"
            told = f"change what it names by {keys}, and run the command again."
            raise UserError(f"SLURM rejected the jobs ({reason}): {told}") from None
        except KeyboardInterrupt:
            cancel(name)
            wait_for_queue(name)
            raise
