"""The Python API, for scripts and notebooks: `run`, `study`, `evaluate`, `generate`, `export`, `load`, …."""

from __future__ import annotations

import functools
import io
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hydra.core.utils import env_override
from omegaconf import OmegaConf, open_dict
from rich.console import Console

from charlab.configuration.check import check_output_folder, output_folder
from charlab.configuration.compose import Composer, compose, leave_out_sweep
from charlab.configuration.overrides import to_command_line, without_effect
from charlab.configuration.sources import conf_folder, hydra_config
from charlab.errors import UserError
from charlab.evaluation.protocols import Score
from charlab.notebook import replace_missing_characters
from charlab.runs.checkpoint import load
from charlab.runs.display import show_if_finished
from charlab.runs.export import export
from charlab.runs.record import Record
from charlab.runs.requalify import requalify
from charlab.runs.store import with_extended
from charlab.runs.train import train
from charlab.studies.state import StudyResults
from charlab.studies.sweep import sweep
from charlab.studies.verify import verify_named
from charlab.training.device import set_threads

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evaluate", "export", "generate", "load", "requalify", "run", "study", "verify"]


def run(*overrides: str, **parts: Any) -> Record:
    """Train and evaluate one model, like `charlab train OVERRIDES`, and return the run's record.

    >>> record = charlab.run("model/norm=rms", model="gpt", data="play", trainer={"max_steps": 200})
    >>> record = charlab.run("data=play", model=functools.partial(Mine, width=64))

    A notebook shows the record as a card; `record.plot()` is a matplotlib figure, `record.table()` a DataFrame.

    Args:
        overrides: command-line arguments, one string each.
        parts: the same as keyword arguments: an option or value by its key, or a dictionary for the keys below it. A
            `model`, `optimizer`, `scheduler`, `objective` or `averaging` may also be a class, or a `functools.partial`
            of one with plain arguments; `callbacks` and `logger` may be dictionaries of classes by name.

    Raises:
        UserError: if an override or a part is invalid, before anything is written.
        DivergedError: if the loss becomes infinite or NaN.
    """
    replace_missing_characters()
    parts, typed = _apart(parts)
    overrides = tuple(with_extended([*_texts(overrides), *typed]))
    if (override := without_effect(overrides)) is not None:
        raise UserError(f'charlab.run trains one model: for {override}, call charlab.study("{override}").')
    with _options(parts) as (chosen, added):
        config = compose([*chosen, *overrides], return_hydra_config=True, config_dir=added)
    if config.hydra.callbacks:
        raise UserError("hydra.callbacks are called by the command line alone: leave them out, or use charlab train.")
    environment = dict(config.hydra.job.env_set)
    folder = output_folder(config, sweep=False)
    assert folder is not None  # as for every single run
    with hydra_config(config):
        finished = show_if_finished(config, folder)
        if finished is not None:
            return finished
        check_output_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if (subfolder := config.hydra.output_subdir) is not None:
            (folder / subfolder).mkdir(parents=True, exist_ok=True)
            values = {key: config[key] for key in config if key != "hydra"}
            described = {"config": values, "hydra": {"hydra": config.hydra}, "overrides": list(overrides)}
            for name, part in described.items():
                OmegaConf.save(part, folder / subfolder / f"{name}.yaml")
    with open_dict(config):
        del config["hydra"]
    leave_out_sweep(config)
    try:
        with _torch_settings_kept(), env_override(environment):
            return train(config, folder, overrides)
    finally:
        set_threads(None)  # as before the run


