"""Where a configuration comes from: the files that Hydra finds, and where each of its values was set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra import version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf

from charlab.configuration.build import HYDRA_1_4, accepts
from charlab.configuration.messages import COMPOSITION_ERRORS, all_keys, diagnose
from charlab.configuration.overrides import key_of, keys_set, parse, typed_value
from charlab.errors import UserError

if TYPE_CHECKING:
    from charlab.configuration.compose import Composer

VERSION_BASE: dict[str, Any] = {} if HYDRA_1_4 else {"version_base": "1.3"}
"""Hydra 1.3 behaves like Hydra 1.1 without this argument; Hydra 1.4 does not need it."""
OWN = "charlab's own configuration"
FURTHER: ContextVar[Path | None] = ContextVar("FURTHER", default=None)
"""A folder of configuration files that a loader that is made now searches as well."""


def conf_folder() -> Path:
    """Return the absolute path of the `conf` folder: inside the installed package, or next to `src` in a checkout."""
    here = Path(__file__).resolve()
    installed, checkout = here.parents[1] / "conf", here.parents[3] / "conf"
    for folder in (installed, checkout):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"The configuration is in neither {installed} nor {checkout}: install charlab again.")


def user_conf_folder() -> Path | None:
    """Return the folder `conf` in the working directory, which is searched after charlab's; None if there is none."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and folder.resolve() != conf_folder() else None


@contextmanager
def hydra_state() -> Iterator[None]:
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


def defaults_list(content: object) -> list[Any]:
    """Return the defaults list in the content of a configuration file; empty if it has none, or one that is no list."""
    listed = content.get("defaults") if isinstance(content, dict) else None
    return listed if isinstance(listed, list) else []


