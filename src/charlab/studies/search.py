"""Search for hyperparameters: run Optuna's trials as cells and compare their loss on dev text."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from charlab.command import command
from charlab.configuration.check import check_output_folder, output_folder
from charlab.configuration.compose import Composer, resolve_values
from charlab.configuration.overrides import key_of
from charlab.errors import UserError
from charlab.runs.store import Store
from charlab.seeding import derive_seed
from charlab.studies.cell import write_cell
from charlab.studies.definition import Arm, check_folder_name, in_file, settings, typed
from charlab.studies.display import showing
from charlab.studies.executors import Executor
from charlab.studies.outcomes import STOP_FILE, Outcome, allows_more, cell_path, last_line, sweeping
from charlab.studies.parameters import NOT_ON_REPORTED_TEXT, Parameter, read_parameters
from charlab.studies.plan import Cell, Plan, write_json
from charlab.studies.planner import check_counts, check_jobs, edited, find_cells, is_shared, merged, run_values
from charlab.types import PositiveFloat, PositiveInt

STORAGE = "trials.json"
BEST_SHOWN = 10
NOT_FINITE = "has no finite loss"
MIXED = "Exact losses and upper bounds (≤) were compared: a loss may be below its bound, so another trial may be best."
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
        seeds: seeds of each trial, over which its loss is averaged; the first also seeds the sampler.
        at_once: number of trials at a time; None for as many as the executor runs.
    """

    name: str
    parameters: Mapping[str, Parameter]
    trials: int
    seeds: tuple[int, ...]
    time_limit: float | None
    overrides: tuple[str, ...] = ()
    at_once: int | None = None


def define_search(node: DictConfig, choice: str) -> SearchDefinition:
    """Return the search that the node `search` of a configuration describes."""
    values, where = settings(node, "search", choice, TYPES), in_file("search", choice)
    if values["split"] != "dev":
        raise UserError(f"search.split={values['split']}{where} {NOT_ON_REPORTED_TEXT}")
    name = values["name"] or choice.replace("/", "-")
    check_folder_name(name, f"search.name={name!r} is not")
    parameters = read_parameters(values["parameters"], "search.parameters", where)
    check_own(parameters, "search.parameters", where)
    for override in values["overrides"]:
        if key_of(override) in parameters:
            raise UserError(f"search.overrides{where} has {override}, which is searched: leave it out there.")
    return SearchDefinition(
        name=name,
        parameters=parameters,
        trials=values["trials"],
        seeds=(values["seed"],),
        time_limit=values["time_limit"],
        overrides=(*values["overrides"], f"data.dev_fraction={values['dev_fraction']}"),
        at_once=values["at_once"],
    )


def check_own(parameters: Mapping[str, Parameter], given: str, where: str) -> None:
    """Check that trials may differ in these parameters."""
    for key in parameters:
        if is_shared(key) or key == "data.dev_fraction":
            raise UserError(f"{given}{where} has {key}, which all trials of a search share: leave it out.")


def search(
    config: DictConfig,
    composer: Composer,
    typed: Sequence[str],
    flags: Sequence[str],
    executor: Executor,
    console: Console,
) -> None:
    """Run the chosen search until it has the requested number of trials, then print the best ones; see `sweep`.

    Raises:
        SystemExit: with code 1, if no trial has a result.
    """
    if config.dry_run:
        raise UserError("dry_run=true shows the runs of a study; what a search will try is not known yet.")
    definition = define_search(config.search, config.hydra.runtime.choices.search)
    trials = Trials(definition, composer, typed)
    executor.check(trials.output_dir)
    with executor:
        trials.run(executor, console)
        trials.print(console, flags)
    if not trials.ranked():
        raise SystemExit(1)


class Trial(NamedTuple):
    """A trial: its values by key, its cells, and its mean loss or the reason why it has none.

    It has neither if some of its cells are to run, or to be resumed.
    """

    number: int
    values: dict[str, Any]
    cells: tuple[Cell, ...]
    loss: float | None
    reason: str | None

    @property
    def ended(self) -> bool:
        """Whether it has a result, or will never have one."""
        return self.loss is not None or self.reason is not None


