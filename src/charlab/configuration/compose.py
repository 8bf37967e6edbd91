"""Compose configurations with Hydra and check them.

>>> config = compose(["experiment=part1/bigram", "trainer.max_steps=100"])
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, cast

import hydra
from hydra import initialize_config_dir, version
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from charlab.command import command
from charlab.configuration import programs
from charlab.configuration.check import check_parts, check_values, resolved
from charlab.configuration.former import translate
from charlab.configuration.messages import (
    COMPOSITION_ERRORS,
    all_keys,
    diagnose,
    find_user_error,
    keys_set,
    one_sentence,
)
from charlab.configuration.overrides import parse, prepare
from charlab.configuration.signatures import accepts
from charlab.errors import UserError

VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Hydra 1.3 behaves like Hydra 1.1 without this argument; Hydra 1.4 does not need it."""

NO_KEYS_OF_A_RUN = ("study", "search", "launcher", "dry_run")
"""Keys of `conf/train.yaml` that have no effect on a single run."""


def compose(
    overrides: Sequence[str] = (), config_name: str = "train", *, return_hydra_config: bool = False
) -> DictConfig:
    """Return a composed and checked configuration.

    Safe to call repeatedly and from within another Hydra application, whose global state it leaves unchanged.

    Args:
        overrides: overrides as typed after `charlab train`.
        config_name: name of the program's configuration: train, evaluate or generate.
        return_hydra_config: whether to include Hydra's own node, which has the run's folder (`hydra.run.dir`).

    Raises:
        UserError: if a group, option, key or value is unknown, or values are incompatible.
    """
    composer = Composer(config_name)
    config = composer.job(composer.prepare(overrides))
    with hydra_config(config):
        resolve_values(config)
    if not return_hydra_config:
        with open_dict(config):
            del config["hydra"]
    return config


def conf_folder() -> Path:
    """Return the absolute path of the `conf` folder: inside the installed package, or next to `src` in a checkout.

    Raises:
        UserError: if it is in neither place.
    """
    here = Path(__file__).resolve()
    installed, checkout = here.parents[1] / "conf", here.parents[3] / "conf"
    for folder in (installed, checkout):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"The configuration is in neither {installed} nor {checkout}: install charlab again.")


def config_loader(folder: Path | None = None) -> ConfigLoader:
    """Return Hydra's loader for a folder of configuration files, charlab's own by default.

    A folder `conf` in the working directory is searched as well (see `hydra_plugins/charlab_search_path.py`).
    """
    with _hydra():
        GlobalHydra.instance().clear()
        with initialize_config_dir(str((folder or conf_folder()).resolve()), job_name="charlab", **VERSION_BASE):
            return GlobalHydra.instance().config_loader()


@contextmanager
def _hydra() -> Iterator[None]:
    """Set the version base that charlab is written for, and restore another application's Hydra state on exit."""
    running = GlobalHydra.instance().hydra
    chosen = version.VersionBase.instance()
    former = chosen.version_base
    if VERSION_BASE:
        version.setbase(ver=VERSION_BASE["version_base"])
    try:
        yield
    finally:
        chosen.version_base = former
        GlobalHydra.instance().hydra = running