class Composition:
    """One composition: its overrides and files, and where each value was set.

    Attributes:
        overrides: the overrides passed to Hydra, with a `+` before parameters that only a signature declares.
    """

    def __init__(self, composer: Composer, overrides: Sequence[str], *, multirun: bool = False) -> None:
        self.composer, self.multirun = composer, multirun
        self.overrides = composer.searching(overrides)
        self._mode = RunMode.MULTIRUN if multirun else RunMode.RUN

    def load(self) -> DictConfig:
        """Return the composed configuration, including Hydra's node."""
        try:
            return self._load(self.overrides)
        except COMPOSITION_ERRORS as error:
            added = self._with_undeclared(error)
            if added != self.overrides:
                self.overrides = added
                return self.load()
            raise diagnose(error, self) from None

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        with hydra_state():
            return self.composer.loader.load_configuration(self.composer.config_name, list(overrides), self._mode)

    def _with_undeclared(self, error: Exception) -> list[str]:
        """Return the overrides with a `+` before the one that failed, if its key is a parameter of the constructor."""
        failed = re.match(r"Could not override '([^']+)\.(\w+)'", str(error))
        if failed is None:
            return self.overrides
        parent, leaf = failed.groups()
        target_key = f"{parent}._target_"
        chosen = [each for each in self.overrides if self.is_group(key_of(each)) or key_of(each) == target_key]
        try:
            target = OmegaConf.select(self._load([*self._searching, *chosen]), target_key)
        except COMPOSITION_ERRORS:
            return self.overrides
        undeclared = isinstance(target, str) and accepts(target, leaf)
        return [f"+{each}" if undeclared and each.startswith(f"{parent}.{leaf}=") else each for each in self.overrides]

    def plain(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Compose with other overrides; return plain, unresolved dictionaries and lists."""
        return cast("dict[str, Any]", OmegaConf.to_container(self._load([*self._searching, *overrides])))

    @property
    def _searching(self) -> list[str]:
        return [override for override in self.overrides if override.startswith("hydra.searchpath=")]

    @cached_property
    def _sources(self) -> list[ConfigSource]:
        """The places that Hydra searches, in order. Asking its loader about a group takes a hundred times as long."""
        sources = self.composer.loader.get_sources()
        kinds = {source.scheme(): type(source) for source in sources}
        further = typed_value(self._searching[0]) if self._searching else self.composer.searchpath
        for path in further if isinstance(further, list) else ():
            path = str(path) if "://" in str(path) else f"file://{path}"
            if (scheme := path.partition("://")[0]) in kinds:
                sources = [*sources, kinds[scheme](provider="hydra.searchpath", path=path)]
        return sources

    def _members(self, group: str, kind: ObjectType) -> list[str]:
        searched = (source.list(group, kind) for source in self._sources if source.is_group(group))
        return sorted({name for names in searched for name in names})

    def listed(self, group: str) -> list[str]:
        """Return the options of a group, without those in subfolders."""
        return [option for option in self._members(group, ObjectType.CONFIG) if not option.startswith("_")]

    def is_group(self, name: str) -> bool:
        """Return whether a group of that name exists."""
        return bool(name) and any(source.is_group(name) for source in self._sources)

    def groups(self, parent: str = "") -> list[str]:
        """Return the names of all groups, with slashes in nested ones."""
        children = [f"{parent}/{child}" if parent else child for child in self._members(parent, ObjectType.GROUP)]
        return [name for child in children for name in [child, *self.groups(child)]]

    def options(self, group: str) -> list[str]:
        """Return the options of a group, with slashes in those of its subfolders."""
        # A subfolder is a group of its own, for parts of the option, unless its package is _global_, as in experiment.
        nested = [
            f"{child}/{option}"
            for child in self._members(group, ObjectType.GROUP)
            for option in self.options(f"{group}/{child}")
            if any("@package _global_" in text for text in self._texts_of(f"{group}/{child}/{option}"))
        ]
        return [*self.listed(group), *nested]

    def check_choices(self) -> None:
        """Check that no chosen option is hidden by one of the same name in a folder that is searched earlier."""
        if len(self._folders) < 2:
            return
        for group, name, place in self._choices():
            found = [folder for folder in self._folders if (folder / group / f"{name}.yaml").is_file()]
            if len(found) > 1:
                raise UserError(
                    f"{group}={name}{place} is in {OWN if found[0] == conf_folder() else found[0]} and in {found[1]}: "
                    "give the latter file another name."
                )

    def _choices(self) -> Iterator[tuple[str, str, str]]:
        """Yield the group and name of each option that an override, or a file of the user's, chooses; and that file."""
        for override in map(parse, self.overrides):
            group, chosen = override.key_or_group, override.value()
            if any((folder / group).is_dir() for folder in self._folders):
                for name in chosen if isinstance(chosen, list) else [chosen]:
                    if isinstance(name, str):
                        yield group, name, ""
                        yield from self._chosen_in(f"{group}/{name}")
        yield from self._chosen_in("local/default")

    def _chosen_in(self, file: str) -> Iterator[tuple[str, str, str]]:
        if (self._folders[0] / f"{file}.yaml").is_file():  # charlab's own
            return
        for entry in self._defaults_of(file):
            for key, name in entry.items() if isinstance(entry, dict) else ():
                group = str(key).split(" ")[-1].partition("@")[0]  # as in "override /model@package"
                if group.startswith("/") and isinstance(name, str):
                    yield group[1:], name, f" (in {file}.yaml)"

    def exists(self, group: str, option: str) -> bool:
        """Return whether a group has an option of that name."""
        folder, _, name = f"{group}/{option}".rpartition("/")
        return name in self._members(folder, ObjectType.CONFIG)

    @cached_property
    def _folders(self) -> list[Path]:
        """The folders of configuration files, in search order; each once."""
        unique: dict[Path, Path] = {}
        for source in self._sources:
            if source.scheme() == "file":
                unique.setdefault(Path(source.path).resolve(), Path(source.path))
        return list(unique.values())

    def searched(self) -> list[str]:
        """Return the folders of configuration files as shown to users."""
        own, here = conf_folder(), Path.cwd() / "conf"
        shown = [OWN if folder == own != here.resolve() else str(folder) for folder in self._folders]
        return shown if here in self._folders or own not in self._folders else [*shown, f"{here} (no such folder)"]

    def _texts_of(self, name: str) -> list[str]:
        files = [folder / f"{name}.yaml" for folder in self._folders]
        return [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]

    def file_with(self, contents: bytes) -> Path | None:
        """Return the first configuration file with these bytes in it; None if there is none."""
        files = (file for folder in self._folders for file in sorted(folder.rglob("*.yaml")))
        return next((file for file in files if file.is_file() and contents in file.read_bytes()), None)

    def included(self, name: str) -> list[str]:
        """Return the files that a file's defaults list names, as written there."""
        return [entry for entry in self._defaults_of(name) if isinstance(entry, str)]

    def file_chooses(self, name: str, option: str) -> bool:
        """Return whether a file's defaults list overrides a group with that option, such as "model/gpt"."""
        group, _, choice = option.rpartition("/")
        return {f"override /{group}": choice} in self._defaults_of(name)

    def _defaults_of(self, name: str) -> list[Any]:
        contents = (OmegaConf.to_container(OmegaConf.create(text)) for text in self._texts_of(name))
        return [entry for content in contents for entry in defaults_list(content)]

    @cached_property
    def _files(self) -> list[tuple[str, bool, set[str]]]:
        """For each file in order: its name, whether it only overrides keys of other files, and the keys it sets."""
        loader, name = self.composer.loader, self.composer.config_name
        with hydra_state():
            defaults = loader.compute_defaults_list(name, self.overrides, self._mode).defaults
        found = []
        for default in defaults:
            name, package = (default.config_path or "").removesuffix(".yaml"), default.package or ""
            for inner in self._keys_set_in(name) if not name.startswith("hydra/") else []:
                keys = {f"{package}.{key}" if package else key for key in inner}
                parents = (
                    {package.rsplit(".", depth)[0] for depth in range(package.count(".") + 1)} if package else set()
                )
                found.append((name, "/" in name and not package, keys | parents))
        return found

    def _keys_set_in(self, name: str) -> list[frozenset[str]]:
        """Return the keys that a file sets: the first of that name in a folder, or else in a package."""
        if texts := self._texts_of(name):
            return [_keys_in(texts[0])]
        sources = (source for source in self._sources if source.scheme() != "file" and source.is_config(name))
        return [_keys_of(source.load_config(name).config) for source in islice(sources, 1)]

    @cached_property
    def declared(self) -> set[str]:
        """The dotted keys that configuration files declare; files that only override them do not count."""
        return set().union(*(keys for _, overlay, keys in self._files if not overlay))

    def is_typed(self, path: str) -> bool:
        """Return whether `path` was set on the command line."""
        typed = {key for override in self.overrides for key in _typed_keys(override)}
        return any(path == key or path.startswith(f"{key}.") for key in typed if not self.is_group(key))

    def place(self, path: str) -> str:
        """Return the last file that set `path`, as " (in FILE.yaml)"; "" if it was set on the command line."""
        if self.is_typed(path):
            return ""
        files = [name for name, _, keys in self._files if path in keys]
        return f" (in {files[-1]}.yaml)" if files else ""


@cache
def _keys_in(text: str) -> frozenset[str]:
    """Return the dotted keys that a configuration file with this text sets."""
    return _keys_of(OmegaConf.create(text) or OmegaConf.create())


def _keys_of(config: Container) -> frozenset[str]:
    content = OmegaConf.to_container(config)
    if isinstance(content, dict):
        content.pop("defaults", None)
    return frozenset(all_keys(content))


def _typed_keys(override: str) -> list[str]:
    key = key_of(override)
    return [key, *keys_set(key, typed_value(override))]