class Trials:
    """The trials of a search; a file in its folder keeps their values, and the records of their runs the results.

    Args:
        typed: prepared overrides of all trials.
        retry: whether trials that an earlier command left killed, or out of a time that is longer now, run again.
    """

    def __init__(
        self, definition: SearchDefinition, composer: Composer, typed: Sequence[str], *, retry: bool = True
    ) -> None:
        self.definition, self.composer, self.retry = definition, composer, retry
        self._ran: set[str] = set()  # runs that this command has started
        self._tried: list[dict[str, Any]] = []  # values by trial
        self._cells: list[tuple[Cell, ...]] = []  # cells by trial
        self._configs: dict[str, dict[str, Any]] = {}  # by run
        self._moved: list[str] = []  # what differs in the code, for each run that ended under other code
        seed = f"seed={definition.seeds[0]}"
        self.shared = merged(composer.prepare(definition.overrides), typed, [seed])
        searched = asdict(definition)["parameters"]
        meant = [searched, definition.seeds[0], "dev", self.shared, *definition.seeds[1:]]
        self._meant = json.dumps(meant, sort_keys=True)
        config = self._compose({key: parameter.example for key, parameter in definition.parameters.items()})
        check_output_folder(output_folder(config, sweep=False))
        self.output_dir = Path(config.output_dir)
        self.folder = self.output_dir.absolute() / "searches" / definition.name

    def run(self, executor: Executor, console: Console) -> None:
        """Run trials until all have ended, or stop after a batch in which one was interrupted."""
        with sweeping(self.folder):
            self.open(console)
            (self.folder / STOP_FILE).unlink(missing_ok=True)
            at_once = self.definition.at_once or -(-executor.at_once // len(self.definition.seeds))
            while batch := self._next(at_once):
                by_run = {cell.run: cell for trial in batch for cell in self._cells[trial]}  # equal values share a run
                self._ran.update(by_run)
                for cell in (cell for trial in batch for cell in self._cells[trial]):
                    cell_path(self.folder, cell, ".json").unlink(missing_ok=True)  # a cell that never begins has none
                cells = tuple(by_run.values())
                self._plan(cells).save(self.folder)
                with showing(self.folder, cells, console):
                    for cell in cells:
                        file, run = cell_path(self.folder, cell, ".yaml"), Store(self.output_dir).folder(cell.run)
                        write_cell(file, self._configs[cell.run], run, cell.overrides, cell.code, split="dev")
                    executor.run(self.folder, cells)
                trials = self.all()
                if not all(trials[number].ended for number in batch):
                    break

    def open(self, console: Console) -> None:
        """Read the values tried so far, and print which trials run again because their code has changed."""
        file = self.folder / STORAGE
        try:
            saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            former, tried = saved.get("meant", self._meant), [dict(values) for values in saved.get("trials", [])]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{file} is corrupt: delete it to start the search over.") from error
        if former != self._meant:
            raise UserError(
                f"The search in {self.folder} has other parameters or settings: give another search.name, or "
                "study.name if it tunes the arm of a study."
            )
        for values in tried:
            self._add(values)
        if self._moved:
            note = f"{edited(self._moved, 'trial', 'search')}."
            console.print(note, soft_wrap=True, markup=False, highlight=False)

    def _next(self, count: int) -> list[int]:
        """Return the numbers of up to `count` trials to run next: unfinished ones first, then new suggestions."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study, states = optuna.create_study(direction="minimize"), optuna.trial.TrialState
        spaces = {key: parameter.distribution() for key, parameter in self.definition.parameters.items()}
        numbers = []
        for trial in self.all():
            state = states.COMPLETE
            if trial.loss is None:  # the sampler learns from a loss that is not finite, but from no other failure
                state = states.PRUNED if (trial.reason or "").startswith(("diverged", NOT_FINITE)) else states.FAIL
            if not trial.ended:
                state = states.RUNNING
                numbers.append(trial.number)
            study.add_trial(
                optuna.trial.create_trial(state=state, value=trial.loss, params=trial.values, distributions=spaces)
            )
        random_trials = min(10, max(3, self.definition.trials // 3))
        while len(numbers) < count and len(self._tried) < self.definition.trials:
            number = len(self._tried)
            # One sampler per trial, so that suggestions do not depend on interruptions of the search.
            seed = derive_seed(self.definition.seeds[0], f"suggestion of trial {number}") % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=random_trials)
            self._add(study.ask(spaces).params)
            numbers.append(number)
        write_json(self.folder / STORAGE, {"meant": self._meant, "trials": self._tried})
        return numbers

    def _add(self, values: Mapping[str, Any]) -> None:
        """Add a trial with these values and a cell for each seed."""
        config, overrides = self._compose(values), merged(self.shared, self._overrides(values))
        name = f"trial-{len(self._tried):03d}"
        cells = find_cells(name, config, self.definition.seeds, overrides, ["edited"], self._moved)
        for cell in cells:
            config.seed = cell.seed
            self._configs[cell.run] = run_values(config)
        self._tried.append(dict(values))
        self._cells.append(tuple(cells))

    def _plan(self, cells: tuple[Cell, ...]) -> Plan:
        """Return the plan that `run_cell` needs."""
        return Plan(
            name=self.definition.name,
            baseline=cells[0].arm,
            arms=tuple(Arm(name, ()) for name in dict.fromkeys(cell.arm for cell in cells)),
            cells=cells,
            seeds=self.definition.seeds,
            planned_seeds=len(self.definition.seeds),
            time_limit=self.definition.time_limit,
            sweep=True,
        )

    def all(self) -> list[Trial]:
        """Return all trials so far with their results."""
        found = []
        for number, (values, cells) in enumerate(zip(self._tried, self._cells, strict=True)):
            losses, reasons = zip(*map(self._result, cells), strict=True)
            reason = next(filter(None, reasons), None)
            loss = None if None in losses or reason is not None else statistics.fmean(losses)
            found.append(Trial(number, values, cells, loss, reason))
        return found

    def _result(self, cell: Cell) -> tuple[float | None, str | None]:
        """Return a cell's loss in nats per character, or the reason why it has none; neither if it is to run."""
        record = Store(self.output_dir).record_of(cell.run)
        if record is not None and record.status == "finished":
            if record.causality.get("leaks"):
                return None, "leaks: it sees what it predicts"
            try:
                figure = record.metric("blocks", "dev")
            except UserError as error:
                return None, str(error)
            loss = figure["nll"]
            finite = loss is not None and math.isfinite(loss)
            return (loss, None) if finite else (None, f"{NOT_FINITE}: {figure.get('reason', 'no reason known')}")
        same = (other for cells in self._cells for other in cells if other.run == cell.run)  # of trials of equal values
        outcomes = (Outcome.load(self.folder, one) for one in (cell, *same))
        outcome = next((found for found in outcomes if found is not None), None)
        if outcome is None or outcome.fate in ("interrupted", "running", "finished"):
            return None, None
        if self.retry and cell.run not in self._ran:  # once for each command, since a model may be too large
            longer = outcome.fate == "timed out" and allows_more(self.definition.time_limit, outcome.seconds)
            if outcome.fate == "killed" or longer:
                return None, None
        return None, f"{outcome.fate}: {last_line(outcome.reason) or 'no reason known'}"

    def ranked(self) -> list[Trial]:
        """Return the trials with a result, those with the lowest loss first."""
        return sorted((trial for trial in self.all() if trial.loss is not None), key=attrgetter("loss"))

    def print(self, console: Console, flags: Sequence[str]) -> None:
        """Print the best trials, why others have no result, and the command that trains the best one again."""
        trials, parameters = self.all(), list(self.definition.parameters)
        done = self.ranked()
        table = Table("trial", "nats/char (dev)", *parameters, box=None, pad_edge=False)
        table.add_column("run", overflow="fold")
        for trial in done[:BEST_SHOWN]:
            values = [_text(trial.values[key]) for key in parameters]
            loss = f"{'≤ ' * self._is_bound(trial)}{trial.loss:.4f}"
            table.add_row(str(trial.number), loss, *map(escape, [*values, trial.cells[0].run]))
        console.print(table)
        lines = [
            f"trial {trial.number} ({_shown(trial.values)}) {trial.reason or 'has not ended'}"
            for trial in trials
            if trial.loss is None
        ]
        ended = sum(trial.ended for trial in trials)
        lines.append(f"{ended} of {self.definition.trials} trials, {len(done)} with a result.")
        if self.mixes_bounds(done):
            lines.append(MIXED)
        if done:
            kept = [override for override in self.shared if not override.startswith(("data.dev_fraction=", "seed="))]
            again = command("train", *flags, *kept, *self._overrides(done[0].values))
            lines.append(f"The best on the whole train text, to be judged by a study over further seeds:\n  {again}")
        for line in lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def mixes_bounds(self, trials: Sequence[Trial]) -> bool:
        """Return whether the losses of some of these trials are upper bounds, and those of others exact."""
        return len({self._is_bound(trial) for trial in trials if trial.loss is not None}) > 1

    def _is_bound(self, trial: Trial) -> bool:
        """Return whether the loss of a trial with a result is an upper bound."""
        records = (Store(self.output_dir).record_of(cell.run) for cell in trial.cells)
        figures = (record.metric("blocks", "dev") for record in records if record is not None)
        return any(figure.get("likelihood") == "bound" for figure in figures)

    def _compose(self, values: Mapping[str, Any]) -> DictConfig:
        try:
            overrides = merged(self.shared, self._overrides(values))
            config = self.composer.job(overrides)
            check_jobs(config, overrides)
        except UserError as error:
            raise UserError(f"A trial of the search with {_shown(values)} does not compose: {error}") from None
        resolve_values(config)
        check_counts(config)
        return config

    def _overrides(self, values: Mapping[str, Any]) -> list[str]:
        return self.composer.prepare([f"{key}={typed(value)}" for key, value in values.items()])


def _shown(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_text(value)}" for key, value in values.items())


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else typed(value)
