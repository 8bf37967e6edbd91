"""Simulate the t-statistics of studies without an effect, look by look, from their differences."""

from collections.abc import Sequence

import numpy as np


def t_statistics(looks: Sequence[int], studies: int, seed: int) -> np.ndarray:
    """Return the t-statistics (studies, looks) of standard normal differences."""
    differences = np.random.default_rng(seed).standard_normal((studies, looks[-1]))
    found = []
    for n in looks:
        seen = differences[:, :n]
        found.append(np.sqrt(n) * seen.mean(1) / seen.std(1, ddof=1))
    return np.stack(found, axis=1)
