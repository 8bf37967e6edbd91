"""Hydra's way to clusters. Hydra accepts launchers from this namespace only; all that they do is in charlab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _ClusterLauncher(Launcher):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remembers what Hydra supplies."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class SlurmLauncher(_ClusterLauncher):
    """Submits jobs to SLURM and waits until none is left, or cancels them when it is interrupted.

    Args:
        parameters: of `submitit`; see conf/hydra/launcher/slurm.yaml.
    """

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs jobs; what becomes of them is not returned."""
        from charlab.studies.clusters import Job, run_on_slurm  # imported late: Hydra imports this file at its start

        run_on_slurm(Job.all_of(self, job_overrides, initial_job_idx), self.config.hydra.sweep.dir, self.parameters)
        return []


class RayLauncher(_ClusterLauncher):
    """Runs jobs as tasks of a Ray cluster, or cancels them when it is interrupted.

    Args:
        init: arguments of `ray.init`.
        remote: arguments of `ray.remote`.
    """

    def __init__(self, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        self.init, self.remote = init, remote

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs jobs; what becomes of them is not returned."""
        from charlab.studies.clusters import Job, run_on_ray  # imported late: Hydra imports this file at its start

        run_on_ray(Job.all_of(self, job_overrides, initial_job_idx), self.init, self.remote)
        return []
