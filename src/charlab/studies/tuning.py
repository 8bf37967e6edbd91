"""Tune the arms of a study before its cells run: the same budget of trials for each, on dev text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

from rich.console import Console

from charlab.configuration.overrides import shortened
from charlab.errors import UserError
from charlab.quantities import count
from charlab.runs.store import Store
from charlab.studies.definition import Arm, Definition, typed
from charlab.studies.executors import Executor
from charlab.studies.parameters import Tune, Tuned, is_at_end
from charlab.studies.plan import FILE_NAME, Plan
from charlab.studies.planner import Planner
from charlab.studies.search import MIXED, SearchDefinition, Trial, Trials, check_own


def tune(planner: Planner, study: str, executor: Executor, console: Console, *, dry_run: bool) -> Definition | None:
    """Run the trials that are missing, arm by arm, and return the definition with each arm's chosen values.

    Trials are kept, so an interrupted study resumes where it stopped. Killed ones run again until the study's plan has
    the arm's chosen values, since other values would make it exploratory.

    Args:
        planner: planner of the study, which has checked every arm.
        study: name of the study.
        dry_run: whether to run nothing.

    Returns:
        The definition; None for a dry run in which trials are missing.
    """
    definition, folder = planner.definition, planner.output_dir.absolute() / "studies" / study
    chosen = {arm.name for arm in Plan.load(folder).arms if arm.tuned} if (folder / FILE_NAME).exists() else set[str]()
    tuned_arms = [arm for arm in definition.arms if arm.name in definition.tune]
    searches = {arm.name: _trials(arm, study, planner, retry=arm.name not in chosen) for arm in tuned_arms}
    arms = {arm.name: arm for arm in definition.arms}
    for name, trials in searches.items():
        wanted = definition.tune[name]
        if dry_run:
            trials.open(console)
        else:
            budget = f"{count(wanted.trials, 'trial')} × {count(len(wanted.seeds), 'seed')}"
            console.print(f"Tuning {name}: {budget}, on dev text.", markup=False, highlight=False)
            trials.run(executor, console)
        found = trials.all()[: wanted.trials]  # a longer search of before must not favor the arm that had it
        ended = sum(trial.ended for trial in found)
        if ended < wanted.trials:
            if dry_run:
                runs = len(searches) * wanted.trials * len(wanted.seeds)
                console.print(f"Before these cells, {runs} runs tune {count(len(searches), 'arm')} on dev text.")
                return None
            raise UserError(
                f"Tuning the arm {name} has not ended ({ended} of {wanted.trials} trials): the study's command "
                "continues it."
            )
        tuned = _chosen(found, trials, wanted, definition.margin, name)
        if tuned.mixed:
            console.print(f"Tuning {name}: {MIXED}", soft_wrap=True, markup=False, highlight=False)
        values = planner.composer.prepare([f"{key}={typed(value)}" for key, value in tuned.values.items()])
        arms[name] = replace(arms[name], overrides=(*arms[name].overrides, *values), tuned=tuned)
    return replace(definition, arms=tuple(arms.values()))


def _trials(arm: Arm, study: str, planner: Planner, *, retry: bool) -> Trials:
    wanted = planner.definition.tune[arm.name]
    check_own(wanted.parameters, "study.tune.parameters", "")
    search = SearchDefinition(
        name=shortened(f"{study}+{arm.name}"),
        parameters=wanted.parameters,
        trials=wanted.trials,
        seeds=wanted.seeds,
        time_limit=planner.definition.time_limit,
    )
    try:
        return Trials(search, planner.composer, planner.overrides(arm), retry=retry)
    except UserError as error:
        raise UserError(f"The arm {arm.name} cannot be tuned: {error}") from None


def _chosen(found: Sequence[Trial], trials: Trials, wanted: Tune, margin: float, name: str) -> Tuned:
    """Return the result of an arm's trials, of which those in `found` count."""
    best = min((trial for trial in found if trial.loss is not None), key=attrgetter("loss"), default=None)
    if best is None or best.loss is None:
        reason = next(trial.reason for trial in found if trial.reason is not None)
        raise UserError(f"Tuning the arm {name} has failed: no trial has a result, and the first {reason}.")
    near = [trial.values for trial in found if trial.loss is not None and trial.loss - best.loss <= margin]
    numeric = [key for key, parameter in wanted.parameters.items() if not parameter.choices]
    runs = {cell.run for trial in found for cell in trial.cells}
    records = [record for run in runs if (record := Store(trials.output_dir).record_of(run)) is not None]
    return Tuned(
        values=best.values,
        loss=best.loss,
        trials=len(found),
        seeds=wanted.seeds,
        failed=sum(trial.loss is None for trial in found),
        runs=len(runs),
        seconds=sum(record.time.get("training_s", 0.0) for record in records),
        near=len(near),
        ranges={key: (min(v[key] for v in near), max(v[key] for v in near)) for key in numeric},
        at_end=tuple(key for key in numeric if is_at_end(wanted.parameters[key], best.values[key])),
        mixed=trials.mixes_bounds(found),
    )