class Composer:
    """Compose and check the configurations of one program.

    Args:
        config_name: name of the program's configuration.
        loader: loader of the configuration files; by default, of charlab's own and those in the working directory.
        values: types of the values that are not constructor arguments, by dotted key; by default, those of the program
            named `config_name`.
        config_dir: an additional folder of configuration files, as for Hydra's `--config-dir`.
    """

    def __init__(
        self,
        config_name: str = "train",
        loader: ConfigLoader | None = None,
        values: Mapping[str, Any] | None = None,
        config_dir: str | None = None,
    ) -> None:
        self.config_name, self.loader = config_name, loader or config_loader()
        self.values = programs.VALUES[config_name] if values is None else values
        self.further = [f"hydra.searchpath=[{_url(config_dir)}]"] if config_dir is not None else []
        self._unbuilt: list[tuple[dict[str, Any], Composition]] = []

    def prepare(self, overrides: Sequence[str]) -> list[str]:
        """Translate former names and return the overrides in Hydra's grammar; see `configuration.overrides.prepare`."""
        overrides, notes = translate(overrides)
        for note in notes:
            _tell_once(note)
        groups, list_groups = self._groups
        return [prepare(override, list_groups, groups, self.text_keys) for override in overrides]

    @cached_property
    def _groups(self) -> tuple[set[str], set[str]]:
        """The groups in the program's defaults list, and those of them that accept several options."""
        sources = [source for source in self.loader.get_sources() if source.is_config(self.config_name)]
        content = OmegaConf.to_container(sources[0].load_config(self.config_name).config) if sources else {}
        listed = content.get("defaults", []) if isinstance(content, dict) else []
        chosen: dict[str, Any] = {}
        for entry in listed:
            chosen |= entry if isinstance(entry, dict) else {}
        chosen = {key.removeprefix("optional "): value for key, value in chosen.items() if "override " not in key}
        return set(chosen), {group for group, value in chosen.items() if isinstance(value, list)}

    @cached_property
    def text_keys(self) -> set[str]:
        """The keys whose values are always text, even if they look like numbers."""
        return {"data.path", *(path for path, annotation in self.values.items() if annotation is str)}

    def job(self, overrides: Sequence[str], *, complete: bool = True, build: bool = True) -> DictConfig:
        """Return the checked configuration of a single job, including Hydra's node.

        Args:
            overrides: prepared overrides.
            complete: whether a missing value (`???`) is an error.
            build: whether to build the parts now, as a check; otherwise a later call of `build` does so.

        Raises:
            UserError: if the configuration is invalid.
        """
        config = self._checked(overrides, complete=complete)
        if build and complete:
            self.build()
        return config

    def build(self, count: int | None = None) -> None:
        """Build the parts of the configurations that have been composed but not yet built.

        Args:
            count: number of configurations to build, in the order of composition; None for all.

        Raises:
            UserError: if one cannot be built.
        """
        now, self._unbuilt = self._unbuilt[:count], [] if count is None else self._unbuilt[count:]
        for tree, composition in now:
            check_parts(tree, composition)

    def jobs(self, overrides: Sequence[str]) -> list[DictConfig]:
        """Return the checked configurations of all jobs of a sweep, including Hydra's nodes.

        The jobs are those of Hydra's basic sweeper. With any other sweeper, only the overrides that do not vary are
        checked.

        Args:
            overrides: prepared overrides.

        Raises:
            UserError: if one of the configurations is invalid.
        """
        master = Composition(self, overrides, multirun=True).load()
        if master.hydra.runtime.choices["hydra/sweeper"] != "basic":
            return [self._checked(overrides, complete=False, multirun=True)]
        swept = self.expand(typed_overrides(master), master.hydra.sweeper.params)
        fixed = typed_overrides(master, "hydra")
        configs = [self._checked([*fixed, *job]) for job in swept]
        self.build()  # last: it imports torch, and the checks above do not
        return configs

    def master(self, overrides: Sequence[str]) -> DictConfig:
        """Return the unchecked configuration of a sweep as a whole, including Hydra's node.

        Swept overrides are left out, and so are overrides of single keys: such a key may belong to an option that only
        the jobs choose.

        Args:
            overrides: prepared overrides.

        Raises:
            UserError: if an option does not exist.
        """
        whole = Composition(self, overrides, multirun=True)
        chosen = []
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0]
            if concerns_sweep(override) or whole.is_group(key):
                chosen.append(override)
        return Composition(self, chosen, multirun=True).load()

    def expand(self, overrides: Sequence[str], params: Mapping[str, Any] | None = None) -> list[list[str]]:
        """Return the overrides of each job of a sweep: one job per combination of values.

        Args:
            overrides: prepared overrides; some may have several values.
            params: additional overrides by key.

        Raises:
            UserError: if an override cannot be expanded.
        """
        arguments = [*(f"{key}={value}" for key, value in (params or {}).items()), *overrides]
        try:
            parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(arguments)
            choices: dict[str, list[str]] = {}
            for override in parsed:
                key = override.get_key_element()
                if not override.is_sweep_override():
                    values = [override.get_value_element_as_str()]
                elif override.is_discrete_sweep():
                    values = list(override.sweep_string_iterator())
                else:
                    raise UserError(f"{override.input_line} is a range to search, not to sweep: give single values.")
                choices[key] = [f"{key}={value}" for value in values]
        except HydraException as error:
            raise UserError(one_sentence(error)) from None
        return [list(job) for job in itertools.product(*choices.values())]

    def _checked(self, overrides: Sequence[str], *, complete: bool = True, multirun: bool = False) -> DictConfig:
        composition = Composition(self, overrides, multirun=multirun)
        config = composition.load()
        with hydra_config(config):
            tree = resolved(config, composition, complete=complete)
        check_values(tree, composition, self.values)
        if complete:
            self._unbuilt.append((tree, composition))
        return config


