"""Running a study from its plan to its report."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from charlab.configuration.compose import Composer
from charlab.configuration.extras import missing_extra
from charlab.configuration.loader import typed_overrides
from charlab.configuration.location import conf_folder
from charlab.studies.cells import STOP_FILE
from charlab.studies.definition import Rerun, define
from charlab.studies.expansion import PROGRAM, Expansion
from charlab.studies.launching import launch
from charlab.studies.links import link_runs
from charlab.studies.locks import sweeping
from charlab.studies.outcome import Outcome
from charlab.studies.plan import FILE_NAME, Cell, Plan
from charlab.studies.progress import showing
from charlab.studies.slots import Capacity
from charlab.studies.state import CellResult, StudyResults, read_results
from charlab.studies.summary import print_cells, print_summary

NOT_CHOSEN = "_base"  # the option of the group `study` that is no study


Launch = Callable[[Path, Sequence[Cell]], None]
"""Runs these cells of the study in a folder, and returns when each has ended."""


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
    choice = config.hydra.runtime.choices.study
    absent = missing_extra(f"launcher={config.hydra.runtime.choices['hydra/launcher']}")
    if absent is not None:
        raise absent
    definition = define(config.study, None if choice == NOT_CHOSEN else choice)
    typed = list(config.typed)
    composer = Composer(config.hydra.job.config_name, hydra_context.config_loader.get_search_path())
    expansion = Expansion(definition, composer, typed, _flags(config), config.hydra.sweeper.params)
    plan = expansion.plan(_command(config, typed))
    again = (*definition.rerun, "all") if "force=true" in map(str.lower, typed) else definition.rerun
    if config.dry_run:
        at_once = Capacity.of(OmegaConf.to_container(config.hydra.launcher, resolve=True)).at_once  # type: ignore[arg-type]
        rehearse(plan, expansion.output_dir, again=again, at_once=at_once)
        return
    results = conduct(
        plan,
        expansion.output_dir,
        lambda folder, cells: launch(config, hydra_context, task_function, folder, cells),
        again=again,
    )
    _report(results)
    if any(result.status != "finished" for result in results.cells):
        raise SystemExit(1)


def rehearse(plan: Plan, output_dir: Path, *, again: Sequence[Rerun] = (), at_once: int = 1) -> None:
    """Prints what `conduct` would do with the same arguments, and about how long it would take.

    Args:
        plan: the study's.
        output_dir: the folder of all outputs.
        again: which cells are to be run though they have a result.
        at_once: how many at a time.
    """
    console = Console()
    results = read_results(_continued(plan, _folder(plan, output_dir)), output_dir)
    _warn_of_few_seeds(plan, console)
    print_cells(results, _due(results, again), at_once, console)


def conduct(plan: Plan, output_dir: Path, launch: Launch, *, again: Sequence[Rerun] = ()) -> StudyResults:
    """Runs the cells of a study that have no result yet, and prints what became of each.

    Args:
        plan: the study's, as if nothing had been run.
        output_dir: the folder of all outputs.
        launch: what runs them.
        again: which cells are to be run though they have a result.

    Returns:
        What there is now.

    Raises:
        UserError: if another process is running the study, or what it knows of its past cannot be read.
    """
    console = Console()
    folder = _folder(plan, output_dir)
    plan = _continued(plan, folder)
    due = _due(read_results(plan, output_dir), again)
    _warn_of_few_seeds(plan, console)
    with sweeping(folder):
        _with_force(plan, due).save(folder)
        try:
            if due:
                (folder / STOP_FILE).unlink(missing_ok=True)
                cells = [result.cell for result in due]
                with showing(folder, cells, console):
                    launch(folder, cells)
        finally:
            plan.save(folder)
            results = read_results(plan, output_dir)
            link_runs(results)
            print_summary(results, console)
    return results


def _folder(plan: Plan, output_dir: Path) -> Path:
    return output_dir.absolute() / "studies" / plan.name


def _report(results: StudyResults) -> None:
    """Writes the report, unless there is nothing yet to report on."""
    if not any(result.ended for result in results.cells):
        return
    from charlab.studies.report.program import make_report  # imported late: it draws, and a dry run does without

    make_report(results)


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


def _due(results: StudyResults, again: Sequence[Rerun]) -> list[CellResult]:
    """Returns the cells that are to be run: those without a result, and those that are to have another."""
    return [result for result in results.cells if _is_due(result, results.plan.time_limit, again)]


def _is_due(result: CellResult, time_limit: float | None, again: Sequence[Rerun]) -> bool:
    if "all" in again or (result.older and "older" in again) or result.status in again:
        return True
    if result.status == "timed out":  # only more time would change that
        return time_limit is None or (result.seconds is not None and time_limit > 1.1 * result.seconds)
    return result.status not in ("finished", "diverged", "corrupt", "running")


def _with_force(plan: Plan, due: Sequence[CellResult]) -> Plan:
    """Returns the plan to be run, in which cells that have a result are told to train again all the same."""
    again = {result.cell.key for result in due if result.ended or result.status == "corrupt"}
    cells = (
        replace(cell, overrides=(*cell.overrides, "force=true")) if cell.key in again else cell for cell in plan.cells
    )
    return replace(plan, cells=tuple(cells))


def _warn_of_few_seeds(plan: Plan, console: Console) -> None:
    from charlab.studies.paired import minimum_seeds  # imported late: it needs scipy, and a mistake is told without

    arms = len(plan.arms) - 1
    if arms and len(plan.seeds) < minimum_seeds(arms):
        console.print(
            f"[bold yellow]Too few seeds:[/] {len(plan.seeds)} cannot show a difference for {arms} "
            f"{'arm' if arms == 1 else 'arms'} and a baseline; it takes {minimum_seeds(arms)} at least.",
            soft_wrap=True,
        )
