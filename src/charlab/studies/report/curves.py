"""Learning curves over the seeds of an arm, on one axis."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import pandas as pd

NUM_POINTS = 200  # of a curve, at most
PREFERRED = "estimate/validation/nll"


class Curve(NamedTuple):
    """An arm's loss while training: (N,) each."""

    x: Float[np.ndarray, " N"]
    mean: Float[np.ndarray, " N"]
    low: Float[np.ndarray, " N"]
    high: Float[np.ndarray, " N"]


def curve_over_seeds(points: pd.DataFrame, clock: str) -> Curve | None:
    """Returns the mean over seeds, and the lowest and the highest; None if nothing finite was measured.

    Seeds take different times, and with a budget in seconds different numbers of steps. So they are compared at the
    same shares of their steps, each interpolated between its own points, and x is the mean of their clocks there.

    Args:
        points: a row per measurement: step, characters, seconds, metric, value, seed.
        clock: the column that becomes x.
    """
    points = points[np.isfinite(points["value"].astype(float))]
    metric = _metric(set(points["metric"]))
    seeds = []
    for _, rows in points[points["metric"] == metric].groupby("seed"):
        steps, first = np.unique(rows["step"].to_numpy(dtype=float), return_index=True)
        shares = steps / max(steps[-1], 1)
        seeds.append((shares, *(rows[column].to_numpy(dtype=float)[first] for column in (clock, "value"))))
    if not seeds:
        return None
    start = max(shares[0] for shares, _, _ in seeds)
    shares = np.unique(np.concatenate([shares[shares >= start] for shares, _, _ in seeds]))
    if len(shares) > NUM_POINTS:
        shares = np.linspace(shares[0], shares[-1], NUM_POINTS)
    x = np.stack([np.interp(shares, own, clocks) for own, clocks, _ in seeds])  # (S, N)
    values = np.stack([np.interp(shares, own, losses) for own, _, losses in seeds])  # (S, N)
    return Curve(x.mean(0), values.mean(0), values.min(0), values.max(0))


def _metric(names: Collection[str]) -> str | None:
    """Returns what is drawn: estimates on validation text, else another loss on it, else that of the batches."""
    others = sorted(name for name in names if name.endswith("/validation/nll"))
    return next((name for name in [PREFERRED, *others, "train/loss"] if name in names), None)