class Composition:
    """One composition: its overrides and files, and where each value was set.

    Attributes:
        overrides: the overrides passed to Hydra, with a `+` before parameters that only a signature declares.
        text_keys: keys whose values are always text.
    """

    def __init__(self, composer: Composer, overrides: Sequence[str], *, multirun: bool = False) -> None:
        self.composer, self.multirun = composer, multirun
        self.overrides = [*composer.further, *overrides]
        self.text_keys = composer.text_keys
        self._found_in: list[Path] = []

    def load(self) -> DictConfig:
        """Return the composed configuration, including Hydra's node.

        Raises:
            UserError: if Hydra cannot compose it.
        """
        try:
            return self._load(self.overrides)
        except COMPOSITION_ERRORS as error:
            added = self._with_undeclared(error)
            if added != self.overrides:
                self.overrides = added
                return self.load()
            raise diagnose(error, self) from None

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        mode = RunMode.MULTIRUN if self.multirun else RunMode.RUN
        with _hydra():
            config = self.composer.loader.load_configuration(self.composer.config_name, list(overrides), mode)
        sources = [source for source in config.hydra.runtime.config_sources if source.schema == "file"]
        self._found_in = [Path(str(source.path)) for source in sources]
        return config

    def _with_undeclared(self, error: Exception) -> list[str]:
        """Return the overrides with a `+` before the one that failed, if its key is a parameter of the constructor."""
        found = list(self.overrides)
        for index, override in enumerate(found):
            key = override.partition("=")[0]
            parent, _, leaf = key.rpartition(".")
            if parent and f"'{key}'" in str(error) and str(error).startswith("Could not override"):
                choices = [other for other in found if self.is_group(other.lstrip("+~").partition("=")[0])]
                try:
                    node = OmegaConf.select(self._load([*self._searching, *choices]), parent)
                except COMPOSITION_ERRORS:
                    return found
                target = node.get("_target_") if isinstance(node, DictConfig) else None
                if isinstance(target, str) and accepts(target, leaf):
                    found[index] = f"+{override}"
        return found

    def plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Compose with other overrides; return plain, unresolved dictionaries and lists."""
        return cast("dict[str, Any]", OmegaConf.to_container(self._load([*self._searching, *overrides])))

    @property
    def _searching(self) -> list[str]:
        return [override for override in self.overrides if override.startswith("hydra.searchpath=")]

    def _members(self, group: str, kind: ObjectType) -> list[str]:
        loader, name = self.composer.loader, self.composer.config_name
        with _hydra():
            return loader.get_group_options(group, kind, config_name=name, overrides=self._searching)

    def is_group(self, name: str) -> bool:
        """Return whether a group of that name exists."""
        return bool(name) and bool(self._members(name, ObjectType.CONFIG) or self._members(name, ObjectType.GROUP))

    def groups(self, parent: str = "") -> list[str]:
        """Return the names of all groups, with slashes in nested ones."""
        children = [f"{parent}/{child}" if parent else child for child in self._members(parent, ObjectType.GROUP)]
        return [name for child in children for name in [child, *self.groups(child)]]

    def options(self, group: str) -> list[str]:
        """Return the options of a group, with slashes in those of its subfolders.

        Files of a subfolder count only if their package is `_global_`, as in `experiment`. Otherwise the subfolder is a
        group of its own, for parts of the chosen option.
        """
        nested = [
            f"{child}/{option}"
            for child in self._members(group, ObjectType.GROUP)
            for option in self.options(f"{group}/{child}")
            if any("@package _global_" in text for text in self._texts_of(f"{group}/{child}/{option}"))
        ]
        options = [*self._members(group, ObjectType.CONFIG), *nested]
        return [option for option in options if not option.rpartition("/")[2].startswith("_")]

    def exists(self, group: str, option: str) -> bool:
        """Return whether a group has an option of that name."""
        folder, _, name = f"{group}/{option}".rpartition("/")
        return name in self._members(folder, ObjectType.CONFIG)

    @property
    def _folders(self) -> list[Path]:
        """The folders of configuration files, in search order."""
        if not self._found_in:
            self._load(self._searching)
        return self._found_in

    def searched(self) -> list[str]:
        """Return the folders of configuration files as shown to users."""
        own, here = conf_folder(), Path.cwd() / "conf"
        shown = ["charlab's own configuration" if folder == own else str(folder) for folder in self._folders]
        return shown if here in self._folders or own not in self._folders else [*shown, f"{here} (no such folder)"]

    def _texts_of(self, name: str) -> list[str]:
        files = [folder / f"{name}.yaml" for folder in self._folders]
        return [file.read_text(encoding="utf-8") for file in files if file.is_file()]

    def file_chooses(self, name: str, option: str) -> bool:
        """Return whether a file's defaults list overrides a group with that option, such as "model/gpt"."""
        group, _, choice = option.rpartition("/")
        wanted = {f"override /{group}": choice}
        return any(
            wanted in (OmegaConf.to_container(OmegaConf.create(text)) or {}).get("defaults", [])  # type: ignore[union-attr]
            for text in self._texts_of(name)
        )

    @cached_property
    def _files(self) -> list[tuple[str, bool, set[str]]]:
        """For each file in order: its name, whether it only overrides keys of other files, and the keys it sets."""
        mode = RunMode.MULTIRUN if self.multirun else RunMode.RUN
        with _hydra():
            loader = self.composer.loader
            defaults = loader.compute_defaults_list(self.composer.config_name, self.overrides, mode).defaults
        found = []
        for default in defaults:
            name, package = default.config_path or "", default.package or ""
            for text in self._texts_of(name)[:1] if not name.startswith("hydra/") else []:
                content = OmegaConf.to_container(OmegaConf.create(text) or OmegaConf.create())
                if isinstance(content, dict):
                    content.pop("defaults", None)
                keys = {f"{package}.{key}" if package else key for key in all_keys(content)}
                parents = (
                    {package.rsplit(".", depth)[0] for depth in range(package.count(".") + 1)} if package else set()
                )
                found.append((name, "/" in name and not package, keys | parents))
        return found

    @cached_property
    def declared(self) -> set[str]:
        """The dotted keys that configuration files declare; files that only override them do not count."""
        return set().union(*(keys for _, overlay, keys in self._files if not overlay))

    def place(self, path: str) -> str:
        """Return the last file that set `path`, as " (in FILE.yaml)"; "" if it was set on the command line."""
        typed = {key for override in self.overrides for key in _typed_keys(override)}
        if any(path == key or path.startswith(f"{key}.") for key in typed if not self.is_group(key)):
            return ""
        files = [name for name, _, keys in self._files if path in keys]
        return f" (in {files[-1]}.yaml)" if files else ""


