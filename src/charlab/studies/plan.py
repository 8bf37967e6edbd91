"""The plan of a study: its question, its arms, and the cells to run; and how a definition becomes one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from charlab.configuration.build import plain
from charlab.configuration.check import check_output_folder, output_folder
from charlab.configuration.compose import Composer, resolve_values
from charlab.configuration.messages import one_sentence
from charlab.configuration.overrides import SWEEP_KEYS, concerns_sweep, leaf, shortened
from charlab.configuration.sources import hydra_config
from charlab.errors import UserError
from charlab.files import write_atomically
from charlab.quantities import count, joined
from charlab.runs.identity import Identity, fingerprint, sources
from charlab.runs.store import differences, place
from charlab.studies.definition import SHARED, Arm, Budget, Definition, Kind, Rerun, check_names, grid_arms, read
from charlab.studies.parameters import Tuned

FILE_NAME = "plan.json"
FORMAT = 1
MANY_ARMS = 10  # whose checks take more than a moment
SHARED_KEYS = ("seed", "data.seed", "output_dir", "force")  # seeds pair the arms, and there is one output folder


@dataclass(frozen=True)
class Cell:
    """One run of a study: an arm with a seed.

    Attributes:
        arm: the arm's name.
        seed: the run's seed.
        run: the run's folder relative to that of all runs, as NAME/FINGERPRINT.
        overrides: arguments of `charlab train` that reproduce this run on its own.
        code: hash of the code that it was planned with; "" if unknown.
        processes: number of processes that train it together; None if it depends on the machine.
    """

    arm: str
    seed: int
    run: str
    overrides: tuple[str, ...]
    code: str = ""
    processes: int | None = 1

    @property
    def key(self) -> str:
        """The cell's name within the study, ARM/SEED."""
        return f"{self.arm}/{self.seed}"

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the run."""
        return self.run.rpartition("/")[2].partition("-")[0]


@dataclass(frozen=True)
class Plan:
    """The plan of a study, saved before its first cell runs.

    Attributes:
        name: name of the study and its folder.
        hypothesis: the sentence to be supported or refuted; "" for a sweep without one.
        baseline: name of the arm that the others are compared with.
        arms: all arms, baseline first.
        cells: arms × seeds, seed by seed, so that a study cut short has complete pairs.
        seeds: seeds that each arm runs with.
        planned_seeds: number of seeds when the first cell ran; a study with more is exploratory.
        looks: number of finished seeds at each report so far, recorded when it changes.
        planned_looks: number of seeds at each planned look; empty for a study that is tested once.
        kind: "comparison" of the arms, or "scaling" for a law over their sizes.
        held_out: the size of a scaling study that takes no part in the fit.
        against: what a size is measured by.
        metric: the metric to compare, lower is better: "nll", in nats per character, or the optimizer steps or seconds
            of training to a target, "steps_to" or "seconds_to".
        target: the loss to reach, in nats per character; None if the metric is no time to a target.
        protocol: the evaluation protocol.
        margin: the smallest difference that matters, in the metric's unit; of times, a ratio.
        budget: the cost that the arms must share.
        time_limit: seconds after which a cell is stopped; None for no limit.
        fail_fast: whether to start no more cells after the first failure.
        records: folder searched for finished runs, in addition to the output folder.
        command: arguments of `charlab train` that run the study again; former plans name `scripts/train.py` first.
        sweep: whether it is an ordinary sweep, without hypothesis and expectations.
        amendments: one sentence for each change after the first cell ran; a study with any is exploratory.
    """

    name: str
    hypothesis: str
    baseline: str
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    planned_seeds: int
    looks: tuple[int, ...] = ()
    planned_looks: tuple[int, ...] = ()
    kind: Kind = "comparison"
    held_out: str | None = None
    against: Literal["parameters", "flops"] = "parameters"
    metric: str = "nll"
    target: float | None = None
    protocol: str = "blocks"
    margin: float = 0.01
    budget: Budget = "steps"
    time_limit: float | None = None
    fail_fast: bool = False
    records: str = "records"
    command: str = ""
    sweep: bool = False
    amendments: tuple[str, ...] = ()

    @property
    def exploratory(self) -> bool:
        """Whether the plan changed after the first cell ran or has no hypothesis; verdicts are then only suggestive."""
        return self.sweep or bool(self.amendments) or len(self.seeds) > self.planned_seeds

    @property
    def compares(self) -> bool:
        """Whether arms are compared with a baseline; a sweep with one seed or one arm is only described."""
        return self.kind == "comparison" and (not self.sweep or min(len(self.arms), len(self.seeds)) > 1)

    def continuing(self, former: Plan) -> Plan:
        """Return this plan with the history of a former plan of the same study.

        A plan that shares no run with the former one is a different study, even with the same name, unless its arms
        were tuned anew.

        Args:
            former: the plan that cells have already been run by.
        """
        tuned = any(arm.tuned for arm in self.arms) and any(arm.tuned for arm in former.arms)
        if not tuned and not {cell.run for cell in self.cells} & {cell.run for cell in former.cells}:
            return self
        amendments = (*former.amendments, *_amendments(former, self))
        return replace(
            self,
            planned_seeds=former.planned_seeds,
            looks=former.looks,
            amendments=tuple(dict.fromkeys(amendments)),
        )

    def cell(self, key: str) -> Cell:
        """Return the cell with a key of the form ARM/SEED."""
        return next(cell for cell in self.cells if cell.key == key)

    def arm(self, name: str) -> Arm:
        """Return the arm with that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def save(self, folder: Path) -> None:
        """Write the plan into the study's folder, atomically."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / FILE_NAME, lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read the plan from a study's folder.

        Raises:
            UserError: if the plan does not exist, is corrupt or has another version.
        """
        path = folder / FILE_NAME
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if fields.pop("format") != FORMAT:
                raise UserError(f"{path} was written by another version of charlab: read it with that one.")
            fields["arms"] = tuple(map(_read_arm, fields["arms"]))
            for cell in fields["cells"]:
                cell.pop("former", None)  # written for a while
            fields["cells"] = tuple(Cell(**{**cell, "overrides": tuple(cell["overrides"])}) for cell in fields["cells"])
            listed = {key: tuple(fields.get(key, ())) for key in ("seeds", "looks", "planned_looks", "amendments")}
            return cls(**{**fields, **listed})
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"There is no study in {folder}: name a folder that holds a {FILE_NAME}.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is corrupt: delete it and give the study's command again.") from error


