"""Search for hyperparameters: run Optuna's trials as cells and compare them on text that reports never use."""

from __future__ import annotations

import itertools
import json
import math
import statistics
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
from charlab.configuration.sources import hydra_config
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.runs.store import Store
from charlab.seeding import derive_seed
from charlab.studies.cell import write_cell
from charlab.studies.definition import Arm, check_folder_name, settings, typed
from charlab.studies.display import showing
from charlab.studies.executors import Executor
from charlab.studies.parameters import NOT_ON_REPORTED_TEXT, Parameter, read_parameters
from charlab.studies.plan import Cell, Plan, edited, find_runs, is_shared, merged, processes, run_values
from charlab.studies.state import STOP_FILE, Outcome, cell_path, sweeping
from charlab.types import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    import optuna

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


@dataclass(frozen=True)
class SearchDefinition:
    """The settings of a search; see `conf/search/_base.yaml`.

    Attributes:
        dev_fraction: size of the dev text; None if the overrides set it.
        seed: of the search, and of each trial's first run.
        more_seeds: of each trial's further runs; their losses are averaged.
    """

    name: str
    overrides: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    trials: int
    at_once: int | None
    split: str
    dev_fraction: float | None
    seed: int
    time_limit: float | None
    more_seeds: tuple[int, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of each trial."""
        return (self.seed, *self.more_seeds)


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
        raise UserError(f"search.split={values['split']}{where} {NOT_ON_REPORTED_TEXT}")
    name = values["name"] or choice.replace("/", "-")
    check_folder_name(name, f"search.name={name!r} is")
    parameters = read_parameters(values["parameters"], "search.parameters", where)
    check_own(parameters, "search.parameters", where)
    for override in values["overrides"]:
        if override.lstrip("+~").partition("=")[0] in parameters:
            raise UserError(f"search.overrides{where} has {override}, which is sought: leave it out there.")
    return SearchDefinition(
        **{**values, "name": name, "overrides": tuple(values["overrides"]), "parameters": parameters}
    )


def check_own(parameters: Mapping[str, Parameter], given: str, where: str) -> None:
    """Check that trials may differ in these parameters.

    Raises:
        UserError: if all trials share one of them.
    """
    for key in parameters:
        if is_shared(key) or key == "data.dev_fraction":
            raise UserError(f"{given}{where} has {key}, which all trials of a search share: leave it out.")


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
    trials = Trials(definition, composer, typed)
    executor.check(trials.output_dir)
    with executor:
        trials.run(executor, console)
        trials.print(console)
    if trials.best() is None:
        raise SystemExit(1)


class Trials:
    """The trials of a search: their values are in a file in its folder, their results in the records of their runs.

    Args:
        definition: the search's settings.
        composer: composer of the training program.
        typed: prepared overrides for every trial.

    Raises:
        UserError: if a trial does not compose.
    """

    def __init__(self, definition: SearchDefinition, composer: Composer, typed: Sequence[str]) -> None:
        self.definition, self.composer = definition, composer
        self._cells: dict[int, tuple[Cell, ...]] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._moved: list[str] = []  # what differs in the code of each run that other code has ended
        dev = [] if definition.dev_fraction is None else [f"data.dev_fraction={definition.dev_fraction}"]
        shared = composer.prepare([*definition.overrides, *dev])
        self.shared = merged(shared, typed, [f"seed={definition.seed}"])
        config = self._compose({key: parameter.example for key, parameter in definition.parameters.items()})
        check_output_folder(output_folder(config, sweep=False))
        self.output_dir = Path(config.output_dir)
        self.folder = self.output_dir.absolute() / "searches" / definition.name

    def run(self, executor: Executor, console: Console) -> None:
        """Run trials until there are enough, or one does not end.

        Raises:
            UserError: if another process is running the search, or its files cannot be read.
        """
        with sweeping(self.folder):
            self.open(console)
            (self.folder / STOP_FILE).unlink(missing_ok=True)
            at_once = -(-executor.at_once // len(self.definition.seeds))
            while batch := self.next(self.definition.at_once or at_once):
                cells = list(dict.fromkeys(itertools.chain.from_iterable(batch.values())))
                self.plan(cells).save(self.folder)
                with showing(self.folder, cells, console):
                    self.write(cells)
                    executor.run(self.folder, cells)
                if not self.tell(batch):
                    break

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
        meant = [sought, self.definition.seed, self.definition.split, self.shared, *self.definition.more_seeds]
        self.meant = json.dumps(meant, sort_keys=True)
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
            state, value = self._end(*self.result(self.cells(number, params)))
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
        """Return a trial's state and value, given its result; see `result`."""
        states = self.optuna.trial.TrialState
        if value is not None:
            return states.COMPLETE, value
        if reason is None:
            return states.RUNNING, None
        # Divergence is a bad suggestion that the sampler learns from; other failures are not.
        return (states.PRUNED if reason.startswith("diverged") else states.FAIL), None

    def next(self, count: int) -> dict[int, tuple[Cell, ...]]:
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
        batch: dict[int, tuple[Cell, ...]] = {}
        known: dict[str, Cell] = {}
        for number, params in suggested.items():  # trials with the same values share a run
            batch[number] = tuple(known.setdefault(cell.run, cell) for cell in self.cells(number, params))
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
            arms=tuple(Arm(name, ()) for name in dict.fromkeys(cell.arm for cell in cells)),
            cells=tuple(cells),
            seeds=self.definition.seeds,
            planned_seeds=len(self.definition.seeds),
            time_limit=self.definition.time_limit,
            sweep=True,
        )

    def tell(self, batch: Mapping[int, Sequence[Cell]]) -> bool:
        """Report the results of trials to Optuna; return whether all have ended, so that more can start."""
        all_ended = True
        for number, cells in batch.items():
            state, value = self._end(*self.result(cells))
            if state is self.optuna.trial.TrialState.RUNNING:
                all_ended = False
            else:
                self.study.tell(number, value, state)
        return all_ended

    def result(self, cells: Sequence[Cell]) -> tuple[float | None, str | None]:
        """Return a trial's mean loss, or the reason why it has none; neither if some of its cells can be resumed."""
        found = [self._result(cell) for cell in cells]
        if reason := next((reason for _, reason in found if reason is not None), None):
            return None, reason
        values = [value for value, _ in found if value is not None]
        return (statistics.fmean(values), None) if len(values) == len(found) else (None, None)

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

    def ended(self) -> int:
        """Return how many trials have ended, with or without a result."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def tried(self) -> list[tuple[dict[str, Any], float | None, str | None]]:
        """Return the values of each trial, its loss, and the reason if it has none."""
        found = self.study.get_trials(deepcopy=False)
        return [(trial.params, *self.result(self.cells(trial.number, trial.params))) for trial in found]

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
            run = self.cells(trial.number, trial.params)[0].run
            table.add_row(str(trial.number), f"{trial.value:.4f}", *map(escape, [*values, run]))
        console.print(table)
        for trial in found:
            if trial.value is None:
                tried = ", ".join(f"{key}={_shown(value)}" for key, value in trial.params.items())
                _, reason = self.result(self.cells(trial.number, trial.params))
                line = f"trial {trial.number} ({tried}) {reason or 'has not ended'}"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.print(f"{self.ended()} of {self.definition.trials} trials, {len(done)} with a result.")
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

    def cells(self, number: int, params: Mapping[str, Any]) -> tuple[Cell, ...]:
        """Return the cells of a trial with these values, one for each seed."""
        if number in self._cells:
            return self._cells[number]
        config, seeds = self._compose(params), self.definition.seeds
        found = find_runs(config, seeds, ["edited"], self._moved)
        for seed in seeds:
            config.seed = seed
            self._values[found[seed][0]] = run_values(config)
        overrides = {seed: tuple(merged(self.shared, self._overrides(params), [f"seed={seed}"])) for seed in seeds}
        self._cells[number] = tuple(
            Cell(f"trial-{number:03d}", seed, found[seed][0], overrides[seed], found[seed][1], processes(config))
            for seed in seeds
        )
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
