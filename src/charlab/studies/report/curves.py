"""Learning curves over the seeds of an arm, on one axis."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

NUM_POINTS = 200  # of a curve, at most
PREFERRED = "estimate/validation/nll"


class Curve(NamedTuple):
    """An arm's loss while training, where all its seeds have been: (N,) each."""

    x: Float[np.ndarray, " N"]
    mean: Float[np.ndarray, " N"]
    low: Float[np.ndarray, " N"]
    high: Float[np.ndarray, " N"]


def curve_over_seeds(points: pd.DataFrame, clock: str) -> Curve | None:
    """Returns the mean over seeds, and the lowest and the highest; None if nothing finite was measured.

    Seeds are measured at different seconds, so each is interpolated between its own points, from where the last one
    begins to where the first one ends.

    Args:
        points: a row per measurement: step, characters, seconds, metric, value, seed.
        clock: the column that becomes x.
    """
    points = points[np.isfinite(points["value"].astype(float))]
    metric = _metric(set(points["metric"]))
    seeds = []
    for _, rows in points[points["metric"] == metric].groupby("seed"):
        x, first = np.unique(rows[clock].to_numpy(dtype=float), return_index=True)
        seeds.append((x, rows["value"].to_numpy(dtype=float)[first]))
    if not seeds:
        return None
    start, end = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
    x = np.unique(np.clip(np.concatenate([x for x, _ in seeds]), start, max(start, end)))
    if len(x) > NUM_POINTS:
        x = np.linspace(x[0], x[-1], NUM_POINTS)
    values = np.stack([np.interp(x, *seed) for seed in seeds])  # (S, N)
    return Curve(x, values.mean(0), values.min(0), values.max(0))


def _metric(names: Collection[str]) -> str | None:
    """Returns what is drawn: estimates on validation text, else another loss on it, else that of the batches."""
    others = sorted(name for name in names if name.endswith("/validation/nll"))
    return next((name for name in [PREFERRED, *others, "train/loss"] if name in names), None)