def _read_arm(saved: Mapping[str, Any]) -> Arm:
    tuned = Tuned.of(saved["tuned"]) if saved.get("tuned") else None
    return Arm(**{**saved, "overrides": tuple(saved["overrides"]), "tuned": tuned})


def _amendments(former: Plan, plan: Plan) -> list[str]:
    """Return a sentence for each changed setting that affects verdicts."""
    said = [
        f"The {name} was {_shown(getattr(former, name))} at first, and is now {_shown(getattr(plan, name))}."
        for name in (
            "hypothesis",
            "baseline",
            "kind",
            "held_out",
            "against",
            "metric",
            "target",
            "protocol",
            "margin",
            "budget",
        )
        if getattr(former, name) != getattr(plan, name)
    ]
    if former.planned_looks != plan.planned_looks:
        said.append(f"Looks were planned {_planned(former)} at first, and are now {_planned(plan)}.")
    arms, runs = {arm.name: arm for arm in former.arms}, _runs_by_arm(former)
    for arm in plan.arms:
        before = arms.pop(arm.name, None)
        if before is None:
            said.append(f"The arm {arm.name} was added.")
        elif before.expect != arm.expect:
            said.append(f"The arm {arm.name} was expected to {before.expect} at first, and is now to {arm.expect}.")
        if before is not None and any(_runs_by_arm(plan)[arm.name].get(s, r) != r for s, r in runs[arm.name].items()):
            said.append(f"The arm {arm.name} was changed.")
    return [*said, *(f"The arm {name} was left out." for name in arms)]


def _runs_by_arm(plan: Plan) -> dict[str, dict[int, str]]:
    """Return the runs' folders by arm and seed."""
    return {arm.name: {cell.seed: cell.run for cell in plan.cells if cell.arm == arm.name} for arm in plan.arms}


def _planned(plan: Plan) -> str:
    return f"after {joined([str(look) for look in plan.planned_looks])} seeds" if plan.planned_looks else "nowhere"


def _shown(value: object) -> str:
    return f"“{value}”" if isinstance(value, str) else str(value)


