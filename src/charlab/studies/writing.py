"""How differences and p-values are written in sentences."""

from __future__ import annotations


def nats(value: float) -> str:
    """Returns a difference in nats per character, as exact as tables have it, or more so where nothing would remain."""
    return (f"{value:.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}").replace("-", "−")


def interval(ends: tuple[float, float]) -> str:
    """Returns the two ends of an interval of differences."""
    return f"{nats(ends[0])} to {nats(ends[1])}"


def p_value(p: float) -> str:
    """Returns what p is, or below which value, if it is smaller than anything that matters."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.3g}"
