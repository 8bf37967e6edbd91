"""Translate former names of overrides to the current ones."""

from __future__ import annotations

from collections.abc import Sequence

OVERRIDES: dict[str, tuple[str, ...]] = {
    "launcher=basic": ("launcher=local",),
    "launcher=joblib": ("launcher=local", "launcher.at_once=null"),
    "hydra.launcher.n_jobs=-1": ("launcher.at_once=null",),
    "trainer.max_steps=null": ("trainer.max_steps=-1",),
    "callbacks.evaluation=null": ("trainer.limit_val_batches=0",),
    "~callbacks.evaluation": ("trainer.limit_val_batches=0",),
    "callbacks.metrics=null": ("trainer.log_every_n_steps=0",),
    "~callbacks.metrics": ("trainer.log_every_n_steps=0",),
}
"""Replacements of whole overrides."""

KEYS: dict[str, str] = {
    "hydra.launcher.n_jobs": "launcher.at_once",
    "hydra.launcher.": "launcher.",
    "hydra/launcher": "launcher",
    "trainer.max_seconds": "budget.max_seconds",
    "trainer.threads": "compute.threads",
    "trainer.compile": "compute.compile",
    "callbacks.evaluation.every_n_steps": "evaluate_every",
    "callbacks.evaluation.num_batches": "estimate_batches",
    "callbacks.metrics.every_n_steps": "trainer.log_every_n_steps",
}
"""Replacements of keys; a name that ends with a dot is a prefix."""

VALUES: dict[str, dict[str, str]] = {
    "trainer.precision": {
        "float32": "32-true",
        "float64": "64-true",
        "bfloat16": "bf16-mixed",
        "float16": "16-mixed",
    },
}
"""Replacements of values by key; values separated by commas are replaced one by one."""


def translate(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return overrides with their current names, and a note for each one that changed.

    Args:
        overrides: overrides from the command line or a study's file.
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
    if name in VALUES:
        value = ",".join(VALUES[name].get(part, part) for part in value.split(","))
    for former, present in KEYS.items():
        if name == former or (former.endswith(".") and name.startswith(former)):
            name = f"{present}{name[len(former) :]}"
            break
    return f"{signs}{name}{equals}{value}"
