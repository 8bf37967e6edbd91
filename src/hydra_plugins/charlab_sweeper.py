"""Hydra's way into studies. Hydra accepts a sweeper from this namespace only; all that it does is in charlab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CharlabSweeper(Sweeper):
    """Runs a sweep as a study: cells that are finished are left out, and none can end the others.

    Args:
        params: values to sweep over besides those on the command line, by key.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remembers what Hydra supplies."""
        self._supplied = config, hydra_context, task_function

    def sweep(self, arguments: list[str]) -> None:
        """Runs what `config.search`, `config.study`, or what was typed, describes."""
        config = self._supplied[0]
        if config.search is not None:  # all is imported late: Hydra imports this file whenever it starts
            from charlab.studies.search import search

            search(*self._supplied)
            return
        from charlab.studies.sweep import sweep

        sweep(*self._supplied)
