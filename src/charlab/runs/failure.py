"""Report in one sentence which of the user's parts, such as a model or a callback, failed, and where."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from torch import nn

from charlab.configuration.build import find, nodes, plain
from charlab.configuration.messages import find_user_error, line_of_user, one_sentence
from charlab.errors import PartError, UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


@contextlib.contextmanager
def naming_part(model: nn.Module) -> Iterator[None]:
    """Replace an error in a user's model by one sentence that says where it failed, while the block runs."""
    try:
        yield
    except Exception as error:
        modules: dict[str, dict[str, str]] = defaultdict(dict)
        for part in map(type, model.modules()):
            if _is_foreign(part, "model"):
                modules[part.__module__][part.__qualname__] = "model"
        if find_user_error(error) or not (failed := _failure(error, modules)):
            raise
        raise UserError(str(failed)) from error


def failed_part(
    error: Exception, config: DictConfig, foreign: Mapping[str, object], module: LightningModule
) -> PartError | None:
    """Return the error to raise if a part of a run that is not charlab's own raised `error`, else None.

    `foreign` are the callbacks and loggers that are not charlab's own, by their keys.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for name, part in foreign.items():
            if frame.f_locals.get("self") is part:
                kind = type(part)
                return _part_error(error, name, f"{kind.__module__}.{kind.__qualname__}", frame.f_code.co_name)
    # An optimizer calls the module for the loss; if that fails, the optimizer is not to blame.
    hooks = [i for i, frame in enumerate(frames) if frame.f_locals.get("self") is module]
    return _failure(error, _foreign_modules(config), after=hooks[-1] if hooks else 0)


def _failure(error: Exception, modules: Mapping[str, Mapping[str, str]], after: int = 0) -> PartError | None:
    """Return an error that names the innermost frame in certain modules, from number `after` on; None without one.

    The modules are given by name, each with the keys of its classes and functions.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames[after:]):
        found, code = frame.f_globals.get("__name__", ""), frame.f_code
        if found in modules:
            key = modules[found].get(code.co_qualname.partition(".")[0])
            return _part_error(error, key, found, code.co_name)
    if "from user code:" in str(error):  # raised by torch's compiler, so no frame is in the user's code
        return _part_error(error, None, "", "")
    return None


def _part_error(error: Exception, name: str | None, kind: str, function: str) -> PartError:
    """Return the error that says where a part failed; `name` is its key if that is known."""
    where = line_of_user(error)
    place = f"{where}, with {name}" if where and name else where or f"{name or kind} ({kind}) failed in {function}"
    message = re.split(r" (?:Hint|from user code): ", one_sentence(error))[0]  # what torch's compiler adds
    return PartError(f"{place}: {type(error).__name__}: {message}")


def _foreign_modules(config: DictConfig) -> dict[str, dict[str, str]]:
    """Return the modules that define parts of the user's, each with the keys of its classes and functions by name."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path, node in nodes(plain(config), ""):
        part, key = find(node["_target_"]), path.removeprefix(".")
        if _is_foreign(part, key):
            found[part.__module__].setdefault(part.__qualname__, key)
    return found


def _is_foreign(part: Any, key: str) -> bool:
    package = (getattr(part, "__module__", None) or "").partition(".")[0]  # torch.tanh has None
    return package not in ("", "charlab", "lightning") and (package != "torch" or key in ("optimizer", "scheduler"))
