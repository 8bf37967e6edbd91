"""Values of a study's cells, and the comparison of a single arm."""

from __future__ import annotations

from collections.abc import Mapping

from charlab.studies.definition import Expectation
from charlab.studies.pairs import Value
from charlab.studies.verdicts import Comparison, compare

SEEDS = range(8)
SPREAD = (0.02, -0.01, 0.0, 0.01, -0.02, 0.015, -0.015, 0.005)
BASELINE: dict[int, Value] = {seed: 1.5 + seed / 100 for seed in SEEDS}


def arm(improvement: float, spread: float = 1.0, **cells: Value) -> dict[int, Value]:
    """An arm that is better than the baseline by so much on average; cells by name, as in seed_3=None."""
    values: dict[int, Value] = {seed: 1.5 + seed / 100 - improvement - spread * SPREAD[seed] for seed in SEEDS}
    return values | {int(name.removeprefix("seed_")): value for name, value in cells.items()}


def one(values: Mapping[int, Value], expectation: Expectation = "improve", **changes: object) -> Comparison:
    """The comparison of a study's only arm."""
    study: dict = {"baseline": BASELINE, "seeds": SEEDS, "margin": 0.02} | changes
    return compare(study.pop("baseline"), {"arm": values}, expectations={"arm": expectation}, **study)["arm"]
