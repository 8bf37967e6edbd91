"""Compose configurations with Hydra and check them.

>>> config = compose(["experiment=part1/bigram", "trainer.max_steps=100"])
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, cast

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from charlab.command import command
from charlab.configuration.build import HYDRA_1_4
from charlab.configuration.check import check_constructions, check_parts, check_values, resolved
from charlab.configuration.messages import COMPOSITION_ERRORS, one_sentence
from charlab.configuration.overrides import (
    SWEEP_KEYS,
    concerns_sweep,
    key_of,
    parse,
    prepare,
    quoted,
    translate,
    typed_value,
)
from charlab.configuration.sources import (
    FURTHER,
    VERSION_BASE,
    Composition,
    conf_folder,
    defaults_list,
    hydra_config,
    hydra_state,
    user_conf_folder,
)
from charlab.configuration.value_types import VALUES
from charlab.errors import UserError


def compose(
    overrides: Sequence[str] = (),
    config_name: str = "train",
    *,
    return_hydra_config: bool = False,
    config_dir: str | None = None,
) -> DictConfig:
    """Return a composed and checked configuration, or raise `UserError`.

    Safe to call repeatedly and from within another Hydra application, whose global state it leaves unchanged.

    Args:
        overrides: overrides as typed after `charlab train`.
        config_name: name of the program's configuration: train, evaluate, generate, report or export.
        return_hydra_config: whether to include Hydra's own node, which has the run's folder (`hydra.run.dir`).
        config_dir: an additional folder of configuration files.
    """
    composer = Composer(config_name, config_dir=config_dir)
    config = composer.job(composer.prepare(overrides))
    resolve_values(config)
    if not return_hydra_config:
        with open_dict(config):
            del config["hydra"]
    return config


def config_loader(folder: Path | None = None, config_dir: str | None = None) -> ConfigLoader:
    """Return Hydra's loader for a folder of configuration files, charlab's own by default.

    The folder `config_dir` is searched as well, and so is a folder `conf` in the working directory, of which a message
    tells (see `hydra_plugins/charlab_search_path.py`).
    """
    further = user_conf_folder() if folder is None else None
    if further is not None and any((further / group.name).is_dir() for group in conf_folder().iterdir()):
        _tell_once(f"Options are read from {further} as well.")
    token = FURTHER.set(None if config_dir is None else Path(config_dir).resolve())
    try:
        with hydra_state():
            GlobalHydra.instance().clear()
            with initialize_config_dir(str((folder or conf_folder()).resolve()), job_name="charlab", **VERSION_BASE):
                return GlobalHydra.instance().config_loader()
    finally:
        FURTHER.reset(token)


class Composer:
    """Compose and check the configurations of one program; all methods but `prepare` take prepared overrides.

    Args:
        config_name: name of the program's configuration, such as train.
        loader: loader of the configuration files; by default, of charlab's own and those in the working directory.
        values: types of the values that are not constructor arguments, by dotted key; by default, the program's.
        config_dir: an additional folder of configuration files, as for Hydra's `--config-dir`.
    """

    def __init__(
        self,
        config_name: str = "train",
        loader: ConfigLoader | None = None,
        values: Mapping[str, Any] | None = None,
        config_dir: str | None = None,
    ) -> None:
        self.config_name, self.loader = config_name, loader or config_loader(config_dir=config_dir)
        self.values = VALUES[config_name] if values is None else values
        self.config_dir = config_dir
        self._unbuilt: list[tuple[dict[str, Any], Composition]] = []

    def prepare(self, overrides: Sequence[str]) -> list[str]:
        """Translate former names and return the overrides in Hydra's grammar; see `configuration.overrides.prepare`."""
        overrides, notes = translate(overrides)
        for note in notes:
            _tell_once(note)
        groups, list_groups = self._groups
        return [prepare(override, list_groups, groups, self.text_keys) for override in overrides]

    def _content(self, name: str) -> dict[str, Any]:
        """Return the content of a configuration file; empty if there is none, or if it is wrong, as composing tells."""
        sources = [source for source in self.loader.get_sources() if source.is_config(name)]
        try:
            content = OmegaConf.to_container(sources[0].load_config(name).config) if sources else {}
        except COMPOSITION_ERRORS:
            return {}
        return cast("dict[str, Any]", content) if isinstance(content, dict) else {}

    @cached_property
    def _own(self) -> dict[str, Any]:
        """The content of the program's own configuration file."""
        return self._content(self.config_name)

    def searching(self, overrides: Sequence[str]) -> list[str]:
        """Return the overrides with `config_dir` at the head of the search path, unless the loader searches it."""
        if self.config_dir is None:
            return list(overrides)
        folder = Path(self.config_dir).resolve()
        if not folder.is_dir():
            raise UserError(f"There is no configuration folder {folder}; give --config-dir one that exists.")
        files = (source for source in self.loader.get_sources() if source.scheme() == "file")
        if any(Path(source.path).resolve() == folder for source in files):
            return list(overrides)
        typed = [override for override in overrides if override.startswith("hydra.searchpath=")]
        given = typed_value(typed[0]) if typed else self.searchpath or []
        if not isinstance(given, list):  # a mistake, which Hydra reports
            return list(overrides)
        folders = ",".join(quoted(str(path)) for path in [f"file://{folder}", *given])
        return [f"hydra.searchpath=[{folders}]", *(override for override in overrides if override not in typed)]

    @property
    def searchpath(self) -> Any:
        """The search path that the program's own configuration file adds to Hydra's; None if it adds none."""
        own = self._own.get("hydra")
        return own.get("searchpath") if isinstance(own, dict) else None

    @cached_property
    def _groups(self) -> tuple[set[str], set[str]]:
        """The groups in the program's defaults list, and those of them that accept several options."""
        names = [entry for entry in defaults_list(self._own) if isinstance(entry, str) and entry != "_self_"]
        chosen: dict[str, Any] = {}
        for content in [*map(self._content, names), self._own]:  # a file of the user's may begin with train
            for entry in defaults_list(content):
                chosen |= entry if isinstance(entry, dict) else {}
        chosen = {str(key).removeprefix("optional "): value for key, value in chosen.items()}
        chosen = {key: value for key, value in chosen.items() if "override " not in key}
        return set(chosen), {group for group, value in chosen.items() if isinstance(value, list)}

    @cached_property
    def text_keys(self) -> set[str]:
        """The keys whose values are always text, even if they look like numbers."""
        texts = {path for path, annotation in self.values.items() if annotation in (str, str | None)}
        return {"data.path", "launcher.account", "launcher.partition"} | texts

    def job(self, overrides: Sequence[str], *, complete: bool = True, build: bool = True) -> DictConfig:
        """Return the checked configuration of a single job, including Hydra's node.

        Args:
            complete: whether a missing value (`???`) is an error.
            build: whether to build the parts now, as a check; otherwise a later call of `build` does so.
        """
        config = self._checked(overrides, complete=complete)
        if build and complete:
            self.build()
        return config

    def build(self, count: int | None = None) -> None:
        """Build the parts of the first `count` configurations (None for all) that have been composed but not built."""
        now, self._unbuilt = self._unbuilt[:count], [] if count is None else self._unbuilt[count:]
        for tree, composition in now:
            check_parts(tree, composition)

    def jobs(self, overrides: Sequence[str]) -> list[DictConfig]:
        """Return the checked configurations of all jobs of a sweep, including Hydra's nodes.

        The jobs are those of Hydra's basic sweeper. With any other sweeper, only the overrides that do not vary are
        checked.
        """
        master = Composition(self, overrides, multirun=True).load()
        if master.hydra.runtime.choices["hydra/sweeper"] != "basic":
            return [self._checked(overrides, complete=False, multirun=True)]
        swept = self.expand(typed_overrides(master.hydra), master.hydra.sweeper.params)
        fixed = typed_overrides(master.hydra, "hydra")
        configs = [self._checked([*fixed, *job]) for job in swept]
        self.build()  # last: it imports torch, and the checks above do not
        return configs

    def master(self, overrides: Sequence[str]) -> DictConfig:
        """Return the unchecked configuration of a sweep as a whole, including Hydra's node.

        Swept overrides are left out, and so are overrides of single keys: such a key may belong to an option that only
        the jobs choose.
        """
        return self._whole(overrides).load()

    def check(self, part: str, overrides: Sequence[str]) -> None:
        """Check a part that concerns a sweep as a whole, such as its launcher, as those of a run are checked."""
        composition = self._whole(overrides)
        tree = resolved(composition.load(), composition, complete=False)
        check_constructions(tree[part], part, composition)

    def _whole(self, overrides: Sequence[str]) -> Composition:
        whole = Composition(self, overrides, multirun=True)
        chosen = [each for each in overrides if concerns_sweep(each) or whole.is_group(key_of(each))]
        return Composition(self, chosen, multirun=True)

    def expand(self, overrides: Sequence[str], params: Mapping[str, Any] | None = None) -> list[list[str]]:
        """Return the overrides of each job of a sweep, one per combination of values; `params` adds values by key."""
        choices: dict[str, list[str]] = {}
        try:
            for override in map(parse, [*(f"{key}={value}" for key, value in (params or {}).items()), *overrides]):
                key, given = override.get_key_element(), cast(Any, override.value())
                if not override.is_sweep_override():
                    values = [override.get_value_element_as_str()]
                elif isinstance(given, Glob):  # Hydra would not look into the folder of --config-dir
                    values = given.filter(Composition(self, overrides).listed(override.key_or_group))
                elif override.is_discrete_sweep():
                    try:
                        values = list(override.sweep_string_iterator())
                    except (ValueError, ArithmeticError) as error:  # of a step of 0, or of nan
                        raise UserError(f"{override.input_line} has no values: {one_sentence(error)}") from None
                else:
                    raise UserError(f"{override.input_line} is a range to search, not to sweep: give single values.")
                choices[key] = [f"{key}={value}" for value in values]
        except HydraException as error:
            raise UserError(one_sentence(error)) from None
        return [list(job) for job in itertools.product(*choices.values())]

    def _checked(self, overrides: Sequence[str], *, complete: bool = True, multirun: bool = False) -> DictConfig:
        composition = Composition(self, overrides, multirun=multirun)
        config = composition.load()
        composition.check_choices()
        with hydra_config(config):
            tree = resolved(config, composition, complete=complete)
        check_values(tree, composition, self.values)
        if complete:
            self._unbuilt.append((tree, composition))
        return config