class Planner:
    """Make the plan of a study or an ordinary sweep: compose and check every arm, and name every cell.

    Args:
        definition: the study's definition.
        composer: composer of the training program.
        typed: prepared overrides for every cell; those of an ordinary sweep may have several values.
        flags: command-line options that every cell needs, such as `--config-dir`.
        params: values that a configuration file sweeps over, by key.
    """

    def __init__(
        self,
        definition: Definition,
        composer: Composer,
        typed: Sequence[str],
        flags: Sequence[str] = (),
        params: Any = None,
    ) -> None:
        self.definition, self.composer, self.flags = definition, composer, tuple(flags)
        fixed = [f"{key}={value}" for key, value in (params or {}).items()]
        self.given = [override for override in [*fixed, *typed] if _key(override) != "force"]
        self.output_dir = Path()
        self.notes: list[str] = []  # to be shown before anything else, once there is a plan

    def plan(self, command: str, console: Console | None = None) -> Plan:
        """Return the plan.

        Args:
            command: the command that runs the study again.
            console: where to show a progress bar while arms are checked, or a line where there is no terminal.

        Raises:
            UserError: if an arm does not compose, equals another arm, or changes a setting that all arms must share.
        """
        definition, sweep = self.definition, not self.definition.arms
        if sweep:
            arms, seeds = self._found()
        else:
            arms, seeds = definition.arms, definition.seeds
            self._check_typed()
        draws = console is not None and console.is_terminal
        if console is not None and not draws and len(arms) >= MANY_ARMS:
            console.print(f"Checking {count(len(arms), 'arm')} …")
        bar = partial(track, console=console, transient=True, disable=not draws)
        configs = [self._compose(arm, seeds[0] if seeds else None) for arm in bar(arms, "composing")]
        for arm in bar(arms, "checking"):  # last: it imports torch, and the checks above do not
            with _naming(arm):
                self.composer.build(1)
        self._configs = {arm.name: config for arm, config in zip(arms, configs, strict=True)}
        seeds = seeds or _common_seed(arms, configs)
        if definition.kind == "scaling":
            _check_sizes(arms, configs, definition.held_out)
        for arm, config in zip(arms, configs, strict=True):
            if arm.name in definition.tune and not config.data.dev_fraction:
                raise UserError(
                    f"study.tune chooses on dev text, and the arm {arm.name} has none: give data.dev_fraction=0.05, "
                    "for instance, in study.overrides; validation text only reports."
                )
        self.output_dir = Path(configs[0].output_dir)
        check_output_folder(output_folder(configs[0], sweep=False))
        base = _windows(configs[0])
        arms = tuple(replace(arm, paired=_windows(config) == base) for arm, config in zip(arms, configs, strict=True))
        found = zip(arms, bar(configs, "looking for runs"), strict=True)
        moved: list[str] = []
        runs = {arm.name: find_runs(config, seeds, definition.rerun, moved) for arm, config in found}
        if moved:
            self.notes = [f"{edited(moved, 'cell', 'study')} (study.rerun=[] keeps the former figures)."]
        _check_distinct(arms, [runs[arm.name][seeds[0]][0].rpartition("/")[2] for arm in arms])
        overrides = [self.overrides(arm) for arm in arms]
        cells = tuple(
            Cell(arm.name, seed, run, (*self.flags, *merged(given, [f"seed={seed}"])), code, processes(config))
            for seed in seeds
            for arm, config, given in zip(arms, configs, overrides, strict=True)
            for run, code in [runs[arm.name][seed]]
        )
        return Plan(
            name=definition.name or self._sweep_name(),
            baseline=arms[0].name,
            arms=arms,
            cells=cells,
            seeds=seeds,
            planned_seeds=len(seeds),
            planned_looks=definition.looks,
            command=command,
            sweep=sweep,
            **{key: getattr(definition, key) for key in (*SHARED, "time_limit", "fail_fast")},
        )

    def values(self, cell: Cell) -> dict[str, Any]:
        """Return the configuration of a cell of the plan, as plain dictionaries and lists."""
        config = self._configs[cell.arm]
        config.seed, config.force = cell.seed, "force=true" in cell.overrides
        return run_values(config)

    @property
    def may_use_gpus(self) -> bool:
        """Whether cells of the plan may compute on a GPU."""
        return any(config.trainer.accelerator != "cpu" for config in self._configs.values())

    def overrides(self, arm: Arm) -> list[str]:
        """Return the prepared overrides of an arm's cells, but for the seed."""
        own = self.composer.prepare(arm.overrides)
        shared = self.composer.prepare(self.definition.overrides)
        typed = [override for override in self.given if not read(override).is_sweep_override()]
        return merged(shared, typed, own)

    def _compose(self, arm: Arm, seed: int | None) -> DictConfig:
        for override in arm.overrides:
            if is_shared(key := _key(override)):
                raise UserError(f"The arm {arm.name} sets {key}, which all arms of a study share: leave it out there.")
        with _naming(arm):
            config = self.composer.job(
                merged(self.overrides(arm), [] if seed is None else [f"seed={seed}"]), build=False
            )
        with hydra_config(config):
            resolve_values(config)
        return config

    def _check_typed(self) -> None:
        for override in self.given:
            if _key(override) == "seed":
                raise UserError(f"{override} has no place in a study, which sets the seeds: give study.seeds=[…].")
            if read(override).is_sweep_override():
                raise UserError(f"{override} has several values, but a study's arms stand in its file: add them there.")

    def _found(self) -> tuple[tuple[Arm, ...], tuple[int, ...]]:
        """Return the arms and seeds of an ordinary sweep; the seeds are empty if none are given."""
        factors = self._factors()
        seeds = tuple(_integer(seed) for seed in factors.pop("seed", []))
        arms = grid_arms(factors) if factors else [Arm("only", ())]
        check_names(arms)
        return tuple(arms), seeds

    def _factors(self) -> dict[str, list[str]]:
        """Return the values that an ordinary sweep varies, by key.

        Raises:
            UserError: if values cannot be expanded, or a value is given twice.
        """
        varied = [override for override in self.given if read(override).is_sweep_override()]
        for override in varied:
            for later in self.given[self.given.index(override) + 1 :]:
                if _key(later) == _key(override):
                    raise UserError(f"{_key(override)} is given twice, by {override} and {later}: keep one of them.")
        return {override.partition("=")[0]: self._values(override) for override in varied}

    def _values(self, override: str) -> list[str]:
        if not read(override).is_discrete_sweep():
            raise UserError(
                f"{override} is a range to search, but a sweep tries single values: list some, or put the range into a "
                "file conf/search/NAME.yaml and give search=NAME."
            )
        try:
            values = [job[0].partition("=")[2] for job in self.composer.expand([override])]
        except UserError:
            raise
        except Exception as error:  # Hydra evaluates the override without catching errors
            raise UserError(f"{override} has no values: {one_sentence(error)}") from None
        if not values:
            raise UserError(f"{override} has no values: nothing matches, or its end comes before its start.")
        for i, value in enumerate(values):
            if value in values[:i]:
                raise UserError(f"{override} has {value} twice: give each value once.")
        return values

    def _sweep_name(self) -> str:
        """Return a name that depends on what is swept but not on the seeds."""
        kept = sorted(override for override in self.given if _key(override) != "seed")
        leaves = shortened("+".join(leaf(key) for key in self._factors() if key != "seed") or "one")
        return f"sweep-{leaves}-{hashlib.sha256(repr(kept).encode()).hexdigest()[:4]}"


