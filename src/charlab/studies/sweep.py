"""Run a study from its plan to its report."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from charlab.configuration.build import build
from charlab.configuration.compose import Composer
from charlab.configuration.messages import missing_extra
from charlab.configuration.overrides import concerns_sweep, key_of
from charlab.errors import UserError
from charlab.notebook import Output
from charlab.quantities import count
from charlab.runs.store import Store
from charlab.studies.cell import write_cell
from charlab.studies.definition import Rerun, define, read
from charlab.studies.display import print_cells, print_look, print_shares, print_summary, showing
from charlab.studies.executors import Executor
from charlab.studies.executors.local import Local
from charlab.studies.outcomes import STOP_FILE, Outcome, allows_more, cell_path, sweeping
from charlab.studies.plan import FILE_NAME, Cell, Plan
from charlab.studies.planner import Planner
from charlab.studies.state import CellResult, StudyResults, read_results

NOT_CHOSEN = "_base"  # the option of the group `study` for an ordinary sweep

Launch = Callable[[Path, Sequence[Cell]], None]
"""A function that runs the given cells of the study in a folder and returns when all have ended."""


def sweep(
    config: DictConfig,
    composer: Composer,
    overrides: Sequence[str],
    flags: Sequence[str] = (),
    console: Console | None = None,
) -> StudyResults | None:
    """Run the chosen study or search, or an ordinary sweep as a study, and print a summary.

    Mistakes are reported before anything is written.

    Args:
        config: the configuration of the sweep as a whole; see `Composer.master`.
        overrides: prepared overrides, of the sweep as a whole and of its cells.
        flags: command-line options that the sweep and each of its cells need, such as `--config-dir`.

    Returns:
        The study's results; None for a dry run or a search.
    """
    console, started = console or Output(), time.monotonic()
    for override in overrides:
        if concerns_sweep(override) and read(override).is_sweep_override():
            raise UserError(f"{override} has several values, but concerns the whole of a sweep: give one of them.")
        if key_of(override).startswith(("hydra.sweep.", "hydra.run.")):
            raise UserError(
                f"{override} places Hydra's own jobs, but the runs of a sweep are in OUTPUT_DIR/runs: give "
                "output_dir=…, or hydra/sweeper=basic."
            )
    if config.hydra.callbacks:
        raise UserError("hydra.callbacks are called for Hydra's own jobs: give hydra/sweeper=basic, or leave them out.")
    if variables := sorted(set(config.hydra.job.env_set) - set(config.hydra.job.env_copy)):
        raise UserError(
            f"hydra.job.env_set is for Hydra's own jobs: set {', '.join(variables)} in the environment of the command, "
            "or give hydra/sweeper=basic."
        )
    if config.get("launcher") is None:
        raise UserError("No launcher is chosen: give launcher=local, or leave launcher out.")
    choices = config.hydra.runtime.choices
    tunes = isinstance(config.study, DictConfig) and config.study.get("tune") is not None
    for part in (f"launcher={choices.launcher}", *(["search"] if config.search is not None or tunes else [])):
        if (absent := missing_extra(part)) is not None:
            raise absent
    composer.check("launcher", overrides)
    executor: Executor = build(config.launcher)
    typed = [override for override in overrides if not concerns_sweep(override)]
    if config.search is not None:
        from charlab.studies.search import search

        search(config, composer, typed, flags, executor, console)
        return None
    definition = define(config.study, None if choices.study == NOT_CHOSEN else choices.study)
    if "force=true" in map(str.lower, typed):
        definition = replace(definition, rerun=(*definition.rerun, "all"))
    plan_for = partial(Planner, composer=composer, typed=typed, flags=flags, params=config.hydra.sweeper.params)
    planner = plan_for(definition)
    passing = ("dry_run=", "study.rerun=", "force=", "hydra.mode=")  # overrides left out of the study's command
    command = shlex.join(["-m", *flags, *(given for given in overrides if not given.startswith(passing))])
    ran: list[Cell] = []

    def launch(folder: Path, cells: Sequence[Cell]) -> None:
        ran.extend(cells)
        for cell in cells:
            run = Store(planner.output_dir).folder(cell.run)
            write_cell(
                cell_path(folder, cell, ".yaml"),
                planner.values(cell),
                run,
                cell.overrides[len(flags) :],
                cell.code,
                plan.protocol,
                sampled=cell.seed == plan.seeds[0],
            )
        executor.run(folder, cells)

    with nullcontext() if config.dry_run else executor:
        plan = planner.plan(command, console)
        executor.check(planner.output_dir)
        if definition.tune:
            from charlab.studies.tuning import tune  # imported here: it needs Optuna

            tuned = tune(planner, plan.name, executor, console, dry_run=config.dry_run)
            if tuned is not None:
                planner = plan_for(tuned)
                plan = planner.plan(command, console)
        for note in planner.notes:
            console.print(note, soft_wrap=True, markup=False, highlight=False)
        if plan.metric == "seconds_to" and (reason := executor.competition(gpu=planner.may_use_gpus)):
            raise UserError(f"study.metric=seconds_to compares seconds, but {reason}.")
        if config.dry_run:
            rehearse(plan, planner.output_dir, console, again=definition.rerun, at_once=executor.at_once)
            return None
        results = conduct(plan, planner.output_dir, launch, console, again=definition.rerun)
    if any(result.ended for result in results.cells):
        from charlab.studies.report.writer import make_report  # imported here: it imports matplotlib

        make_report(results, console=console)
    if ran and isinstance(executor, Local):
        print_shares(results, ran, time.monotonic() - started, executor.at_once, console)
    return results


def rehearse(plan: Plan, output_dir: Path, console: Console, *, again: Sequence[Rerun] = (), at_once: int = 1) -> None:
    """Print what `conduct` would run with the same arguments, and estimate how long it would take."""
    results = read_results(_continued(plan, output_dir.absolute() / "studies" / plan.name), output_dir)
    _warn_of_few_seeds(plan, console)
    print_cells(results, _due(results, again, plan.seeds), at_once, console)


def conduct(
    plan: Plan, output_dir: Path, launch: Launch, console: Console, *, again: Sequence[Rerun] = ()
) -> StudyResults:
    """Run the cells of a study that have no result yet, and print a summary.

    Args:
        launch: function that runs the cells.
        again: which cells to run again although they have a result.
    """
    folder = output_dir.absolute() / "studies" / plan.name
    plan = _continued(plan, folder)
    _warn_of_few_seeds(plan, console)
    ran: set[str] = set()
    with sweeping(folder):
        plan.save(folder)
        (folder / STOP_FILE).unlink(missing_ok=True)
        try:
            for seeds in plan.planned_looks or (len(plan.seeds),):
                if cells := _due(read_results(plan, output_dir), again, plan.seeds[:seeds], ran):
                    with showing(folder, cells, console) as progress:
                        launch(folder, cells)
                    _tell_never_begun(folder, len(cells) - len(progress.ended) - len(progress.running))
                ran |= {cell.key for cell in cells}
                if plan.planned_looks:
                    results = read_results(plan, output_dir)
                    if results.reached < seeds:
                        break
                    if results.reached == seeds:  # else a later look has been read already
                        print_look(results, console)
                    if (folder / STOP_FILE).exists():  # a cell diverged, and study.fail_fast is set
                        break
        finally:
            results = read_results(plan, output_dir)
            _link_runs(results)
            print_summary(results, console)
    return results


def _link_runs(results: StudyResults) -> None:
    """Link `runs/ARM/SEED` in the study's folder to each run, so that TensorBoard shows that name; remove old links."""
    home = results.folder / "runs"
    wanted = {home / result.cell.key: result.folder for result in results.cells if result.folder is not None}
    for link in filter(Path.is_symlink, home.glob("*/*")):
        link.unlink()
        with contextlib.suppress(OSError):  # the arm has other links
            link.parent.rmdir()
    for link, folder in wanted.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # Windows lets few users make links, and no result depends on them
            target = os.path.relpath(folder.resolve(), link.parent.resolve())
            link.symlink_to(target, target_is_directory=True)


