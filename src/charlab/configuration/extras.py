"""Parts of charlab that need libraries which are not installed with it."""

from __future__ import annotations

from importlib.util import find_spec

from charlab.errors import UserError

EXTRAS = {
    "launcher=slurm": ("slurm", "submitit"),
    "launcher=ray": ("ray", "ray"),
    "search": ("search", "optuna"),
}
"""By what needs it: the extra, and a module that comes with it."""


def missing_extra(part: str) -> UserError | None:
    """Returns the error for a part whose extra is not installed, or None if it needs none or it is.

    Args:
        part: a choice such as "launcher=ray", or what else needs an extra.
    """
    if part not in EXTRAS:
        return None
    extra, module = EXTRAS[part]
    try:
        installed = find_spec(module) is not None
    except ModuleNotFoundError:
        installed = False
    return None if installed else UserError(f'{part} needs an extra: pip install "charlab[{extra}]".')