def _check_sizes(arms: Sequence[Arm], configs: Sequence[DictConfig], held_out: str | None) -> None:
    """Check that the held-out size of a scaling study is larger than those of the fit, in parameters.

    Raises:
        UserError: if it is not, for any family; models whose size is only known when they train are not checked.
    """
    from charlab.configuration.trial_build import build_model

    sizes: dict[str, dict[str, int]] = {}
    for arm, config in zip(arms, configs, strict=True):
        if (model := build_model(run_values(config))) is not None:
            number = sum(parameter.numel() for parameter in model.parameters())
            sizes.setdefault(arm.factors["family"], {})[arm.factors["size"]] = number
    for family, found in sizes.items():
        largest = max((number, size) for size, number in found.items() if size != held_out)
        if held_out in found and found[held_out] <= largest[0]:
            raise UserError(
                f"study.held_out={held_out} has {found[held_out]:,} parameters with {family}, but {largest[1]} has "
                f"{largest[0]:,} and takes part in the fit: hold out the largest size."
            )
        if len(set(found.values())) < len(found):
            raise UserError(f"Two of study.sizes have the same number of parameters with {family}: make them differ.")


def is_shared(key: str) -> bool:
    """Return whether all cells of a study or search share a key, so that neither an arm nor a trial may set it."""
    return key in SHARED_KEYS or concerns_sweep(key)