def _tell_never_begun(folder: Path, never: int) -> None:
    if never and not (folder / STOP_FILE).exists():
        jobs = folder / "jobs"
        why = f"the output of their jobs in {jobs} may say why, and " if jobs.exists() else ""
        print(f"{count(never, 'cell')} never began: {why}the same command runs them.", file=sys.stderr)


def _continued(plan: Plan, folder: Path) -> Plan:
    """Return the plan with the study's history, if any of its cells have run before."""
    if not (folder / FILE_NAME).exists():
        return plan
    former = Plan.load(folder)
    begun = bool(former.looks) or any(Outcome.load(folder, cell) is not None for cell in former.cells)
    return plan.continuing(former) if begun else plan


def _due(results: StudyResults, again: Sequence[Rerun], seeds: Sequence[int], ran: Collection[str] = ()) -> list[Cell]:
    """Return the cells to run with these seeds: those without a result and those to run again, except for `ran`.

    A cell that already has a result trains again, unless it only lacks a figure.
    """
    cells = []
    for result in results.cells:
        cell = result.cell
        if cell.seed not in seeds or cell.key in ran:
            continue
        if _is_due(result, results.plan.time_limit, again):
            trained = result.ended or result.status in ("corrupt", "held back")
            cells.append(replace(cell, overrides=(*cell.overrides, "force=true")) if trained else cell)
        elif results.lacks_figure(result):
            cells.append(cell)
    return cells


def _is_due(result: CellResult, time_limit: float | None, again: Sequence[Rerun]) -> bool:
    if result.status == "not needed":
        return False
    if "all" in again or (result.older and "older" in again) or result.status in again:
        return True
    if result.status == "timed out":  # only a longer limit can change the result
        return allows_more(time_limit, result.seconds)
    return result.status not in ("finished", "diverged", "corrupt", "running", "held back")


def _warn_of_few_seeds(plan: Plan, console: Console) -> None:
    from charlab.studies.evidence import minimum_seeds
    from charlab.studies.looks import idle_looks  # imported here: it imports scipy, and most mistakes end earlier

    arms = len(plan.arms) - 1
    if plan.planned_looks:
        for seeds, size in idle_looks(plan.planned_looks, arms).items():
            console.print(
                f"[bold yellow]Idle look:[/] after {seeds} seeds, with {count(arms, 'arm')}, a difference must be "
                f"{size:.1f} standard deviations to be significant; leave the look out, or begin later.",
                soft_wrap=True,
            )
        return
    if arms and plan.compares and len(plan.seeds) < minimum_seeds(arms):
        console.print(
            f"[bold yellow]Too few seeds:[/] {count(len(plan.seeds), 'seed')} cannot show a difference between "
            f"{count(arms, 'arm')} and a baseline; at least {minimum_seeds(arms)} are needed.",
            soft_wrap=True,
        )