def typed_overrides(hydra: Any, kind: Literal["task", "hydra"] = "task") -> list[str]:
    """Return the unresolved overrides of a configuration, either the task's or Hydra's, from its node `hydra`."""
    return cast(list[str], OmegaConf.to_container(hydra.overrides[kind], resolve=False))


def resolve_values(config: DictConfig) -> None:
    """Replace the top-level interpolations of `config` with their values.

    Some, such as `name`, refer to Hydra's own node, which may be removed later.
    """
    with hydra_config(config) if "hydra" in config else nullcontext():
        for key in map(str, config):
            if key != "hydra" and OmegaConf.is_interpolation(config, key):
                config[key] = config[key]


def leave_out_sweep(config: DictConfig) -> None:
    """Remove the sweep's keys from a run's configuration, so that it equals the configuration of a single run."""
    with open_dict(config):
        for key in SWEEP_KEYS:
            config.pop(key, None)


@cache
def _tell_once(note: str) -> None:
    print(note, file=sys.stderr)


def register_resolver(name: str, resolver: Any) -> None:
    """Register the resolver behind `${name:…}` for every configuration."""
    register: Any = OmegaConf.register_resolver if HYDRA_1_4 else OmegaConf.register_new_resolver
    register(name, resolver, replace=True)


def _chosen(group: str, *, _root_: DictConfig) -> str:
    """Return the chosen option of a group, usable in a file name; the resolver behind `${chosen:model}`."""
    hydra = _root_.get("hydra") or (HydraConfig.get() if HydraConfig.initialized() else None)
    choice = hydra.runtime.choices.get(group) if hydra is not None else None
    if choice is None:
        raise UserError(f"No {group} is chosen; give {group}=….")
    return str(choice).replace("/", "-")


register_resolver("chosen", _chosen)
register_resolver("command", command)