def run_values(config: DictConfig) -> dict[str, Any]:
    """Return the part of a composed configuration that describes a single run, resolved."""
    keys = [str(key) for key in config if key not in ("hydra", *SWEEP_KEYS)]
    with hydra_config(config):
        return plain(OmegaConf.masked_copy(config, keys))


def processes(config: DictConfig) -> int | None:
    """Return the number of processes of a run; None if it depends on the machine."""
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    return devices * nodes if isinstance(devices, int) and isinstance(nodes, int) and devices > 0 else None


@contextmanager
def _naming(arm: Arm) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"The arm {arm.name} does not compose: {error}") from None


def merged(*groups: Sequence[str]) -> list[str]:
    """Concatenate groups of overrides, keeping only the last one of each key: Hydra accepts each group once."""
    by_key: dict[str, str] = {}
    for override in [override for group in groups for override in group]:
        key = override.partition("=")[0]
        by_key.pop(key, None)
        by_key[key] = override
    return list(by_key.values())


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _integer(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise UserError(f"seed must be an integer, not {seed!r}.") from None


def _common_seed(arms: Sequence[Arm], configs: Sequence[DictConfig]) -> tuple[int, ...]:
    """Return the single seed of a sweep that does not vary the seed."""
    seeds = {config.seed for config in configs}
    if len(seeds) > 1:
        raise UserError(f"The runs of this sweep have the seeds {joined(list(map(str, sorted(seeds))))}: give seed=….")
    return tuple(seeds)


def _check_distinct(arms: Sequence[Arm], meanings: Sequence[str]) -> None:
    """Check that no two arms describe the same run."""
    seen: dict[str, Arm] = {}
    for arm, meant in zip(arms, meanings, strict=True):
        former = seen.setdefault(meant, arm)
        if former is not arm:
            role = "the baseline" if former is arms[0] else "the arm"
            raise UserError(
                f"The arm {arm.name} ({', '.join(arm.overrides) or 'no overrides'}) means the same run as {role} "
                f"{former.name}: let each change something that decides the outcome."
            )


def find_runs(
    config: DictConfig, seeds: Sequence[int], again: Sequence[Rerun], moved: list[str]
) -> dict[int, tuple[str, str]]:
    """Return for each seed the run's folder relative to that of all runs, and the code's hash.

    If only other code has ended the run, its folder is that of the ended run, unless it is to run again: a run is never
    replaced by one of other code. What differs is then added to `moved`.

    Args:
        config: the composed configuration of a run, whose seed is replaced.
        seeds: the seeds.
        again: which runs to run again.
        moved: list to add to.
    """
    runs: dict[int, tuple[str, str]] = {}
    found_sources = None
    with hydra_config(config):
        for seed in seeds:
            config.seed = seed
            found_sources = found_sources or sources(config)
            found = place(config, Identity(fingerprint(config), found_sources))
            ended = [record for record in found.others if record.status in ("finished", "diverged")]
            folder = found.folder
            if ended and found.record is None:
                if {"edited", "older", "all", ended[-1].status} & set(again):
                    moved.append(differences(ended[-1], found.identity))
                else:
                    folder = ended[-1].folder
            runs[seed] = f"{config.name}/{folder.name}", found.identity.code
    return runs


def edited(moved: Sequence[str], what: str, whole: str) -> str:
    """Return the beginning of a message about runs that other code has ended, given what differs in each."""
    others = "" if len(set(moved)) == 1 else ", for instance"
    return (
        f"Other code has run {count(len(moved), what)} of this {whole} ({moved[0]}{others}): the former runs are kept, "
        f"and today's code runs {'it' if len(moved) == 1 else 'them'} anew"
    )


def _windows(config: DictConfig) -> dict[str, Any]:
    """Return the settings that determine which windows a run sees, and in which order."""
    data = plain(config.data)
    data.pop("path", None)
    return data
