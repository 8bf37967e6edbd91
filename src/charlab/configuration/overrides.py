"""Rewrite overrides typed as key=value: old names to new ones, values to fit Hydra's grammar, and all to folder names.

Hydra reads a value such as `a,b` as a sweep and cannot parse many texts, such as file names with accents. Values with
only one possible meaning are rewritten so that Hydra reads them that way.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from charlab.errors import UserError
from charlab.types import display

FORMER_OVERRIDES: dict[str, tuple[str, ...]] = {
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

FORMER_KEYS: dict[str, str] = {
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

FORMER_VALUES: dict[str, dict[str, str]] = {
    "trainer.precision": {
        "float32": "32-true",
        "float64": "64-true",
        "bfloat16": "bf16-mixed",
        "float16": "16-mixed",
    },
}
"""Replacements of values by key; values separated by commas are replaced one by one."""

LONGEST_NAME = 120  # bytes; file systems allow 255, including suffixes such as .lock

TEXT_KEYS = ("prompt", "infill", "blank")
"""Keys whose values are always a single text, even with commas and brackets."""

_KEY_AND_VALUE = re.compile(r"(?P<key>\+{0,2}[\w./@$-]+)=(?P<value>.*)", re.DOTALL)
_QUOTED = re.compile(r"""(?P<quote>["'])(\\.|(?!(?P=quote))[^\\])*(?P=quote)""", re.DOTALL)

SWEEP_KEYS = ("study", "search", "launcher", "dry_run")
"""Keys of `conf/train.yaml` that are settings of a sweep as a whole, without effect on its single runs."""


def translate(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return overrides with their current names, and a note for each one that changed.

    Hydra's own launchers keep their names if one of its own sweepers is chosen, which starts jobs by them.

    Args:
        overrides: overrides from the command line or a study's file.
    """
    translated: list[str] = []
    notes: list[str] = []
    hydras_own = any(re.fullmatch("hydra/sweeper=(?!charlab$).+", override) for override in overrides)
    for override in overrides:
        if hydras_own and key_of(override).startswith(("hydra/launcher", "hydra.launcher.")):
            translated.append(override)
            continue
        renamed = _renamed(override)
        present = FORMER_OVERRIDES.get(override) or FORMER_OVERRIDES.get(renamed, (renamed,))
        translated += present
        if present != (override,):
            notes.append(f"{override} is now {' '.join(present)}.")
    return translated, notes


def _renamed(override: str) -> str:
    key, equals, value = override.partition("=")
    signs = key[: len(key) - len(key.lstrip("+~"))]
    name = key[len(signs) :]
    if name in FORMER_VALUES:
        value = ",".join(FORMER_VALUES[name].get(part, part) for part in value.split(","))
    for former, present in FORMER_KEYS.items():
        if name == former or (former.endswith(".") and name.startswith(former)):
            name = f"{present}{name[len(former) :]}"
            break
    return f"{signs}{name}{equals}{value}"


def prepare(
    override: str,
    list_groups: Collection[str] = (),
    groups: Collection[str] = (),
    text_keys: Collection[str] = (),
) -> str:
    """Return an override that Hydra parses as the user meant it.

    - For `list_groups`, which accept several options, `logger=tensorboard,csv` becomes `logger=[tensorboard,csv]`, and
      `~logger` and `logger=null` become `logger=[]`.
    - For the other `groups`, `callbacks=null` becomes `~callbacks`.
    - Values of `TEXT_KEYS` are quoted, unless the whole value is quoted already.
    - Values of other `text_keys` and of `groups` are quoted if Hydra would read a number, true or false.
    - A value that Hydra cannot parse is quoted, unless it begins with a bracket or a quote or contains a comma: it was
      then meant as a list, a mapping or a sweep, and Hydra reports the error.
    """
    match = _KEY_AND_VALUE.fullmatch(override)
    if match is None:
        return f"{override[1:]}=[]" if override.startswith("~") and override[1:] in list_groups else override
    key, value = match["key"], match["value"]
    name = key.lstrip("+")
    if name in list_groups and value == "null":
        return f"{key}=[]"
    if name in groups and value == "null":
        return f"~{key}"
    if value.strip("\"'") == "???" and name in (*TEXT_KEYS, "data.path"):
        way = f"./{value}" if name == "data.path" else "another text"
        raise UserError(f"{override} cannot be expressed, because ??? is a missing value in Hydra: give {name}={way}.")
    if name in TEXT_KEYS:
        return override if _QUOTED.fullmatch(value) else f"{key}={quoted(value)}"
    if name in list_groups and "," in value and not value.startswith("[") and "(" not in value:
        return f"{key}=[{value}]"
    parsed = parse_or_none(override)
    if parsed is None:
        is_text = not re.match(r"""["'\[{(]""", value) and "," not in value
    else:
        is_text = name in {*text_keys, *groups} and not parsed.is_sweep_override()
        is_text = is_text and isinstance(parsed.value(), int | float)
    return f"{key}={quoted(value)}" if is_text else override


def quoted(text: str) -> str:
    """Return `text` in quotes, so that Hydra and OmegaConf read back exactly the same text."""
    return QuotedString(escape_interpolations(text), Quote.double).with_quotes()


def quoted_if_needed(text: str) -> str:
    """Return `text` as a value to be typed, in quotes unless it is as plain as most names and paths."""
    return text if re.fullmatch(r"[\w./-]+", text, re.ASCII) else quoted(text)


def text_of(override: str) -> str:
    """Return the value of an override as text, without the quotes around it."""
    value = override.partition("=")[2]
    return str(parse(f"key={value}").value()) if _QUOTED.fullmatch(value) else value


def escape_interpolations(value: Any) -> Any:
    """Return a text, or nested values, with every "${" escaped, so that OmegaConf reads all texts literally."""
    if isinstance(value, dict):
        return {key: escape_interpolations(part) for key, part in value.items()}
    if isinstance(value, list):
        return [escape_interpolations(part) for part in value]
    if not isinstance(value, str):
        return value
    # A backslash makes OmegaConf take "${" literally; existing backslashes before it are doubled.
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)


def to_command_line(value: Any) -> str:
    """Return a value in the syntax of the command line, from which Hydra reads back exactly the same value."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{to_command_line(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(to_command_line, value))}]"
    if value is None:
        return "null"
    return quoted(value) if isinstance(value, str) else display(value)


def parse(override: str) -> Override:
    """Return the parsed override.

    Raises:
        HydraException: if it is not a valid override.
    """
    return OverridesParser.create().parse_override(override)


def parse_or_none(override: str) -> Override | None:
    """Return the parsed override; None if it is not a valid one."""
    try:
        return parse(override)
    except (HydraException, RecursionError):
        return None


def typed_value(override: str) -> Any:
    """Return the value that an override sets; None if it is not a valid override."""
    parsed = parse_or_none(override)
    return parsed.value() if parsed is not None else None


def keys_set(key: str, value: object) -> list[str]:
    """Return the dotted keys that an override sets: one, or one per entry if its value is a mapping."""
    if not isinstance(value, dict) or not value:
        return [key]
    return [inner for name, part in value.items() for inner in keys_set(f"{key}.{name}", part)]


def key_of(override: str) -> str:
    """Return the key or group that an override sets."""
    return override.lstrip("+~").partition("=")[0]


def concerns_sweep(override: str) -> bool:
    """Return whether an override is a setting of Hydra's, or of a sweep as a whole, rather than of its runs."""
    key = key_of(override)
    return key.startswith("hydra") or key.partition(".")[0] in SWEEP_KEYS


def without_effect(overrides: Sequence[str]) -> str | None:
    """Return the first override that affects only sweeps, so that a single run ignores it; None if there is none."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key.partition(".")[0] in SWEEP_KEYS and value.lower() not in ("null", "false", "local"):
            return override
    return None


# --- Names ------------------------------------------------------------------------------------------------------------


def folder_name_of(overrides: Sequence[str], without: Collection[str], title: str) -> str:
    """Return a folder name that describes what overrides set, such as "lr=0.1,rotary".

    Args:
        overrides: overrides of one run, as on the command line. The last ones, which usually differ between runs, come
            first in the name, because its end may be cut off.
        without: keys and groups to leave out, with everything below them.
        title: words separated by "-" that need not be repeated.
    """
    values: dict[str, str] = {}
    for override in reversed(overrides):
        key, _, value = override.lstrip("+~").partition("=")
        if not any(key == left or key.startswith((f"{left}.", f"{left}/")) for left in without):
            values.setdefault(key, re.sub(r"^[/~.].*/", "", value.strip("\"'") or "null"))  # a file by its name
    labels = itertools.starmap(label, zip(short_keys(values), values.values(), strict=True))
    return shortened(",".join(told for told in labels if f"-{told}-" not in f"-{title}-"))


def short_keys(keys: Collection[str]) -> list[str]:
    """Return the last part of each dotted key or group's name; the keys themselves if some would be the same."""
    leaves = [leaf(key) for key in keys]
    return leaves if len(set(leaves)) == len(leaves) else list(keys)


def leaf(key: str) -> str:
    """Return the last part of a dotted key or of a group's name."""
    return re.split(r"[./]", key.lstrip("+"))[-1]


def label(key: str, value: str) -> str:
    """Return a name for one value: "gpt" for `model=gpt`, "lr=0.1" for `optimizer.lr=0.1`."""
    readable = re.sub(r"[^\w.+-]+", "-", value).strip("-") or "empty"
    named = readable[0].isalpha() and readable not in ("true", "false", "null")
    return readable if named else re.sub(r"[^\w.-]+", "-", key) + f"={readable}"


def shortened(name: str) -> str:
    """Return a name short enough for every file system: a hash replaces the end of one that is too long."""
    encoded = name.encode()
    if len(encoded) <= LONGEST_NAME:
        return name
    return f"{encoded[: LONGEST_NAME - 9].decode(errors='ignore')}~{hashlib.sha256(encoded).hexdigest()[:8]}"
