"""Rewrite overrides typed as key=value to fit Hydra's grammar.

Hydra reads a value such as `a,b` as a sweep and cannot parse many texts, such as file names with accents. Values with
only one possible meaning are rewritten so that Hydra reads them that way.
"""

import re
from collections.abc import Collection

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from charlab.errors import UserError

TEXT_KEYS = ("prompt", "infill", "blank")
"""Keys whose values are always a single text, even with commas and brackets."""

_KEY_AND_VALUE = re.compile(r"(?P<key>\+{0,2}[\w./@$-]+)=(?P<value>.*)", re.DOTALL)
_QUOTED = re.compile(r"""(?P<quote>["'])(\\.|(?!(?P=quote))[^\\])*(?P=quote)""", re.DOTALL)


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
    - Values of other `text_keys` are quoted if Hydra would read a number, true, false or null.
    - A value that Hydra cannot parse is quoted, unless it begins with a bracket or a quote or contains a comma: it was
      then meant as a list, a mapping or a sweep, and Hydra reports the error.

    Raises:
        UserError: if Hydra's grammar cannot express the text.
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
        raise UserError(f"{override} cannot be expressed, as ??? means a missing value to Hydra: give {name}={way}.")
    if name in TEXT_KEYS:
        return override if _QUOTED.fullmatch(value) else f"{key}={quoted(value)}"
    if name in list_groups and "," in value and not value.startswith("[") and "(" not in value:
        return f"{key}=[{value}]"
    if name in text_keys and _is_no_text(override):
        return f"{key}={quoted(value)}"
    if not re.match(r"""["'\[{(]""", value) and "," not in value and not _is_readable(override):
        return f"{key}={quoted(value)}"
    return override


def quoted(text: str) -> str:
    """Return `text` in quotes, so that Hydra and OmegaConf read back exactly the same text."""
    # A backslash makes OmegaConf take "${" literally; existing backslashes before it are doubled.
    literal = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    return QuotedString(literal, Quote.double).with_quotes()


def parse(override: str) -> Override:
    """Return the parsed override.

    Raises:
        HydraException: if it is not a valid override.
    """
    return OverridesParser.create().parse_override(override)


def _is_readable(override: str) -> bool:
    try:
        parse(override)
    except HydraException:
        return False
    return True


def _is_no_text(override: str) -> bool:
    """Return whether Hydra reads a single value that is not text."""
    try:
        parsed = parse(override)
    except HydraException:
        return False
    return not parsed.is_sweep_override() and (parsed.value() is None or isinstance(parsed.value(), int | float | bool))
