"""Format numbers, durations, sizes and lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta

UNKNOWN = "–"

_PREFIXES = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6}
_MEMORY_UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}


def fixed(value: float | None, digits: int = 4) -> str:
    """Return a value with a fixed number of decimals."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{value:.{digits}f}" if math.isfinite(value) else ("∞" if value > 0 else "−∞")


def signed(value: float, digits: int = 4) -> str:
    """Return a value with a fixed number of decimals and an explicit sign (U+2212 for minus); zero has none."""
    sign = "−" if value < 0 else "+" if value > 0 else ""
    return sign + fixed(abs(value), digits)


def interval(ends: tuple[float, float], digits: int = 4) -> str:
    """Return an interval of differences in brackets."""
    return f"[{signed(ends[0], digits)}, {signed(ends[1], digits)}]"


def with_error(value: float | None, half_width: float | None, digits: int = 4) -> str:
    """Return a mean, followed by ± the half-width of its interval if there is one."""
    error = "" if half_width is None or not math.isfinite(half_width) else f" ± {half_width:.{digits}f}"
    return fixed(value, digits) + error


def nats(value: float) -> str:
    """Return a difference for use in a sentence: four decimals, or two significant digits if below 0.001."""
    return (f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}").replace("-", "−")


def ratio(logarithm: float) -> str:
    """Return a ratio with three significant digits, given its natural logarithm: 1.25×."""
    if math.isnan(logarithm):
        return UNKNOWN
    return f"{three_digits(math.exp(logarithm))}×" if math.isfinite(logarithm) else "∞" if logarithm > 0 else "0×"


def three_digits(value: float) -> str:
    """Return a number with three significant digits, or all digits before the point if these are more."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def probability(p: float) -> str:
    """Return a p-value with two to four decimals, or "< 0.0001"."""
    if math.isnan(p):
        return UNKNOWN
    if p < 0.0001:
        return "< 0.0001"
    digits = 4 if p < 0.01 or f"{p:.3f}" == "0.050" else 3 if p < 0.1 else 2  # shows on which side of 0.05 it is
    return f"{p:.{digits}f}"


def percent(share: float) -> str:
    """Return a share in percent, to three digits: 95%, 98.3%; a share below 1 with more if they would say 100%."""
    text = f"{100 * share:.3g}"
    return f"{100 * share:.5g}%" if text == "100" and share < 1 else f"{text}%"


def amount(value: float | None) -> str:
    """Return a count: in full below ten million, else with three significant digits and an SI prefix."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if abs(value) < 1e7:
        return f"{value:,.0f}"
    prefix, size = next((p, s) for p, s in _PREFIXES.items() if abs(value) >= 0.9995 * s)  # 0.9995 is written 1
    return f"{value / size:.3g} {prefix}"


def flop_rate(flops: float, peak: float | None) -> str:
    """Return floating-point operations per second, and their share of the peak (MFU) if that is known."""
    share = f" ({percent(flops / peak)} MFU)" if peak else ""
    return f"{amount(flops)}FLOP/s{share}" if flops >= 1e7 else f"{amount(flops)} FLOP/s{share}"


def duration(seconds: float | None) -> str:
    """Return a duration in a readable unit: 0.7 s, 44 s, 10 min, 6.0 h."""
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    if seconds < 180:
        return f"{seconds:.{0 if seconds >= 10 else 1}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 10_800 else f"{seconds / 3600:.1f} h"


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds: 1:02:03."""
    return str(timedelta(seconds=round(seconds)))


def memory(size: float | None) -> str:
    """Return a number of bytes in a readable unit: B, KiB, MiB or GiB."""
    if size is None or math.isnan(size):
        return UNKNOWN
    unit, factor = next(((u, f) for u, f in _MEMORY_UNITS.items() if size >= f), ("B", 1))
    return f"{size / factor:.3g} {unit}" if size < 999.5 * factor else f"{size / factor:,.0f} {unit}"


def count(number: int, noun: str) -> str:
    """Return a number of things: 1 seed, 8 seeds."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def joined(words: Sequence[str], conjunction: str = "and", most: int = 8) -> str:
    """Return a list for use in a sentence, cut after `most` words: "a, b and 3 more"."""
    if len(words) > most:
        return f"{', '.join(words[:most])} {conjunction} {len(words) - most} more"
    return f" {conjunction} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
