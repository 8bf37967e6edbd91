"""Expand a study's definition or an ordinary sweep into a plan: compose and check every arm, and name every cell."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from charlab.configuration.build import plain
from charlab.configuration.compose import (
    NO_KEYS_OF_A_RUN,
    Composer,
    check_output_folder,
    hydra_config,
    resolve_values,
)
from charlab.configuration.messages import listed, one_sentence
from charlab.errors import UserError
from charlab.quantities import count
from charlab.runs.identity import Identity, fingerprint, meaning, sources
from charlab.runs.store import Store, differences, place
from charlab.studies.cell import write_cell
from charlab.studies.definition import Definition, Rerun, check_names, grid_arms, leaf, read, shortened
from charlab.studies.outcome import cell_path
from charlab.studies.plan import Arm, Cell, Plan

PROGRAM = "scripts/train.py"
# No arm may change these: seeds pair the arms, and a study has a single output folder.
SHARED_KEYS = ("seed", "data.seed", "output_dir", "force", "dry_run", "study", "search", "hydra", "launcher")


class Expansion:
    """Expand the definition of a study into its plan.

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
            console: where to show a progress bar while arms are checked, on a terminal only.

        Raises:
            UserError: if an arm does not compose, equals another arm, or changes a setting that all arms must share.
        """
        definition, sweep = self.definition, not self.definition.arms
        if sweep:
            arms, seeds = self._found()
        else:
            arms, seeds = definition.arms, definition.seeds
            self._check_typed()
        bar = partial(track, console=console, transient=True, disable=console is None or not console.is_terminal)
        configs = [self._compose(arm, seeds[0] if seeds else None) for arm in bar(arms, "composing")]
        for arm in bar(arms, "checking"):  # last: it imports torch, and the checks above do not
            with _naming(arm):
                self.composer.build(1)
        self._configs = {arm.name: config for arm, config in zip(arms, configs, strict=True)}
        seeds = seeds or _common_seed(arms, configs)
        _check_distinct(arms, [_meaning(config) for config in configs])
        self.output_dir = Path(configs[0].output_dir)
        check_output_folder(configs[0], sweep=False)
        base = _windows(configs[0])
        arms = tuple(replace(arm, paired=_windows(config) == base) for arm, config in zip(arms, configs, strict=True))
        found = zip(arms, bar(configs, "looking for runs"), strict=True)
        moved: list[str] = []
        runs = {arm.name: _runs(config, seeds, definition.rerun, moved) for arm, config in found}
        self.notes = [_told(moved)] if moved else []
        _check_distinct(arms, [runs[arm.name][seeds[0]][0].rpartition("/")[2] for arm in arms])
        overrides = [self._overrides(arm) for arm in arms]
        cells = tuple(
            Cell(arm.name, seed, run, (*self.flags, *merged(given, [f"seed={seed}"])), code, processes(config))
            for seed in seeds
            for arm, config, given in zip(arms, configs, overrides, strict=True)
            for run, code in [runs[arm.name][seed]]
        )
        return Plan(
            name=definition.name or self._sweep_name(),
            hypothesis=definition.hypothesis,
            baseline=arms[0].name,
            arms=arms,
            cells=cells,
            seeds=seeds,
            planned_seeds=len(seeds),
            metric=definition.metric,
            protocol=definition.protocol,
            margin=definition.margin,
            budget=definition.budget,
            time_limit=definition.time_limit,
            fail_fast=definition.fail_fast,
            records=definition.records,
            command=command,
            sweep=sweep,
        )

    def write(self, study: Path, cells: Sequence[Cell]) -> None:
        """Write the files of the given cells into the study's folder."""
        for cell in cells:
            config = self._configs[cell.arm]
            config.seed, config.force = cell.seed, "force=true" in cell.overrides
            own = cell.overrides[len(self.flags) :]
            folder = Store(self.output_dir).folder(cell.run)
            write_cell(cell_path(study, cell, ".yaml"), run_values(config), folder, own, cell.code)

    def _overrides(self, arm: Arm) -> list[str]:
        own = self.composer.prepare(arm.overrides)
        shared = self.composer.prepare(self.definition.overrides)
        typed = [override for override in self.given if not read(override).is_sweep_override()]
        return merged(shared, typed, own)

    def _compose(self, arm: Arm, seed: int | None) -> DictConfig:
        for override in arm.overrides:
            key = _key(override)
            if key.partition("/")[0] in SHARED_KEYS or key.partition(".")[0] in SHARED_KEYS or key in SHARED_KEYS:
                raise UserError(f"The arm {arm.name} sets {key}, which all arms of a study share: leave it out there.")
        with _naming(arm):
            config = self.composer.job(
                merged(self._overrides(arm), [] if seed is None else [f"seed={seed}"]), build=False
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


def run_values(config: DictConfig) -> dict[str, Any]:
    """Return the part of a composed configuration that describes a single run, resolved."""
    keys = [str(key) for key in config if key not in ("hydra", *NO_KEYS_OF_A_RUN)]
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
        raise UserError(f"The runs of this sweep have the seeds {listed(map(str, sorted(seeds)), 'and')}: give seed=….")
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


def _meaning(config: DictConfig) -> str:
    """Return what the fingerprint covers except what is slow to determine: the text and the device's precision."""
    with hydra_config(config):
        return json.dumps(meaning(config), sort_keys=True)


def _runs(
    config: DictConfig, seeds: Sequence[int], again: Sequence[Rerun], moved: list[str]
) -> dict[int, tuple[str, str]]:
    """Return for each seed the run's folder relative to that of all runs, and the code's hash.

    If only other code has ended the run, its folder is that of the ended run, unless it is to run again: a run is never
    replaced by one of other code. What differs is then added to `moved`.
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


def _told(moved: Sequence[str]) -> str:
    """Return a message about cells that other code has run, given what differs in each."""
    others = "" if len(set(moved)) == 1 else ", for instance"
    return (
        f"Other code has run {count(len(moved), 'cell')} of this study ({moved[0]}{others}): the former runs are kept, "
        f"and today's code runs {'it' if len(moved) == 1 else 'them'} anew (study.rerun=[] keeps the former figures)."
    )


def _windows(config: DictConfig) -> dict[str, Any]:
    """Return the settings that determine which windows a run sees, and in which order."""
    data = plain(config.data)
    data.pop("path", None)
    return data