@contextmanager
def _torch_settings_kept() -> Iterator[None]:
    """Restore what Lightning sets for the whole process: `trainer.deterministic` and `trainer.benchmark`."""
    before = _determinism()
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        if _determinism() != before:  # torch imports its compiler to set it
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def _determinism() -> tuple[bool, bool]:
    """Return whether torch is to be deterministic, and whether it only warns where it is not."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def study(name: str, /, *overrides: str, **values: Any) -> StudyResults | None:
    """Run or resume a study, like `charlab train study=NAME OVERRIDES`.

    >>> results = charlab.study("demo", "launcher.at_once=2")
    >>> results = charlab.study("model=bigram", "optimizer.lr=1e-3,1e-2")

    A notebook shows the results as a report; `results.plot()` is a matplotlib figure, `results.table()` a DataFrame.

    Args:
        name: name of the study; or the first override of an ordinary sweep or a search.
        overrides: further command-line arguments, one string each.
        values: the same as keyword arguments, as in `run`. A class given as `model=Mine` becomes an option of that
            name, which arms and overrides may choose: `"model=Mine,gpt"`.

    Returns:
        The study's results, in which some runs may have failed; None for a dry run or a search.

    Raises:
        UserError: if the study or an override is invalid, before anything is written.
    """
    replace_missing_characters()
    parts, typed = _apart(values)
    with _options(parts) as (_, folder):
        composer = Composer(config_dir=folder)
        first, *others = _texts((name, *overrides))
        given = composer.prepare([first if "=" in first else f"study={first}", *others, *typed])
        return sweep(composer.master(given), composer, given)


def evaluate(run: Record | Path | str, /, *overrides: str, **values: Any) -> Score:
    """Score a run's model, like `charlab evaluate run=RUN OVERRIDES`, and return the score.

    >>> charlab.evaluate(record, protocol="sliding", stride=64)

    Args:
        run: the run's record or folder.
        overrides: further command-line arguments, one string each.
        values: the same as keyword arguments, as in `run`.

    Raises:
        UserError: if there is no such run, or an override is invalid.
    """
    from charlab.runs.evaluate import evaluate_run

    replace_missing_characters()
    return evaluate_run(compose([_chosen(run), *_texts(overrides), *_overrides(values)], "evaluate"))


def generate(run: Record | Path | str, /, *overrides: str, **values: Any) -> str | list[str]:
    """Return text that a run's model generates, like `charlab generate run=RUN OVERRIDES`, without printing it.

    >>> print(charlab.generate(record, prompt="ROMEO:", length=200, temperature=0.8))

    Args:
        run: the run's record or folder.
        overrides: further command-line arguments, one string each.
        values: the same as keyword arguments, as in `run`.

    Returns:
        The text with its prompt; a list of texts if `num_samples` is more than one.

    Raises:
        UserError: if there is no such run, or an override is invalid.
    """
    from charlab.runs.generate import generate_from_run

    config = compose([_chosen(run), *_texts(overrides), *_overrides(values)], "generate")
    texts = generate_from_run(config, Console(file=io.StringIO(), force_jupyter=False))
    return texts if config.num_samples > 1 else texts[0]


def verify(
    name: Record | Path | str, /, *, output_dir: str | Path = "outputs", quick: bool = False, trust: bool = False
) -> pd.DataFrame:
    """Check a run or a study without trusting it, like `charlab verify NAME`, and return a table of the checks.

    Args:
        name: a run's record, its folder or the beginning of its fingerprint; or the name of a study.
        output_dir: folder of all outputs.
        quick: whether to skip the checks that need the weights.
        trust: whether code in the folders of runs may be imported.

    Returns:
        A row for each `check`: whether it `holds` (None if it could not be checked), and what was `found`.

    Raises:
        UserError: if there is no such run or study, or the run is not finished.
    """
    import pandas as pd

    named = str(name.folder if isinstance(name, Record) else name)
    findings = verify_named(named, Path(output_dir), scoring=not quick, trust=trust)
    return pd.DataFrame(list(findings), columns=["check", "holds", "found"])


def _chosen(run: Record | Path | str) -> str:
    return f"run={to_command_line(str(run.folder if isinstance(run, Record) else run))}"


def _texts(overrides: Sequence[Any]) -> list[str]:
    """Return overrides after checking that each is a text."""
    for override in overrides:
        if not isinstance(override, str):
            raise UserError(f'{override!r} is not an override: give each as a text of its own, such as "model=gpt".')
    return list(overrides)


def _apart(parts: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the keywords that are Python objects, and the others as overrides."""
    objects = {key: value for key, value in parts.items() if not _is_plain(value)}
    return objects, _overrides({key: value for key, value in parts.items() if key not in objects})


def _is_plain(value: Any) -> bool:
    """Return whether a value can be typed on the command line."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, Real | str | Path | np.generic)


def _overrides(values: Mapping[str, Any]) -> list[str]:
    """Return keywords as overrides; a dictionary sets the keys below its own."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping) and "_target_" in value and key.startswith(PLACES):
            found.append(f"++{key}={to_command_line(_plain(value, key))}")  # adds it, or replaces what is there
        elif isinstance(value, Mapping):
            found += _overrides({f"{key}.{name}": part for name, part in value.items()})
        else:
            is_name = isinstance(value, str) and _NAME.fullmatch(value) and value.lower() not in _CONSTANTS
            found.append(f"{key}={value if is_name else to_command_line(_plain(value, key))}")
    return found


