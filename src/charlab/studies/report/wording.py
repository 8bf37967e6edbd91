"""How numbers, names and commands are written in reports."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from charlab.studies.plan import Cell
from charlab.studies.report.pieces import UNKNOWN

_UNITS = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}
_MEMORY_UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
# An absolute path, of POSIX or Windows, of at least two parts; the lookbehind spares addresses and parts of paths.
_ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~…-])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s/\\:'\",;()]+[\\/])+[^\s/\\:'\",;()]*")


def figure(value: float | None, digits: int = 4) -> str:
    """Returns a value with so many digits after the point."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:.{digits}f}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def signed(value: float, digits: int = 4) -> str:
    """Returns a difference with its sign, in real minus signs."""
    text = figure(value, digits)
    if text == UNKNOWN or text.startswith("−"):
        return text
    return f"+{text}" if not text.startswith("-") else f"−{text[1:]}"


def interval(ends: tuple[float, float], digits: int = 4) -> str:
    """Returns the two ends of an interval of differences."""
    return f"[{signed(ends[0], digits)}, {signed(ends[1], digits)}]"


def with_error(value: float | None, half_width: float | None, digits: int = 4) -> str:
    """Returns a mean with the half-width of its interval, where there is one."""
    error = "" if half_width is None or not math.isfinite(half_width) else f" ± {half_width:.{digits}f}"
    return figure(value, digits) + error


def probability(p: float) -> str:
    """Returns a p-value with as many digits as mean something."""
    if math.isnan(p):
        return UNKNOWN
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def amount(value: float | None) -> str:
    """Returns a count: in full below ten million, with three digits and a prefix above."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if abs(value) < 1e7:
        return f"{value:,.0f}"
    prefix, size = next((prefix, size) for prefix, size in _UNITS.items() if abs(value) >= size)
    return f"{value / size:.3g} {prefix}"


def duration(seconds: float | None) -> str:
    """Returns a time."""
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 180:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 10_800 else f"{seconds / 3600:.1f} h"


def memory(size: float | None) -> str:
    """Returns an amount of memory."""
    if size is None or math.isnan(size):
        return UNKNOWN
    unit, factor = next(((u, f) for u, f in _MEMORY_UNITS.items() if size >= f), ("B", 1))
    return f"{size / factor:.3g} {unit}" if size < 1000 * factor else f"{size / factor:,.0f} {unit}"


def labels(names: Sequence[str], most: int = 24) -> dict[str, str]:
    """Returns a label of at most `most` characters for each name, all different: longer ones lose their middle."""
    found: dict[str, str] = {}
    for name in names:
        label = _shortened(name, most)
        if label in found.values():
            label = f"{_shortened(name, most - 4)} ({names.index(name) + 1})"
        found[name] = label
    return found


def _shortened(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


def printable(text: str) -> str:
    """Returns a text in which every character that cannot be shown is the sign for that; tabs become spaces."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text.expandtabs(4))


def without_paths(text: str) -> str:
    """Returns a text in which absolute paths, which say whose machine it was, are cut to their ends."""

    def cut(match: re.Match[str]) -> str:
        parts = [part for part in re.split(r"[\\/]", match[0]) if part and part != "~" and not part.endswith(":")]
        return "/".join(["…", *parts[-2 if len(parts) > 3 else -1 :]])  # /home/somebody/file: not even two

    return _ABSOLUTE_PATH.sub(cut, text)


def cell_command(cell: Cell) -> str:
    """Returns the command that makes a cell's run alone; files below the working folder by their relative paths."""
    return relative(f"python scripts/train.py {shlex.join(cell.overrides)}")


def relative(text: str) -> str:
    """Returns a text in which the working folder is not named."""
    return text.replace(f"{Path.cwd()}/", "")
