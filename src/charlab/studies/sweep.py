"""Running a study from its plan to its report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from charlab.configuration.compose import Composer
from charlab.configuration.loader import typed_overrides
from charlab.configuration.location import conf_folder
from charlab.studies.cells import STOP_FILE
from charlab.studies.definition import Definition, Rerun, define
from charlab.studies.expansion import PROGRAM, Expansion
from charlab.studies.launching import launch
from charlab.studies.links import link_runs
from charlab.studies.locks import sweeping
from charlab.studies.outcome import Outcome
from charlab.studies.paired import minimum_seeds
from charlab.studies.plan import FILE_NAME, Plan
from charlab.studies.progress import showing
from charlab.studies.results import CellResult, StudyResults, read_results
from charlab.studies.slots import Capacity
from charlab.studies.summary import print_cells, print_summary

NOT_CHOSEN = "_base"  # the option of the group `study` that is no study


def sweep(config: DictConfig, hydra_context: HydraContext, task_function: TaskFunction) -> None:
    """Runs the study that is chosen, or makes one of an ordinary sweep; prints what became of it.

    Args:
        config: the sweep's, with Hydra's node; `typed` holds what was typed for every cell.
        hydra_context: Hydra's.
        task_function: what a launcher's job runs.

    Raises:
        UserError: if something in it is wrong; nothing has been written then.
        SystemExit: with 1, if a cell has not finished.
    """
    console = Console()
    choice = config.hydra.runtime.choices.study
    definition = define(config.study, None if choice == NOT_CHOSEN else choice)
    typed = list(config.typed)
    composer = Composer(config.hydra.job.config_name, hydra_context.config_loader.get_search_path())
    expansion = Expansion(definition, composer, typed, _flags(config), config.hydra.sweeper.params)
    plan = expansion.plan(_command(config, typed))
    folder = expansion.output_dir.absolute() / "studies" / plan.name
    plan = _continued(plan, folder)
    results = read_results(plan, expansion.output_dir)
    again = (*definition.rerun, "all") if "force=true" in typed else definition.rerun
    todo = [result for result in results.cells if _is_due(result, definition, again)]
    _warn_of_few_seeds(plan, console)
    if config.dry_run:
        at_once = Capacity.of(OmegaConf.to_container(config.hydra.launcher, resolve=True)).at_once  # type: ignore[arg-type]
        print_cells(results, todo, at_once, console)
        return
    with sweeping(folder):
        _with_force(plan, todo).save(folder)
        try:
            if todo:
                (folder / STOP_FILE).unlink(missing_ok=True)
                cells = [result.cell for result in todo]
                with showing(folder, cells, console):
                    launch(config, hydra_context, task_function, folder, cells)
        finally:
            plan.save(folder)
            results = read_results(plan, expansion.output_dir)
            link_runs(results)
            print_summary(results, console)
    _report(results, console)
    if any(result.status != "finished" for result in results.cells):
        raise SystemExit(1)


def _report(results: StudyResults, console: Console) -> None:
    """Writes the report, unless there is nothing yet to report on."""
    if not any(result.ended for result in results.cells):
        return
    from charlab.studies.report.program import make_report  # imported late: it draws, and a dry run does without

    make_report(results, console=console)


def _flags(config: DictConfig) -> list[str]:
    """Returns the options that say where configuration files lie, as they were typed or as good as."""
    options = {"main": "--config-path", "command-line": "--config-dir"}
    sources = [source for source in config.hydra.runtime.config_sources if source.schema == "file"]
    own = str(conf_folder())
    return [
        part
        for source in sources
        if source.provider in options and source.path != own
        for part in (options[source.provider], source.path)
    ]


def _command(config: DictConfig, typed: Sequence[str]) -> str:
    """Returns what makes the study again, after `python`."""
    passing = ("typed=", "dry_run=", "study.rerun=", "force=")
    given = [*typed_overrides(config, "hydra"), *typed_overrides(config), *typed]
    kept = [override for override in given if not override.startswith(passing) and override != "hydra.mode=MULTIRUN"]
    return shlex.join([PROGRAM, "-m", *_flags(config), *kept])


def _continued(plan: Plan, folder: Path) -> Plan:
    """Returns the plan with what is known of the study since its first cell ran, if one did."""
    if not (folder / FILE_NAME).exists():
        return plan
    former = Plan.load(folder)
    begun = bool(former.looks) or any(Outcome.load(folder, cell) is not None for cell in former.cells)
    return plan.continuing(former) if begun else plan


def _is_due(result: CellResult, definition: Definition, again: Sequence[Rerun]) -> bool:
    """Returns whether a cell is to be run: it has no result, or is to have another."""
    if "all" in again or (result.older and "older" in again) or result.status in again:
        return True
    if result.status == "timed out":  # only more time would change that
        limit = definition.time_limit
        return limit is None or (result.seconds is not None and limit > 1.1 * result.seconds)
    return result.status not in ("finished", "diverged", "corrupt", "running")


def _with_force(plan: Plan, todo: Sequence[CellResult]) -> Plan:
    """Returns the plan to be run, in which cells that have a result are told to train again all the same."""
    again = {result.cell.key for result in todo if result.ended or result.status == "corrupt"}
    cells = (
        replace(cell, overrides=(*cell.overrides, "force=true")) if cell.key in again else cell for cell in plan.cells
    )
    return replace(plan, cells=tuple(cells))


def _warn_of_few_seeds(plan: Plan, console: Console) -> None:
    arms = len(plan.arms) - 1
    if arms and len(plan.seeds) < minimum_seeds(arms):
        console.print(
            f"[bold yellow]Too few seeds:[/] {len(plan.seeds)} cannot show a difference for {arms} "
            f"{'arm' if arms == 1 else 'arms'} and a baseline; it takes {minimum_seeds(arms)} at least.",
            soft_wrap=True,
        )
