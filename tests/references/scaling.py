"""A power law with an offset, fitted by a general optimizer from many starts."""

from __future__ import annotations

import numpy as np
from scipy import optimize


def fit(sizes: np.ndarray, losses: np.ndarray) -> tuple[float, float, float]:
    """Offset, scale at a size of 1, and exponent with the least sum of squares; offset and scale are not negative."""
    best = None
    for exponent in (0.05, 0.2, 0.5, 1.0, 2.0):
        for offset in (0.0, 0.5 * losses.min(), 0.9 * losses.min()):
            start = [offset, np.log(np.ptp(losses) + 0.1) + exponent * np.log(sizes[0]), np.log(exponent)]
            found = optimize.least_squares(
                lambda p: p[0] + np.exp(p[1] - np.exp(p[2]) * np.log(sizes)) - losses,
                start,
                bounds=([0, -np.inf, np.log(0.01)], [np.inf, np.inf, np.log(4.0)]),
                xtol=1e-15,
                ftol=1e-15,
                gtol=1e-15,
                max_nfev=20_000,
            )
            best = found if best is None or found.cost < best.cost else best
    return float(best.x[0]), float(np.exp(best.x[1])), float(np.exp(best.x[2]))
