"""Search for hyperparameters: run Optuna's trials as cells and compare them on text that reports never use."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charlab.configuration.compose import Composer, check_output_folder, hydra_config, resolve_values
from charlab.errors import UserError
from charlab.runs.identity import identify
from charlab.runs.store import Store, place
from charlab.seeding import derive_seed
from charlab.studies.cell import write_cell
from charlab.studies.display import showing
from charlab.studies.executors import Executor
from charlab.studies.expansion import PROGRAM, merged, processes, run_values
from charlab.studies.outcome import STOP_FILE, Outcome, cell_path, sweeping
from charlab.studies.plan import Arm, Cell, Plan
from charlab.studies.search_definition import SearchDefinition, define_search

if TYPE_CHECKING:
    import optuna

STORAGE = "trials.db"
BEST_SHOWN = 10


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
    with sweeping(trials.folder):
        trials.open()
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
    """The trials of a search, stored in a database in its folder."""

    def __init__(self, definition: SearchDefinition, composer: Composer, typed: Sequence[str]) -> None:
        self.definition, self.composer = definition, composer
        self._cells: dict[int, Cell] = {}
        self._values: dict[str, dict[str, Any]] = {}
        shared = composer.prepare([*definition.overrides, f"data.dev_fraction={definition.dev_fraction}"])
        self.shared = merged(shared, typed, [f"seed={definition.seed}"])
        config = self._compose({key: parameter.example for key, parameter in definition.parameters.items()})
        check_output_folder(config, sweep=False)
        self.output_dir = Path(config.output_dir)
        self.folder = self.output_dir.absolute() / "searches" / definition.name

    def open(self) -> None:
        """Open the database, or create it.

        Raises:
            UserError: if it contains the trials of another search.
        """
        import optuna
        from sqlalchemy import URL

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna = optuna
        self.study: optuna.Study = optuna.create_study(
            storage=URL.create("sqlite", database=str(self.folder / STORAGE)).render_as_string(),
            study_name=self.definition.name,
            direction="minimize",
            load_if_exists=True,
        )
        self.spaces = {key: parameter.distribution() for key, parameter in self.definition.parameters.items()}
        sought = asdict(self.definition)["parameters"]
        meant = json.dumps([sought, self.definition.seed, self.definition.split, self.shared], sort_keys=True)
        former = self.study.user_attrs.get("meant", meant)
        if former != meant:
            raise UserError(
                f"The search in {self.folder} sought something else, or elsewhere: give this one another search.name."
            )
        self.study.set_user_attr("meant", meant)

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
        states = self.optuna.trial.TrialState
        all_ended = True
        for number, cell in batch.items():
            value, reason = self._result(cell)
            if value is not None:
                self.study.tell(number, value)
            elif reason is None:
                all_ended = False
            else:  # divergence is a bad suggestion that the sampler learns from; other failures are not
                diverged = reason.startswith("diverged")
                self.study.tell(number, state=states.PRUNED if diverged else states.FAIL)
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
            command = shlex.join([*kept, *self._overrides(best.params)])
            console.print(
                f"The best on the whole train text, to be judged by a study over further seeds:\n"
                f"  python {PROGRAM} {command}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def _cell(self, number: int, params: Mapping[str, Any]) -> Cell:
        if number in self._cells:
            return self._cells[number]
        config = self._compose(params)
        with hydra_config(config):
            identity = identify(config)
            run = f"{config.name}/{place(config, identity).folder.name}"
        self._values[run] = run_values(config)
        overrides = merged(self.shared, self._overrides(params))
        self._cells[number] = Cell(
            f"trial-{number:03d}", self.definition.seed, run, tuple(overrides), identity.code, processes(config)
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
        return self.composer.prepare([f"{key}={_typed(value)}" for key, value in params.items()])


def _typed(value: Any) -> str:
    """Return a suggested value as typed on the command line, so that exactly the same number is read back."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _typed(value)
