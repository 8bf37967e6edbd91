"""Former names of overrides, and what they are called now."""

from __future__ import annotations

from collections.abc import Sequence

OVERRIDES: dict[str, tuple[str, ...]] = {
    "launcher=basic": ("launcher=local",),
    "launcher=joblib": ("launcher=local", "launcher.at_once=null"),
    "hydra.launcher.n_jobs=-1": ("launcher.at_once=null",),
}
"""By whole override: what takes its place."""

KEYS: dict[str, str] = {
    "hydra.launcher.n_jobs": "launcher.at_once",
    "hydra.launcher.": "launcher.",
    "hydra/launcher": "launcher",
}
"""By key, or by the beginning of keys if it ends with a dot: what takes its place."""


def translate(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return overrides by their present names, and a sentence for each one that has changed.

    Args:
        overrides: as typed, or as a study's file has them.
    """
    translated: list[str] = []
    notes: list[str] = []
    for override in overrides:
        present = OVERRIDES.get(override) or (_renamed(override),)
        translated += present
        if present != (override,):
            notes.append(f"{override} is now {' '.join(present)}.")
    return translated, notes


def _renamed(override: str) -> str:
    key, equals, value = override.partition("=")
    signs = key[: len(key) - len(key.lstrip("+~"))]
    name = key[len(signs) :]
    for former, present in KEYS.items():
        if name == former or (former.endswith(".") and name.startswith(former)):
            return f"{signs}{present}{name[len(former) :]}{equals}{value}"
    return override
