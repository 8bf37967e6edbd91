"""Connect Hydra's sweeps to studies. Hydra discovers sweepers in this namespace only."""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CharlabSweeper(Sweeper):
    """Hand a sweep over to `charlab.studies`, for programs of your own; `charlab train` does so before Hydra starts.

    Args:
        params: values to sweep over by key, in addition to those on the command line.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the configuration of the sweep."""
        self._config, self._config_loader = config, hydra_context.config_loader

    def sweep(self, arguments: list[str]) -> None:
        """Run the study, search or ordinary sweep that the configuration and the arguments describe.

        Raises:
            SystemExit: with 1, if a cell of a study has not finished.
        """
        from charlab.configuration.compose import Composer  # imported here: Hydra imports this file at startup
        from charlab.configuration.value_types import VALUES
        from charlab.studies.sweep import sweep

        composer = Composer(self._config.hydra.job.config_name, self._config_loader, VALUES["train"])
        results = sweep(self._config, composer, arguments)
        if results is not None and not results.finished:
            raise SystemExit(1)