def _typed_keys(override: str) -> list[str]:
    key = override.lstrip("+~").partition("=")[0]
    try:
        return [key, *keys_set(key, parse(override).value())]
    except HydraException:
        return [key]


def _url(config_dir: str) -> str:
    folder = Path(config_dir).resolve()
    if not folder.is_dir():
        raise UserError(f"There is no configuration folder {folder}; give --config-dir one that exists.")
    return f"file://{folder}"


def concerns_sweep(override: str) -> bool:
    """Return whether an override is a setting of a sweep as a whole, or Hydra's, and none of its runs."""
    key = override.lstrip("+~").partition("=")[0]
    return key.startswith("hydra") or key.partition(".")[0] in NO_KEYS_OF_A_RUN


def typed_overrides(config: DictConfig, kind: Literal["task", "hydra"] = "task") -> list[str]:
    """Return the unresolved overrides that `config` was composed with, either the task's or Hydra's."""
    return cast(list[str], OmegaConf.to_container(config.hydra.overrides[kind], resolve=False))


def resolve_values(config: DictConfig) -> None:
    """Replace the top-level interpolations of `config` with their values.

    Some, such as `name`, refer to Hydra's own node, which may be removed later.
    """
    for key in map(str, config):
        if key != "hydra" and OmegaConf.is_interpolation(config, key):
            config[key] = config[key]


