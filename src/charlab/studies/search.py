"""Search for hyperparameters: run Optuna's trials as cells and compare them on text that reports never use."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charlab.command import command
from charlab.configuration.check import check_output_folder, output_folder
from charlab.configuration.compose import Composer, resolve_values
from charlab.configuration.messages import nearest
from charlab.configuration.sources import hydra_config
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.store import Store
from charlab.seeding import derive_seed
from charlab.studies.cell import write_cell
from charlab.studies.definition import Arm, check_folder_name, settings, typed
from charlab.studies.display import showing
from charlab.studies.executors import Executor
from charlab.studies.plan import Cell, Plan, edited, find_runs, is_shared, merged, processes, run_values
from charlab.studies.state import STOP_FILE, Outcome, cell_path, sweeping
from charlab.types import PositiveFloat, PositiveInt, display, fits

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

STORAGE = "trials.json"
BEST_SHOWN = 10
TYPES: dict[str, Any] = {
    "name": str | None,
    "overrides": list[str],
    "parameters": dict,
    "trials": PositiveInt,
    "at_once": PositiveInt | None,
    "split": str,
    "dev_fraction": PositiveFloat,
    "seed": int,
    "time_limit": PositiveFloat | None,
}
"""Types of the values in `conf/search/_base.yaml`, by key."""
PARAMETER_KEYS = ("low", "high", "log", "step", "choices")


@dataclass(frozen=True)
class Parameter:
    """The values that a parameter may take: an inclusive range or a list of choices.

    Attributes:
        low: lower end of the range; values are integers if both ends are.
        high: upper end of the range.
        log: whether to sample on a logarithmic scale.
        step: distance between values; None for a continuous range, or for integers with a distance of 1.
        choices: the values if there is no range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @property
    def example(self) -> Any:
        """One of the possible values."""
        return self.choices[0] if self.choices else self.low

    def distribution(self) -> BaseDistribution:
        """Return the corresponding Optuna distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class SearchDefinition:
    """The settings of a search; see `conf/search/_base.yaml`."""

    name: str
    overrides: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    trials: int
    at_once: int | None
    split: str
    dev_fraction: float
    seed: int
    time_limit: float | None


def define_search(node: DictConfig, choice: str) -> SearchDefinition:
    """Return the search that the node `search` of a configuration describes.

    Args:
        node: the composed node.
        choice: name of the search's file.

    Raises:
        UserError: for the first mistake found.
    """
    values, where = settings(node, "search", choice, TYPES), f" (in search/{choice}.yaml)"
    if values["split"] != "dev":
        raise UserError(
            f"search.split={values['split']}{where} is not to be chosen on: what chooses never reports, so choose "
            "on dev, the first part of the train text."
        )
    name = values["name"] or choice.replace("/", "-")
    check_folder_name(name, f"search.name={name!r} is")
    if not values["parameters"]:
        raise UserError(f"search.parameters{where} is empty: name what is sought, optimizer.lr for instance.")
    parameters = {str(key): _parameter(str(key), value, where) for key, value in values["parameters"].items()}
    for key in parameters:
        if is_shared(key) or key == "data.dev_fraction":
            raise UserError(f"search.parameters{where} has {key}, which all trials of a search share: leave it out.")
    for override in values["overrides"]:
        if override.lstrip("+~").partition("=")[0] in parameters:
            raise UserError(f"search.overrides{where} has {override}, which is sought: leave it out there.")
    return SearchDefinition(
        **{**values, "name": name, "overrides": tuple(values["overrides"]), "parameters": parameters}
    )


def _parameter(key: str, value: Any, where: str) -> Parameter:
    given = f"search.parameters.{key}{where}"
    if not isinstance(value, dict):
        raise UserError(f"{given} must be a range, {{low: …, high: …}}, or {{choices: […]}}, not {display(value)}.")
    for name in map(str, value):
        if name not in PARAMETER_KEYS:
            raise UserError(f"{given} has no key {name}{nearest(name, PARAMETER_KEYS)}")
    if "choices" in value:
        choices = value["choices"]
        if len(value) > 1 or not isinstance(choices, list) or len(choices) < 2:
            raise UserError(f"{given} must have either a range or a list of two choices at least, and nothing else.")
        if not all(choice is None or isinstance(choice, str | bool | int | float) for choice in choices):
            raise UserError(f"{given} must have choices that are single values: name a group's options.")
        return Parameter(choices=tuple(choices))
    low: Any = value.get("low")
    high: Any = value.get("high")
    step: Any = value.get("step")
    if not (fits(low, float) and fits(high, float) and low < high and math.isfinite(high - low)):
        raise UserError(f"{given} must have a low below its high, each a finite number such as 1.0e-3.")
    if not fits(value.get("log", False), bool) or not fits(step, PositiveFloat | None):
        raise UserError(f"{given} must have true or false for log, and a number above 0 for step.")
    log = value.get("log", False)
    if log and (low <= 0 or step is not None):
        raise UserError(f"{given} is logarithmic, so low must be above 0, and there is no step.")
    whole = isinstance(low, int) and isinstance(high, int)
    if step is not None and ((whole and not isinstance(step, int)) or not _divides(step, high - low)):
        raise UserError(f"{given} must have a step that leads from low to high.")
    return Parameter(low, high, log, step)


def _divides(step: float, length: float) -> bool:
    """Return whether the length is a whole number of steps, up to rounding."""
    count = length / step
    return abs(count - round(count)) < 1e-9 * max(1.0, count)


def search(config: DictConfig, composer: Composer, typed: Sequence[str], executor: Executor, console: Console) -> None:
    """Run the chosen search until it has the requested number of trials, then print the best ones.

    Args:
        config: the sweep's configuration with Hydra's node.
        composer: composer of the training program.
        typed: prepared overrides for every trial.
        executor: executor that runs the trials.
        console: where to print.

    Raises:
        UserError: if the search is invalid.
        SystemExit: with code 1, if no trial has a result.
    """
    if config.dry_run:
        raise UserError("dry_run=true shows the runs of a study; what a search will try is not known yet.")
    definition = define_search(config.search, config.hydra.runtime.choices.search)
    trials = _Trials(definition, composer, typed)
    executor.check(trials.output_dir)
    with executor, sweeping(trials.folder):
        trials.open(console)
        (trials.folder / STOP_FILE).unlink(missing_ok=True)
        while batch := trials.next(definition.at_once or executor.at_once):
            cells = list(dict.fromkeys(batch.values()))
            trials.plan(cells).save(trials.folder)
            with showing(trials.folder, cells, console):
                trials.write(cells)
                executor.run(trials.folder, cells)
            if not trials.tell(batch):
                break
        trials.print(console)
    if trials.best() is None:
        raise SystemExit(1)


class _Trials:
    """The trials of a search: their values are in a file in its folder, their results in the records of their runs."""

    def __init__(self, definition: SearchDefinition, composer: Composer, typed: Sequence[str]) -> None:
        self.definition, self.composer = definition, composer
        self._cells: dict[int, Cell] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._moved: list[str] = []  # what differs in the code of each run that other code has ended
        shared = composer.prepare([*definition.overrides, f"data.dev_fraction={definition.dev_fraction}"])
        self.shared = merged(shared, typed, [f"seed={definition.seed}"])
        config = self._compose({key: parameter.example for key, parameter in definition.parameters.items()})
        check_output_folder(output_folder(config, sweep=False))
        self.output_dir = Path(config.output_dir)
        self.folder = self.output_dir.absolute() / "searches" / definition.name

    def open(self, console: Console) -> None:
        """Read the trials so far; those that other code has run are run again.

        Raises:
            UserError: if the folder has the trials of another search, or the file cannot be read.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.study = optuna, optuna.create_study(direction="minimize")
        self.spaces = {key: parameter.distribution() for key, parameter in self.definition.parameters.items()}
        sought = asdict(self.definition)["parameters"]
        self.meant = json.dumps([sought, self.definition.seed, self.definition.split, self.shared], sort_keys=True)
        file = self.folder / STORAGE
        try:
            saved = (
                json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"meant": self.meant, "trials": []}
            )
            former, tried = saved["meant"], list(saved["trials"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is corrupt: delete it to begin the search anew.") from error
        if former != self.meant:
            raise UserError(
                f"The search in {self.folder} sought something else, or elsewhere: give this one another search.name."
            )
        for number, params in enumerate(tried):
            state, value = self._end(*self._result(self._cell(number, params)))
            self.study.add_trial(
                optuna.trial.create_trial(state=state, value=value, params=params, distributions=self.spaces)
            )
        if self._moved:
            note = f"{edited(self._moved, 'trial', 'search')}."
            console.print(note, soft_wrap=True, markup=False, highlight=False)

    def _save(self) -> None:
        """Write the values of all trials, atomically."""
        tried = [trial.params for trial in self.study.get_trials(deepcopy=False)]
        text = json.dumps({"meant": self.meant, "trials": tried}, indent=1) + "\n"
        write_atomically(self.folder / STORAGE, lambda file: file.write(text.encode()))

    def _end(self, value: float | None, reason: str | None) -> tuple[optuna.trial.TrialState, float | None]:
        """Return a trial's state and value, given its result; see `_result`."""
        states = self.optuna.trial.TrialState
        if value is not None:
            return states.COMPLETE, value
        if reason is None:
            return states.RUNNING, None
        # Divergence is a bad suggestion that the sampler learns from; other failures are not.
        return (states.PRUNED if reason.startswith("diverged") else states.FAIL), None

    def next(self, count: int) -> dict[int, Cell]:
        """Return the cells of the next trials by trial number; empty if there are enough trials.

        Trials that an earlier process left unfinished come first.
        """
        states = self.optuna.trial.TrialState
        found = self.study.get_trials(deepcopy=False)
        suggested = {trial.number: trial.params for trial in found if trial.state == states.RUNNING}
        while len(suggested) < count and len(self.study.get_trials(deepcopy=False)) < self.definition.trials:
            number = len(self.study.get_trials(deepcopy=False))
            # One sampler per trial, so that suggestions do not depend on interruptions of the search.
            seed = derive_seed(self.definition.seed, f"suggestion of trial {number}") % 2**32
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, self._startup))
            trial = self.study.ask(self.spaces)
            suggested[trial.number] = trial.params
        self._save()
        batch: dict[int, Cell] = {}
        cells: dict[str, Cell] = {}
        for number, params in suggested.items():
            cell = self._cell(number, params)
            cells.setdefault(cell.run, cell)  # trials with the same values share a run
            batch[number] = cells[cell.run]
        return batch

    @property
    def _startup(self) -> int:
        """The number of random trials before the sampler uses earlier results."""
        return max(3, self.definition.trials // 3)

    def write(self, cells: Sequence[Cell]) -> None:
        """Write the files of the given cells into the search's folder."""
        for cell in cells:
            folder = Store(self.output_dir).folder(cell.run)
            write_cell(cell_path(self.folder, cell, ".yaml"), self._values[cell.run], folder, cell.overrides, cell.code)

    def plan(self, cells: Sequence[Cell]) -> Plan:
        """Return the plan that `run_cell` needs."""
        return Plan(
            name=self.definition.name,
            hypothesis="",
            baseline=cells[0].arm,
            arms=tuple(Arm(cell.arm, ()) for cell in cells),
            cells=tuple(cells),
            seeds=(self.definition.seed,),
            planned_seeds=1,
            time_limit=self.definition.time_limit,
            sweep=True,
        )

    def tell(self, batch: Mapping[int, Cell]) -> bool:
        """Report the results of trials to Optuna; return whether all have ended, so that more can start."""
        all_ended = True
        for number, cell in batch.items():
            state, value = self._end(*self._result(cell))
            if state is self.optuna.trial.TrialState.RUNNING:
                all_ended = False
            else:
                self.study.tell(number, value, state)
        return all_ended

    def _result(self, cell: Cell) -> tuple[float | None, str | None]:
        """Return a cell's loss in nats per character, or the reason why it has none; neither if it can be resumed."""
        record = Store(self.output_dir).own(cell.run)
        if record is not None and record.status == "finished":
            if record.causality.get("leaks"):
                return None, "leaks: it looks at what it is to predict"
            value = record.metric("blocks", self.definition.split)["nll"]
            return (value, None) if math.isfinite(value) else (None, f"diverged: {value} nats per character")
        outcome = Outcome.load(self.folder, cell)
        if outcome is None or outcome.fate in ("interrupted", "running", "finished"):
            return None, None
        lines = outcome.reason.strip().splitlines()
        return None, f"{outcome.fate}: {lines[-1].strip() if lines else 'no reason known'}"

    def best(self) -> optuna.trial.FrozenTrial | None:
        """Return the best trial with a result."""
        done = [trial for trial in self.study.get_trials(deepcopy=False) if trial.value is not None]
        return min(done, key=lambda trial: (trial.value, trial.number), default=None)

    def print(self, console: Console) -> None:
        """Print the best trials, the reasons of those without a result, and the command to train the best one again."""
        found = self.study.get_trials(deepcopy=False)
        done = sorted((trial for trial in found if trial.value is not None), key=lambda trial: trial.value or 0.0)
        table = Table("trial", f"nats/char ({self.definition.split})", *self.spaces, box=None, pad_edge=False)
        table.add_column("run", overflow="fold")
        for trial in done[:BEST_SHOWN]:
            values = [_shown(trial.params[key]) for key in self.spaces]
            run = self._cell(trial.number, trial.params).run
            table.add_row(str(trial.number), f"{trial.value:.4f}", *map(escape, [*values, run]))
        console.print(table)
        for trial in found:
            if trial.value is None:
                tried = ", ".join(f"{key}={_shown(value)}" for key, value in trial.params.items())
                _, reason = self._result(self._cell(trial.number, trial.params))
                line = f"trial {trial.number} ({tried}) {reason or 'has not ended'}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        ended = sum(trial.state.is_finished() for trial in found)
        console.print(f"{ended} of {self.definition.trials} trials, {len(done)} with a result.")
        best = self.best()
        if best is not None:
            kept = [override for override in self.shared if not override.startswith(("data.dev_fraction=", "seed="))]
            console.print(
                f"The best on the whole train text, to be judged by a study over further seeds:\n"
                f"  {command('train', *kept, *self._overrides(best.params))}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def _cell(self, number: int, params: Mapping[str, Any]) -> Cell:
        if number in self._cells:
            return self._cells[number]
        config, seed = self._compose(params), self.definition.seed
        run, code = find_runs(config, [seed], ["edited"], self._moved)[seed]
        self._values[run] = run_values(config)
        overrides = merged(self.shared, self._overrides(params))
        self._cells[number] = Cell(f"trial-{number:03d}", seed, run, tuple(overrides), code, processes(config))
        return self._cells[number]

    def _compose(self, params: Mapping[str, Any]) -> DictConfig:
        try:
            config = self.composer.job(merged(self.shared, self._overrides(params)))
        except UserError as error:
            values = ", ".join(f"{key}={_shown(value)}" for key, value in params.items())
            raise UserError(f"A trial of the search with {values} does not compose: {error}") from None
        with hydra_config(config):
            resolve_values(config)
        return config

    def _overrides(self, params: Mapping[str, Any]) -> list[str]:
        return self.composer.prepare([f"{key}={typed(value)}" for key, value in params.items()])


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else typed(value)
