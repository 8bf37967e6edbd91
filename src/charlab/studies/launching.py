"""Handing cells to a Hydra launcher, and staying with them until each has ended, whatever the launcher does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from charlab.configuration.diagnosis import one_sentence
from charlab.configuration.loader import typed_overrides
from charlab.configuration.overrides import quoted
from charlab.errors import UserError
from charlab.studies.cells import SECONDS_TO_END, STOP_FILE
from charlab.studies.locks import cell_lock, is_held
from charlab.studies.outcome import Outcome
from charlab.studies.plan import Cell

JOBS = "jobs"  # folder within the study's: what launchers leave behind
ATTEMPTS = 3  # at the cells that a launcher drops together with a worker of its own that died


def launch(
    config: DictConfig, hydra_context: HydraContext, task_function: TaskFunction, study: Path, cells: Sequence[Cell]
) -> None:
    """Runs cells by the chosen launcher; returns when each has ended or the study was stopped.

    The outcomes are in the study's folder. Where a launcher gives up, as joblib's does as soon as a worker of its own
    is killed, the cells that were lost with it are handed to it again.

    Args:
        config: the sweep's, with Hydra's node.
        hydra_context: Hydra's.
        task_function: what a job runs.
        study: the study's folder.
        cells: those to run.

    Raises:
        UserError: if the launcher could not begin a single one.
        KeyboardInterrupt: if the user interrupts it; all cells have been ended then.
    """
    chosen = [override for override in typed_overrides(config) if override.startswith("launcher")]
    _place_jobs(config, study)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=hydra_context, task_function=task_function, config=config
    )
    jobs = {cell: [*chosen, f"cell={quoted(cell.key)}"] for cell in cells}
    try:
        _launch_all(launcher, jobs, study)
    except KeyboardInterrupt:
        _wait_for_ends(study, cells)
        raise
    never = sum(Outcome.load(study, cell) is None for cell in cells)
    if never and not (study / STOP_FILE).exists():
        print(f"{never} cells were never begun; what a cluster's jobs printed is in {study / JOBS}.", file=sys.stderr)


def _launch_all(launcher: Launcher, jobs: Mapping[Cell, Sequence[str]], study: Path) -> None:
    former = {cell: Outcome.load(study, cell) for cell in jobs}
    left = list(jobs)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            launcher.launch([jobs[cell] for cell in left], initial_job_idx=0)
            return
        except Exception as error:
            _wait_for_ends(study, left)
            if all(Outcome.load(study, cell) == former[cell] for cell in jobs):
                raise UserError(f"The launcher could not begin any cell: {one_sentence(error)}") from error
            left = [cell for cell in left if _is_unfinished(Outcome.load(study, cell), former[cell])]
            if not left or attempt == ATTEMPTS or (study / STOP_FILE).exists():
                return
            print(f"The launcher gave up ({one_sentence(error)}); {len(left)} cells are left.", file=sys.stderr)


def _place_jobs(config: DictConfig, study: Path) -> None:
    """Has the launcher's jobs, which only start cells, leave what they write in one folder of the study's."""
    folder = study / JOBS
    settings = [f"hydra.sweep.dir={quoted(str(folder))}", "hydra.sweep.subdir=.", "hydra.output_subdir=null"]
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(folder), "."
        config.hydra.output_subdir = None
        config.hydra.overrides.hydra = [*typed_overrides(config, "hydra"), *settings]
        if OmegaConf.select(config, "hydra.hydra_logging.loggers.hydra") is not None:
            config.hydra.hydra_logging.loggers.hydra.level = "WARNING"  # what runs is shown by progress.py


def _is_unfinished(outcome: Outcome | None, former: Outcome | None) -> bool:
    """Returns whether a cell was not attempted, or its attempt was cut short by the end of the launcher."""
    return outcome is None or outcome == former or outcome.fate == "interrupted"


def _wait_for_ends(study: Path, cells: Iterable[Cell]) -> None:
    """Waits until the cells that run on this machine have ended, which each does as soon as its worker is gone."""
    end = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < end and any(is_held(cell_lock(study, cell)) for cell in cells):
        time.sleep(0.1)
