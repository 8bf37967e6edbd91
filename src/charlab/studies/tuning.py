"""Tune the arms of a study before its cells run: the same budget of trials for each, on dev text."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from charlab.configuration.compose import Composer
from charlab.configuration.overrides import shortened
from charlab.errors import UserError
from charlab.quantities import count
from charlab.runs.store import Store
from charlab.studies.definition import Arm, Definition, typed
from charlab.studies.executors import Executor
from charlab.studies.parameters import Tune, Tuned, is_at_end
from charlab.studies.plan import Planner
from charlab.studies.search import SearchDefinition, Trials, check_own


def tune(
    definition: Definition,
    study: str,
    planner: Planner,
    composer: Composer,
    executor: Executor,
    console: Console,
    *,
    dry_run: bool = False,
) -> Definition | None:
    """Run the trials that are missing, arm by arm, and return the definition with each arm's chosen values.

    Trials are kept, so that a study that was interrupted goes on where it was.

    Args:
        definition: the study's definition.
        study: the study's name.
        planner: planner of the study, which has checked every arm.
        composer: composer of the training program.
        executor: executor that runs the trials.
        console: where to print.
        dry_run: whether to run nothing.

    Returns:
        The definition; None for a dry run in which trials are missing.

    Raises:
        UserError: if an arm's trials do not compose, have not ended, or have no result.
    """
    searches = {}
    for arm in definition.arms:
        if (wanted := definition.tune.get(arm.name)) is not None:
            searches[arm.name] = _trials(arm, wanted, definition, study, planner, composer)
    chosen: dict[str, Tuned] = {}
    for name, trials in searches.items():
        wanted = definition.tune[name]
        if dry_run:
            trials.open(console)
        else:
            budget = f"{count(wanted.trials, 'trial')} × {count(len(wanted.seeds), 'seed')}"
            console.print(f"Tuning {name}: {budget}, on dev text.", markup=False, highlight=False)
            trials.run(executor, console)
        ended = trials.ended()
        if ended < wanted.trials:
            if dry_run:
                runs = len(searches) * wanted.trials * len(wanted.seeds)
                console.print(f"Before these cells, {runs} runs tune {count(len(searches), 'arm')} on dev text.")
                return None
            raise UserError(
                f"Tuning the arm {name} has not ended ({ended} of {wanted.trials} trials): the study's command goes on."
            )
        chosen[name] = _chosen(trials, wanted, definition.margin, name)
    arms = tuple(_with(arm, chosen.get(arm.name), composer) for arm in definition.arms)
    return replace(definition, arms=arms)


def _trials(arm: Arm, wanted: Tune, definition: Definition, study: str, planner: Planner, composer: Composer) -> Trials:
    check_own(wanted.parameters, "study.tune.parameters", "")
    search = SearchDefinition(
        name=shortened(f"{study}+{arm.name}"),
        overrides=(),
        parameters=wanted.parameters,
        trials=wanted.trials,
        at_once=None,
        split="dev",
        dev_fraction=None,
        seed=wanted.seeds[0],
        time_limit=definition.time_limit,
        more_seeds=wanted.seeds[1:],
    )
    try:
        return Trials(search, composer, planner.overrides(arm))
    except UserError as error:
        raise UserError(f"The arm {arm.name} cannot be tuned: {error}") from None


def _chosen(trials: Trials, wanted: Tune, margin: float, name: str) -> Tuned:
    """Return what the trials of an arm came to.

    Raises:
        UserError: if none has a result.
    """
    found = trials.tried()
    best = trials.best()
    if best is None or best.value is None:
        reason = next(reason for _, _, reason in found if reason is not None)
        raise UserError(f"Tuning the arm {name} has failed: no trial has a result, and the first {reason}.")
    near = [params for params, value, _ in found if value is not None and value - best.value <= margin]
    numeric = [key for key, parameter in wanted.parameters.items() if not parameter.choices]
    runs = {cell.run for number, (params, _, _) in enumerate(found) for cell in trials.cells(number, params)}
    records = [record for run in runs if (record := Store(trials.output_dir).own(run)) is not None]
    return Tuned(
        values=dict(best.params),
        loss=best.value,
        trials=len(found),
        seeds=wanted.seeds,
        failed=sum(value is None for _, value, _ in found),
        runs=len(runs),
        seconds=sum(record.time.get("training_s", 0.0) for record in records),
        near=len(near),
        ranges={key: (min(p[key] for p in near), max(p[key] for p in near)) for key in numeric},
        at_end=tuple(key for key in numeric if is_at_end(wanted.parameters[key], best.params[key])),
    )


def _with(arm: Arm, tuned: Tuned | None, composer: Composer) -> Arm:
    if tuned is None:
        return arm
    values = composer.prepare([f"{key}={typed(value)}" for key, value in tuned.values.items()])
    return replace(arm, overrides=(*arm.overrides, *values), tuned=tuned)
