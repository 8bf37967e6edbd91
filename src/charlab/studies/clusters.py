"""Jobs on a cluster, none of which can end the others: SLURM by way of submitit, and Ray.

Neither reports what became of a job: a study's cells write that down themselves.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_OF_WARNING = 10  # that a job has before SLURM ends it


@dataclass(frozen=True)
class Job:
    """What another process needs to run one of Hydra's jobs."""

    number: int
    overrides: Sequence[str]
    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    singletons: Mapping[type, Any]
    folder: str

    @classmethod
    def all_of(cls, launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """Returns the jobs that a launcher was handed, the first with that number."""
        shared = (launcher.hydra_context, launcher.task_function, launcher.config, Singleton.get_state(), os.getcwd())
        return [cls(first + i, list(overrides), *shared) for i, overrides in enumerate(job_overrides)]

    def __call__(self) -> None:
        """Runs the job, in whatever process this is, in the folder in which the launcher was."""
        os.chdir(self.folder)
        setup_globals()
        Singleton.set_state(self.singletons)
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{self.number}"
            config.hydra.job.num = self.number
        HydraConfig.instance().set_config(config)
        run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def run_on_slurm(jobs: Sequence[Job], folder: str, parameters: Mapping[str, Any]) -> None:
    """Submits jobs, as an array, and waits until the queue holds none of them.

    Args:
        jobs: at least one.
        folder: on a file system that this machine shares with the nodes.
        parameters: of submitit's executor, those of SLURM alone without its prefix.

    Raises:
        KeyboardInterrupt: if the user interrupts it; the jobs have been cancelled then.
    """
    import submitit

    name = f"charlab-{uuid.uuid4().hex[:8]}"
    general = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
    given = {key: _plain(value) for key, value in parameters.items() if value is not None}
    executor = submitit.AutoExecutor(folder=f"{folder}/.submitit/%j", cluster="slurm")
    executor.update_parameters(
        name=name,
        stderr_to_stdout=True,
        slurm_signal_delay_s=SECONDS_OF_WARNING,
        **{key if key in general else f"slurm_{key}": value for key, value in given.items()},
    )
    try:
        executor.map_array(_call, list(jobs))
        _wait_for_queue(name)
    except KeyboardInterrupt:
        subprocess.run(["scancel", f"--user={getpass.getuser()}", f"--name={name}"], check=False)
        _wait_for_queue(name)
        raise


def _call(job: Job) -> None:
    job()


def _wait_for_queue(name: str) -> None:
    """Waits until SLURM says that it has no job of that name; where it does not answer, until it does."""
    queue = ["squeue", "--noheader", f"--user={getpass.getuser()}", f"--name={name}", "--format=%i"]
    while True:
        answer = subprocess.run(queue, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and not answer.stdout.strip():
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def run_on_ray(jobs: Sequence[Job], init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
    """Runs jobs as Ray's tasks and waits for all of them.

    Args:
        jobs: those to run.
        init: arguments of `ray.init`, where Ray is not in use already.
        remote: arguments of `ray.remote`.

    Raises:
        KeyboardInterrupt: if the user interrupts it; the tasks have been cancelled then.
        RuntimeError: if Ray lost some of them.
    """
    import ray

    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 is for machines that have something better to do
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(**{"include_dashboard": False, "log_to_driver": False, "logging_level": "error", **_plain(init)})
    lost = []
    try:
        task = ray.remote(**{"max_retries": 0, **_plain(remote)})(_call)
        left = [task.remote(job) for job in jobs]
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
    finally:
        if started:
            ray.shutdown()
    if lost:
        raise RuntimeError(f"Ray lost {len(lost)} of {len(jobs)} jobs: {lost[0]}")


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