_NAME = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)  # needs no quotes
_CONSTANTS = ("true", "false", "null", "nan", "inf")

OPTIONS = ("model", "optimizer", "scheduler", "objective", "averaging")
NAMED = ("callbacks", "logger")
PLACES = ("callbacks.", "logger.", "trainer.")  # of parts that a mapping replaces as a whole


@contextmanager
def _options(parts: Mapping[str, Any]) -> Iterator[tuple[list[str], str | None]]:
    """Make Python objects available as options of the configuration while the block runs.

    Yields:
        The overrides that choose the options, and the folder of their files, if there are any.

    Raises:
        UserError: if an object is neither a class nor a partial of one, or a configuration cannot hold its arguments.
    """
    nodes: dict[str, dict[str, Any]] = {}
    overrides: list[str] = []
    for key, value in parts.items():
        if key in OPTIONS:
            nodes[key] = node_of(value, key, partial=key == "optimizer")
            if any((home / key / f"{_name(nodes[key])}.yaml").is_file() for home in (conf_folder(), Path("conf"))):
                raise UserError(
                    f"{key}={_name(nodes[key])} is an option already: give {nodes[key]['_target_']} another name."
                )
            overrides.append(f"{key}={_name(nodes[key])}")
        elif key in NAMED and isinstance(value, Mapping):
            for name, part in value.items():
                own = f"{key}.{name}"
                overrides += _overrides({own: part if _is_plain(part) else node_of(part, own)})
        else:
            known = f"{', '.join(OPTIONS)}, or a dictionary for {' or '.join(NAMED)}"
            raise UserError(f"{key}=… cannot be given as a Python object: give {known}.")
    with tempfile.TemporaryDirectory() as folder:
        for key, node in nodes.items():
            Path(folder, key).mkdir()
            OmegaConf.save(OmegaConf.create(node), Path(folder, key, f"{_name(node)}.yaml"))
        yield overrides, folder if nodes else None


def _name(node: Mapping[str, Any]) -> str:
    return node["_target_"].rpartition(".")[2]


def node_of(value: Any, key: str, *, partial: bool = False) -> dict[str, Any]:
    """Return the configuration of a class, or of a `functools.partial` of one.

    Args:
        value: the class or partial.
        key: its key in the configuration, for error messages.
        partial: whether charlab will call it with further arguments.

    Raises:
        UserError: if `value` is neither, or cannot be imported by its name.
    """
    called, arguments = (value.func, value.keywords) if isinstance(value, functools.partial) else (value, {})
    name = getattr(called, "__qualname__", "")
    if not isinstance(called, type | FunctionType) or "<lambda>" in name:
        raise UserError(
            f"{key} is an instance of {type(value).__name__}: give the class, or functools.partial(CLASS, ARGUMENT=…), "
            "from which each run makes its own."
        )
    if isinstance(value, functools.partial) and value.args:
        raise UserError(f"{key} has an argument without a name: write functools.partial({name}, NAME=…).")
    owner: Any = sys.modules.get(called.__module__)
    for attribute in name.split("."):
        owner = getattr(owner, attribute, None)
    if owner is not called:
        raise UserError(
            f"{key}: {called.__module__}.{name} is not, or no longer, found by that name: define it at the top "
            "level of a module or notebook, and import it again if it was reloaded."
        )
    node = {"_target_": f"{called.__module__}.{name}", **({"_partial_": True} if partial else {})}
    return node | {argument: _plain(part, f"{key}.{argument}") for argument, part in arguments.items()}


def _plain(value: Any, key: str) -> Any:
    """Return an argument in the form that a configuration holds."""
    if isinstance(value, np.generic):  # its repr is not a number
        value = value.item()
    if isinstance(value, list | tuple):
        return [_plain(part, f"{key}[{index}]") for index, part in enumerate(value)]
    if isinstance(value, Mapping):
        numbers = all(type(name) in (bool, int, float) for name in value)  # keys of several types have no order
        return {name if numbers else str(name): _plain(part, f"{key}.{name}") for name, part in value.items()}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, Path):
        return str(value)
    return node_of(value, key, partial=True)
