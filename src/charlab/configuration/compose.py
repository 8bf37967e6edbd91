"""Composing and checking configurations.

>>> config = compose(["experiment=part1/bigram", "trainer.max_steps=100"])
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from charlab.configuration import modules, programs
from charlab.configuration.check import check
from charlab.configuration.diagnosis import COMPOSITION_ERRORS, diagnose, find_user_error, one_sentence
from charlab.configuration.former import translate
from charlab.configuration.loader import Loader, search_path, typed_overrides
from charlab.configuration.overrides import prepare
from charlab.errors import UserError

NO_KEYS_OF_A_RUN = ("study", "search", "launcher", "dry_run")
"""Keys of `conf/train.yaml` that mean nothing to a single run."""


def compose(
    overrides: Sequence[str] = (), config_name: str = "train", *, return_hydra_config: bool = False
) -> DictConfig:
    """Returns a composed and checked configuration.

    May be called any number of times, also from within a Hydra application, of whose state it changes nothing.

    Args:
        overrides: what one would type after `python scripts/train.py`.
        config_name: the program's configuration: train, evaluate or generate.
        return_hydra_config: whether Hydra's own node is part of it, with the folder of the run (`hydra.run.dir`).

    Raises:
        UserError: if a group, option, key or value is not known, or values do not fit together.
    """
    composer = Composer(config_name)
    config = composer.job(composer.prepare(overrides))
    with hydra_config(config):
        resolve_values(config)
    if not return_hydra_config:
        with open_dict(config):
            del config["hydra"]
    return config


def resolve_values(config: DictConfig) -> None:
    """Puts what they stand for in place of the interpolations at the top of `config`.

    They may refer to Hydra's own node, as `name` does, which is not always there later on.
    """
    for key in map(str, config):
        if key != "hydra" and OmegaConf.is_interpolation(config, key):
            config[key] = config[key]


def leave_out_sweep(config: DictConfig) -> None:
    """Takes what concerns a sweep out of the configuration of one of its runs, which is the same without a sweep."""
    with open_dict(config):
        for key in NO_KEYS_OF_A_RUN:
            config.pop(key, None)


class Composer:
    """Composes and checks the configurations of one program.

    Args:
        config_name: of the program's configuration.
        path: where the files are looked for; None for charlab's own.
        values: types of the values that nothing is constructed with, by dotted name; None for those of the program of
            that name.
    """

    def __init__(
        self,
        config_name: str = "train",
        path: ConfigSearchPath | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        self.config_name = config_name
        self.values = programs.VALUES[config_name] if values is None else values
        self.loader = Loader(path if path is not None else search_path())
        modules.forget()

    def prepare(self, overrides: Sequence[str]) -> list[str]:
        """Returns overrides as Hydra wants them; see `configuration.overrides.prepare`."""
        groups, list_groups = self.loader.groups_of(self.config_name)
        present, notes = translate(overrides)
        for note in notes:
            _tell_once(note)
        return [prepare(override, list_groups, groups) for override in present]

    def job(self, overrides: Sequence[str], *, complete: bool = True) -> DictConfig:
        """Returns the configuration of a single job, Hydra's node included.

        Args:
            overrides: prepared ones.
            complete: whether values may no longer be missing (`???`).

        Raises:
            UserError: if something in it is wrong.
        """
        config = self._load(list(overrides), multirun=False)
        self._check(config, complete=complete)
        return config

    def master(self, overrides: Sequence[str]) -> DictConfig:
        """Returns the configuration of a sweep as a whole, unchecked, Hydra's node included.

        What is swept over is left out, and so are values of single keys: these may be keys of an option that the
        sweep chooses, while the master configuration has another.

        Args:
            overrides: prepared ones.

        Raises:
            UserError: if an option does not exist.
        """
        chosen = []
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0]
            if key.startswith(("hydra", "study.", "search.", "launcher.")) or self.loader.is_group(key):
                chosen.append(override)
        return self._load(chosen, multirun=True)

    def jobs(self, overrides: Sequence[str]) -> list[DictConfig]:
        """Returns the configurations of all jobs of a sweep, Hydra's nodes included.

        Hydra's basic sweeper is followed; of one that chooses values as it goes along only what is fixed is checked.

        Args:
            overrides: prepared ones.

        Raises:
            UserError: if something in one of them is wrong.
        """
        master = self._load(list(overrides), multirun=True)
        if not master.hydra.sweeper._target_.endswith("BasicSweeper"):
            self._check(master, complete=False)
            return [master]
        configs = []
        for job in self.expand(typed_overrides(master), master.hydra.sweeper.params):
            config = self._load([*typed_overrides(master, "hydra"), *job], multirun=False)
            self._check(config, complete=True)
            configs.append(config)
        return configs

    def expand(self, overrides: Sequence[str], params: Mapping[str, Any] | None = None) -> list[list[str]]:
        """Returns the overrides of each job of a sweep, as Hydra's basic sweeper makes them.

        Args:
            overrides: prepared ones, some of which have several values.
            params: further ones, by key.

        Raises:
            UserError: if one of them cannot be expanded.
        """
        arguments = [*(f"{key}={value}" for key, value in (params or {}).items()), *overrides]
        try:
            parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(arguments)
            return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
        except HydraException as error:
            raise UserError(one_sentence(error)) from None

    def _load(self, overrides: list[str], *, multirun: bool) -> DictConfig:
        try:
            return self.loader.load(self.config_name, overrides, multirun=multirun)
        except COMPOSITION_ERRORS as error:
            raise diagnose(error, self.loader, self.config_name, overrides, multirun=multirun) from None

    def _check(self, config: DictConfig, *, complete: bool) -> None:
        with hydra_config(config):
            check(config, self.loader.sources, self.values, complete=complete)


@functools.cache
def _tell_once(note: str) -> None:
    print(note, file=sys.stderr)


def check_output_folder(config: DictConfig, *, sweep: bool) -> None:
    """Checks that the folder in which a job will leave what it writes is known and can be made.

    Its name depends on the text that is trained on, so this reads the text.

    Args:
        config: with Hydra's node.
        sweep: whether the job is one of several.

    Raises:
        UserError: if it is not.
    """
    node = config.hydra
    try:
        with hydra_config(config):
            folder = Path(node.sweep.dir, node.sweep.subdir) if sweep else Path(node.run.dir)
    except (InterpolationToMissingValueError, MissingMandatoryValue):
        return  # a user's own pattern, with the number of the job perhaps
    except OmegaConfBaseException as error:
        raise (find_user_error(error) or UserError(one_sentence(error))) from None
    existing = next(parent for parent in [folder, *folder.absolute().parents] if os.path.lexists(parent))
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".charlab-"):
            pass  # asking for permissions is not enough: root has all of them, and yet makes nothing in /proc
    except OSError as error:
        reason = "is a file" if existing.is_file() else f"takes no new folder ({error.strerror})"
        raise UserError(
            f"{folder} cannot be made, since {existing} {reason}: choose another place with output_dir=…."
        ) from None


@contextmanager
def hydra_config(config: DictConfig) -> Iterator[None]:
    """Lets `${hydra:…}` refer to this configuration's node for as long as the context lasts."""
    instance = HydraConfig.instance()
    former = instance.cfg
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = former


def _chosen(group: str, *, _root_: DictConfig) -> str:
    """Returns the option chosen of a group, fit for a file name; the resolver behind `${chosen:model}`."""
    hydra = _root_.get("hydra") or (HydraConfig.get() if HydraConfig.initialized() else None)
    choice = hydra.runtime.choices.get(group) if hydra is not None else None
    if choice is None:
        raise UserError(f"No {group} is chosen; give {group}=….")
    return str(choice).replace("/", "-")


OmegaConf.register_new_resolver("chosen", _chosen, replace=True)
