"""What a user types as key=value, made fit for Hydra's grammar.

Hydra reads a value such as `a,b` as a sweep and chokes on many texts, file names with accents among them. Here
values that can mean but one thing are rewritten so that Hydra takes them as meant.
"""

import re
from collections.abc import Collection

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from charlab.errors import UserError

TEXT_KEYS = ("prompt", "infill")
"""Keys whose values are always one text, commas and brackets included."""

_KEY_AND_VALUE = re.compile(r"(?P<key>\+{0,2}[\w./@$-]+)=(?P<value>.*)", re.DOTALL)
_QUOTED = re.compile(r"""(?P<quote>["'])(\\.|(?!(?P=quote))[^\\])*(?P=quote)""", re.DOTALL)


def prepare(
    override: str,
    list_groups: Collection[str] = (),
    groups: Collection[str] = (),
    text_keys: Collection[str] = (),
) -> str:
    """Return an override as Hydra wants it.

    - `logger=tensorboard,csv` becomes `logger=[tensorboard,csv]`, `~logger` and `logger=null` become `logger=[]`, for
      `list_groups`, of which several options may be chosen.
    - `callbacks=null` becomes `~callbacks`, for the other `groups`.
    - The values of `TEXT_KEYS` are quoted, unless they are quoted as a whole already.
    - Those of other `text_keys` are quoted if Hydra would read a number, true, false or null.
    - A value that Hydra's grammar cannot read is quoted, unless a bracket, a quote or a comma in it shows that it was
      meant as a list, a mapping or a sweep; that is then an error to be reported.

    Raises:
        UserError: for a text that cannot be expressed.
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
    """Return `text` in quotes, such that Hydra and OmegaConf give back the very same text."""
    # A backslash before "${" makes OmegaConf take it literally; those that are there already are doubled.
    literal = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    return QuotedString(literal, Quote.double).with_quotes()


def parse(override: str) -> Override:
    """Return the parsed override.

    Raises:
        HydraException: if it is none.
    """
    return OverridesParser.create().parse_override(override)


def _is_readable(override: str) -> bool:
    try:
        parse(override)
    except HydraException:
        return False
    return True


def _is_no_text(override: str) -> bool:
    """Return whether Hydra reads a single value, which is no text."""
    try:
        parsed = parse(override)
    except HydraException:
        return False
    return not parsed.is_sweep_override() and (parsed.value() is None or isinstance(parsed.value(), int | float | bool))
