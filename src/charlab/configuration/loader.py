"""Hydra's config loader, which also remembers what each file said."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from charlab.configuration.location import conf_folder
from charlab.errors import UserError

HYDRA_VERSION = "1.3"


@dataclass(frozen=True)
class Source:
    """A file of the composed configuration.

    Attributes:
        name: path in the configuration, such as "model/transformer".
        keys: dotted paths of all that it sets.
        overlay: whether it changes the whole configuration (an experiment) rather than declaring a part of it.
    """

    name: str
    keys: frozenset[str]
    overlay: bool


_PARSED: dict[tuple[str, str], tuple[tuple[int, int, int], ConfigResult]] = {}
"""What files say, by folder and name, with what tells whether they have changed since they were parsed."""


class _Files(ConfigRepository):
    """The files of a search path, each of which is parsed once in a process as long as it stays as it is.

    Hydra parses about thirty for every composition, which takes it longer than all the rest.
    """

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() != "file":
            return super().load_config(config_path)
        stat = Path(source.path, source._normalize_file_name(config_path)).stat()
        version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        key = (source.path, config_path)
        if key not in _PARSED or _PARSED[key][0] != version:
            parsed = super().load_config(config_path)
            assert parsed is not None  # the source was found
            _PARSED[key] = (version, parsed)
        return copy.deepcopy(_PARSED[key][1])  # Hydra puts parts of it into what it composes


class _Snapshot(_Files):
    """The files as they were when first read, though Hydra copies the repository for every job."""

    def __init__(self, search_path: ConfigSearchPath) -> None:
        super().__init__(search_path)
        self._read: dict[tuple[str, ...], ConfigResult | None] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        key = (config_path, *(source.path for source in self.sources))
        if key not in self._read:
            self._read[key] = super().load_config(config_path)
        return copy.deepcopy(self._read[key])

    def __deepcopy__(self, memo: dict[int, Any]) -> _Snapshot:
        copied = copy.copy(self)
        copied.sources = list(self.sources)
        return copied


class Loader(ConfigLoaderImpl):
    """Composes configurations from the files of a search path.

    Attributes:
        sources: the files of the latest composition, in their order.
    """

    def __init__(self, search_path: ConfigSearchPath) -> None:
        setup_globals()
        super().__init__(search_path)
        self.repository = _Files(search_path)
        self.sources: list[Source] = []
        self._used: IConfigRepository = self.repository

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed, repository = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
        self._used = repository  # with the folders that `hydra.searchpath` adds
        return parsed, repository

    def _load_configuration_impl(self, *args: Any, **kwargs: Any) -> DictConfig:
        self.sources = []
        with _hydra_version():
            return super()._load_configuration_impl(*args, **kwargs)

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        result = super()._load_single_config(default, repo)
        name = default.config_path or ""
        if not name.startswith("hydra/") and isinstance(result.config, DictConfig):
            overlay = "/" in name and not default.package
            self.sources.append(Source(name, frozenset(_paths(result.config)), overlay))
        return result

    def remember(self) -> None:
        """Reads each file only once from now on, which many compositions in a row gain from."""
        self.repository = _Snapshot(self.config_search_path)

    def groups_of(self, config_name: str) -> tuple[set[str], set[str]]:
        """Returns the groups that a configuration chooses from, and those of them that it takes several options of."""
        with _hydra_version():
            primary = self.repository.load_config(config_name)
        defaults = primary.defaults_list or [] if primary is not None else []
        chosen = [default for default in defaults if isinstance(default, GroupDefault) and not default.override]
        return {str(d.group) for d in chosen}, {str(d.group) for d in chosen if d.is_options()}

    def is_group(self, name: str) -> bool:
        """Returns whether there is a group of that name."""
        return bool(name) and self._used.group_exists(name)

    def overrides_within(self, config: str) -> set[str]:
        """Returns the files, such as "model/gpt", that a file's defaults list chooses in place of others'."""
        loaded = self._used.load_config(config)
        defaults = loaded.defaults_list or [] if loaded is not None else []
        return {
            f"{d.group.lstrip('/')}/{d.value}"
            for d in defaults
            if isinstance(d, GroupDefault) and d.group and d.override
        }

    def groups(self, parent: str = "") -> Iterator[str]:
        """Yields the names of all groups, nested ones with slashes."""
        for child in self._used.get_group_options(parent, ObjectType.GROUP):
            group = f"{parent}/{child}" if parent else child
            yield group
            yield from self.groups(group)

    def options(self, group: str) -> list[str]:
        """Returns the options of a group, those in its subfolders with slashes.

        A subfolder may be a group of its own, of parts of what is chosen here; its files, unlike those of experiments,
        belong to a package of their own and are left out.
        """
        direct = self._used.get_group_options(group, ObjectType.CONFIG)
        nested = [
            f"{child}/{option}"
            for child in self._used.get_group_options(group, ObjectType.GROUP)
            for option in self.options(f"{group}/{child}")
            if self._is_overlay(f"{group}/{child}/{option}")
        ]
        return [option for option in [*direct, *nested] if not option.rpartition("/")[2].startswith("_")]

    def exists(self, group: str, option: str) -> bool:
        """Returns whether a group has that option."""
        return self._used.config_exists(f"{group}/{option}")

    def _is_overlay(self, config: str) -> bool:
        try:
            loaded = self._used.load_config(config)
        except YAMLError:
            return True  # an option all the same
        return loaded is not None and loaded.header["package"] == "_global_"

    def load(self, config_name: str, overrides: list[str], *, multirun: bool = False) -> DictConfig:
        """Returns a configuration with Hydra's node, unchecked."""
        return self.load_configuration(config_name, overrides, RunMode.MULTIRUN if multirun else RunMode.RUN)


@contextmanager
def _hydra_version() -> Iterator[None]:
    """Has Hydra behave as that version, for the duration, whatever another application in this process has chosen."""
    chosen = version.VersionBase.instance()
    former = chosen.version_base
    version.setbase(HYDRA_VERSION)
    try:
        yield
    finally:
        chosen.version_base = former


def typed_overrides(config: DictConfig, kind: Literal["task", "hydra"] = "task") -> list[str]:
    """Returns what was typed to compose `config`, of the task's values or of Hydra's, with nothing in it resolved."""
    return cast(list[str], OmegaConf.to_container(config.hydra.overrides[kind], resolve=False))


def _paths(config: DictConfig, prefix: str = "") -> Iterator[str]:
    if config._is_none() or config._is_missing() or config._is_interpolation():
        return
    for key, value in config.items_ex(resolve=False):
        path = prefix + str(key)
        yield path
        if isinstance(value, DictConfig):
            yield from _paths(value, f"{path}.")


def search_path(main: str | Path | None = None, additional: str | Path | None = None) -> ConfigSearchPath:
    """Returns where configuration files are looked for.

    Args:
        main: in place of charlab's own `conf` folder, as Hydra's --config-path has it.
        additional: a folder with further files.

    Raises:
        UserError: if there is no such additional folder.
    """
    path = create_automatic_config_search_path(None, "charlab.cli", str(main if main is not None else conf_folder()))
    if additional is not None:
        folder = Path(additional).resolve()
        if not folder.is_dir():
            raise UserError(f"There is no configuration folder {folder}; give --config-dir one that exists.")
        path.prepend(provider="command-line", path=f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    return path