def leave_out_sweep(config: DictConfig) -> None:
    """Remove the keys of the sweep from a run's configuration, so that it equals that of the run on its own."""
    with open_dict(config):
        for key in NO_KEYS_OF_A_RUN:
            config.pop(key, None)


@cache
def _tell_once(note: str) -> None:
    print(note, file=sys.stderr)


def output_folder(config: DictConfig, *, sweep: bool) -> Path | None:
    """Return a job's output folder; None if it is known only when the job starts.

    The folder's name depends on the training text, so this reads the text.

    Args:
        config: the job's configuration with Hydra's node.
        sweep: whether the job is part of a sweep.

    Raises:
        UserError: if the folder cannot be resolved.
    """
    node = config.hydra
    try:
        with hydra_config(config):
            return Path(node.sweep.dir, node.sweep.subdir) if sweep else Path(node.run.dir)
    except (InterpolationToMissingValueError, MissingMandatoryValue):
        return None  # a pattern that the user has set, perhaps with the job's number
    except OmegaConfBaseException as error:
        raise (find_user_error(error) or UserError(one_sentence(error))) from None


def check_output_folder(config: DictConfig, *, sweep: bool) -> None:
    """Check that a job's output folder can be resolved and created; see `output_folder`.

    Raises:
        UserError: if it cannot.
    """
    folder = output_folder(config, sweep=sweep)
    if folder is None:
        return
    existing = next(parent for parent in [folder, *folder.absolute().parents] if os.path.lexists(parent))
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".charlab-"):
            pass  # checking permissions is not enough: root has all of them but cannot create folders in /proc
    except OSError as error:
        reason = "is a file" if existing.is_file() else f"takes no new folder ({error.strerror})"
        raise UserError(
            f"{folder} cannot be made, since {existing} {reason}: choose another place with output_dir=…."
        ) from None


@contextmanager
def hydra_config(config: DictConfig) -> Iterator[None]:
    """Make `${hydra:…}` refer to this configuration's node while the block runs."""
    instance = HydraConfig.instance()
    former = instance.cfg
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = former


def register_resolver(name: str, resolver: Any) -> None:
    """Register the resolver behind `${name:…}` for every configuration."""
    register: Any = OmegaConf.register_new_resolver if VERSION_BASE else OmegaConf.register_resolver  # with Hydra 1.4
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
