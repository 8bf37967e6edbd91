"""Make the plan of a study or an ordinary sweep from its definition."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import RangeSweep
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from charlab.configuration.build import plain
from charlab.configuration.check import check_output_folder, output_folder
from charlab.configuration.compose import Composer, resolve_values
from charlab.configuration.messages import one_sentence
from charlab.configuration.overrides import SWEEP_KEYS, concerns_sweep, key_of, leaf, shortened
from charlab.configuration.sources import hydra_config
from charlab.errors import UserError
from charlab.quantities import count, joined
from charlab.runs.identity import Identity, fingerprint, sources
from charlab.runs.store import differences, locate
from charlab.studies.definition import Arm, Definition, Rerun, Settings, check_names, grid_arms, read
from charlab.studies.parameters import Tune
from charlab.studies.plan import Cell, Plan

MANY_ARMS = 10  # from this many arms on, announce their checks
MOST_VALUES = 10_000  # of a range
SHARED_KEYS = ("seed", "data.seed", "output_dir", "force")  # seeds pair the arms, and there is one output folder


class Planner:
    """Compose and check every arm of a study or sweep, and name every cell.

    Args:
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
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.definition, self.composer, self.flags = definition, composer, tuple(flags)
        fixed = [f"{key}={value}" for key, value in (params or {}).items()]
        self.given = [override for override in [*fixed, *typed] if key_of(override) != "force"]
        self.output_dir = Path()
        self.notes: list[str] = []  # to be shown before the first cell runs

    def plan(self, command: str, console: Console | None = None) -> Plan:
        """Return the plan.

        Args:
            console: where to show a progress bar while arms are checked, or a line if it is not a terminal.
        """
        definition, sweep = self.definition, not self.definition.arms
        arms, seeds = self._sweep() if sweep else self._study()
        draws = console is not None and console.is_terminal
        if console is not None and not draws and len(arms) >= MANY_ARMS:
            console.print(f"Checking {count(len(arms), 'arm')} …")
        bar = partial(track, console=console, transient=True, disable=not draws)
        configs = [self._compose(arm, seeds[0] if seeds else None) for arm in bar(arms, "composing")]
        for arm in bar(arms, "checking"):  # last: it imports torch, and the checks above do not
            with _naming(arm):
                self.composer.build(1)
        self._configs = {arm.name: config for arm, config in zip(arms, configs, strict=True)}
        seeds = seeds or _common_seed(configs)
        if definition.kind == "scaling":
            _check_sizes(arms, self._configs, definition.held_out)
        for name in definition.tune:
            if not self._configs[name].data.dev_fraction:
                raise UserError(
                    f"study.tune chooses on dev text, and the arm {name} has none: give data.dev_fraction=0.05, for "
                    "instance, in study.overrides; validation text only reports."
                )
        self.output_dir = Path(configs[0].output_dir)
        check_output_folder(output_folder(configs[0], sweep=False))
        base = _windows(configs[0])
        arms = tuple(replace(arm, paired=_windows(self._configs[arm.name]) == base) for arm in arms)
        moved: list[str] = []
        cells = [
            find_cells(arm.name, self._configs[arm.name], seeds, self.overrides(arm), definition.rerun, moved)
            for arm in bar(arms, "looking for runs")
        ]
        if moved:
            self.notes = [f"{edited(moved, 'cell', 'study')} (study.rerun=[] keeps the earlier figures)."]
        _check_distinct(arms, [of_arm[0].fingerprint for of_arm in cells], definition.tune)
        return Plan(
            name=definition.name or self._sweep_name(),
            baseline=arms[0].name,
            arms=arms,
            cells=tuple(
                replace(cell, overrides=(*self.flags, *cell.overrides))
                for of_seed in zip(*cells, strict=True)
                for cell in of_seed
            ),
            seeds=seeds,
            planned_seeds=len(seeds),
            planned_looks=definition.looks,
            command=command,
            sweep=sweep,
            **{field.name: getattr(definition, field.name) for field in fields(Settings)},
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
        """Return the prepared overrides of an arm's cells, except the seed."""
        typed = [override for override in self.given if not read(override).is_sweep_override()]
        return merged(self.composer.prepare(self.definition.overrides), typed, self.composer.prepare(arm.overrides))

    def _compose(self, arm: Arm, seed: int | None) -> DictConfig:
        for key in map(key_of, arm.overrides):
            if is_shared(key):
                raise UserError(f"The arm {arm.name} sets {key}, which all arms of a study share: leave it out there.")
        with _naming(arm):
            overrides = merged(self.overrides(arm), [] if seed is None else [f"seed={seed}"])
            config = self.composer.job(overrides, build=False)
            check_jobs(config, overrides)
        resolve_values(config)
        check_counts(config)
        return config

    def _study(self) -> tuple[tuple[Arm, ...], tuple[int, ...]]:
        """Return the arms and seeds of a study, after checking that nothing typed sets either."""
        for override in self.given:
            if key_of(override) == "seed":
                raise UserError(f"{override} has no place in a study, which sets the seeds: give study.seeds=[…].")
            if read(override).is_sweep_override():
                raise UserError(f"{override} has several values, but a study lists arms in its file: add them there.")
        return self.definition.arms, self.definition.seeds

    def _sweep(self) -> tuple[tuple[Arm, ...], tuple[int, ...]]:
        """Return the arms and seeds of an ordinary sweep; the seeds are empty if none are given."""
        factors = self._factors()
        seeds = tuple(map(_integer, factors.pop("seed", [])))
        arms = grid_arms(factors) if factors else [Arm("only", ())]
        check_names(arms)
        return tuple(arms), seeds

    def _factors(self) -> dict[str, list[str]]:
        """Return the values that an ordinary sweep varies, by key."""
        varied = [override for override in self.given if read(override).is_sweep_override()]
        for override in varied:
            for later in self.given[self.given.index(override) + 1 :]:
                if key_of(later) == key_of(override):
                    raise UserError(f"{key_of(later)} is given twice, by {override} and {later}: keep one of them.")
        return {override.partition("=")[0]: self._expanded(override) for override in varied}

    def _expanded(self, override: str) -> list[str]:
        if not read(override).is_discrete_sweep():
            raise UserError(
                f"{override} is a range to search, but a sweep tries single values: list some, or put the range into a "
                "file conf/search/NAME.yaml and give search=NAME."
            )
        spread = read(override).value()
        try:
            if isinstance(spread, RangeSweep) and not _length(spread) <= MOST_VALUES:
                raise UserError(f"{override} has no end, or more than {MOST_VALUES:,} values: change its end or step.")
            values = [job[0].partition("=")[2] for job in self.composer.expand([override])]
        except UserError:
            raise
        except Exception as error:  # Hydra evaluates the override without catching errors
            raise UserError(f"{override} has no values: {one_sentence(error)}") from None
        if not values:
            raise UserError(f"{override} has no values: nothing matches, or its end comes before its start.")
        for value in values:
            if values.count(value) > 1:
                raise UserError(f"{override} has {value} twice: give each value once.")
        return values

    def _sweep_name(self) -> str:
        """Return a name that depends on what is swept but not on the seeds."""
        kept = sorted(override for override in self.given if key_of(override) != "seed")
        leaves = shortened("+".join(leaf(key) for key in self._factors() if key != "seed") or "one")
        return f"sweep-{leaves}-{hashlib.sha256(repr(kept).encode()).hexdigest()[:4]}"


def check_counts(config: DictConfig) -> None:
    """Check that the runs of a configuration are not only tried out, because what compares runs needs finished ones."""
    debug, trials = config.get("debug"), config.trainer.get("fast_dev_run")
    if debug is not None or trials:
        told = f"debug={debug}" if debug is not None else "trainer.fast_dev_run"
        raise UserError(
            f"Runs with {told} do not count as results, which a study, sweep or search needs: leave it out, or try the "
            "runs one by one with hydra/sweeper=basic."
        )


def check_jobs(config: DictConfig, overrides: Sequence[str]) -> None:
    """Check that neither an experiment nor a study's overrides set what only Hydra's own jobs have.

    What the command line sets of Hydra's is checked before.

    Args:
        overrides: the prepared overrides that make the configuration.
    """
    hydra = config.hydra
    variables = sorted(set(hydra.job.env_set) - set(hydra.job.env_copy))
    for key, value in (("callbacks", hydra.callbacks), ("job.chdir", hydra.job.chdir), ("job.env_set", variables)):
        if value:
            own = [each for each in overrides if key_of(each).startswith(f"hydra.{key}")]
            where = next(iter([*own, *(each for each in overrides if key_of(each) == "experiment")]), "A file")
            way = f", and set {', '.join(variables)} in the environment of the command" if key == "job.env_set" else ""
            raise UserError(
                f"{where} sets hydra.{key}, which is for Hydra's own jobs and not for the runs of a study, sweep or "
                f"search: leave it out there{way}."
            )


def _check_sizes(arms: Sequence[Arm], configs: Mapping[str, DictConfig], held_out: str | None) -> None:
    """Check that the held-out size of a scaling study is larger than those of the fit, in parameters."""
    from charlab.configuration.trial_build import build_model

    sizes: dict[str, dict[str, int]] = {}
    for arm in arms:
        if (model := build_model(run_values(configs[arm.name]))) is not None:
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


def _length(spread: RangeSweep) -> float:
    """Return about how many values a range has; infinity or nan if Hydra would expand it without end."""
    start, stop, step = (float(end or 0.0) for end in (spread.start, spread.stop, spread.step))
    return (stop - start) / step if step else 0.0  # Hydra refuses a step of 0


def _integer(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise UserError(f"seed must be an integer, not {seed!r}.") from None


def _common_seed(configs: Sequence[DictConfig]) -> tuple[int, ...]:
    """Return the single seed of a sweep that does not vary the seed."""
    seeds = {config.seed for config in configs}
    if len(seeds) > 1:
        raise UserError(f"The runs of this sweep have the seeds {joined(list(map(str, sorted(seeds))))}: give seed=….")
    return tuple(seeds)


def _check_distinct(arms: Sequence[Arm], meanings: Sequence[str], tune: Mapping[str, Tune]) -> None:
    """Check that no two arms describe the same run, unless it is still to be tuned differently."""
    seen: dict[str, Arm] = {}
    for arm, meant in zip(arms, meanings, strict=True):
        search = None if arm.tuned else tune.get(arm.name)
        former = seen.setdefault(f"{meant} {search}", arm)
        if former is not arm:
            role = "the baseline" if former is arms[0] else "the arm"
            advice = "let each change something that decides the outcome"
            if arm.tuned or former.tuned:
                advice = "tuning has left no difference, so there is nothing to compare"
            raise UserError(
                f"The arm {arm.name} ({', '.join(arm.overrides) or 'no overrides'}) means the same run as {role} "
                f"{former.name}: {advice}."
            )


def find_cells(
    arm: str,
    config: DictConfig,
    seeds: Sequence[int],
    overrides: Sequence[str],
    again: Sequence[Rerun],
    moved: list[str],
) -> list[Cell]:
    """Return the cell of an arm for each seed, given its composed configuration and the overrides that make it.

    If the run has ended only under different code, the cell uses that run's folder. A cell to be run again gets its own
    folder, because a run never replaces one by different code, and what differs in the code is added to `moved`.
    """
    cells, found_sources = [], None
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    known = isinstance(devices, int) and isinstance(nodes, int) and devices > 0
    with hydra_config(config):
        for seed in seeds:
            config.seed = seed
            found_sources = found_sources or sources(config)
            found = locate(config, Identity(fingerprint(config), found_sources))
            ended = [record for record in found.others if record.status in ("finished", "diverged")]
            folder = found.folder
            if ended and found.record is None:
                if {"edited", "older", "all", ended[-1].status} & set(again):
                    moved.append(differences(ended[-1], found.identity))
                else:
                    folder = ended[-1].folder
            own = tuple(merged(overrides, [f"seed={seed}"]))
            run = f"{config.name}/{folder.name}"
            cells.append(Cell(arm, seed, run, own, found.identity.code, devices * nodes if known else None))
    return cells


def edited(moved: Sequence[str], what: str, whole: str) -> str:
    """Return the beginning of a message about runs by different code, given what differs in each."""
    others = "" if len(set(moved)) == 1 else ", for instance"
    was, them = ("was", "it") if len(moved) == 1 else ("were", "them")
    return (
        f"{count(len(moved), what)} of this {whole} {was} run by different code ({moved[0]}{others}): the earlier runs "
        f"are kept, and today's code runs {them} again"
    )


def _windows(config: DictConfig) -> dict[str, Any]:
    """Return the settings that determine which windows a run sees, and in which order."""
    return {key: value for key, value in plain(config.data).items() if key != "path"}
