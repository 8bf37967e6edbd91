"""Simulate studies with planned looks: `python -m benchmarks.looks` prints how often they err, and what they save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from charlab.studies.definition import Expectation
from charlab.studies.evidence import Evidence, decide, t_evidence
from charlab.studies.looks import sequential_p

LOOKS = (6, 9, 12, 16)
MARGIN = 0.01
STUDIES = 2000
SETTINGS: tuple[tuple[float, Expectation], ...] = ((0.0, "improve"), (MARGIN, "improve"), (MARGIN, "no difference"))
VERDICTS = ("equivalent", "supported", "refuted", "inconclusive")


def decide_at_looks(
    differences: np.ndarray, margin: float, looks: Sequence[int], expectations: Sequence[Expectation]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the verdict on each arm of many studies, and the index of the look at which it was settled.

    Args:
        differences: (…, arms, seeds) baseline minus arm, with as many seeds as the last look.
        margin: the smallest difference that matters.
        looks: number of seeds at each look.
        expectations: expectation for each arm.

    Returns:
        The verdicts (…, arms), and the indices of looks (…, arms); the last one's for an arm that is never settled.
    """
    shape = differences.shape[:-1]
    verdicts = np.full(shape, "inconclusive", dtype="<U12")
    settled = np.full(shape, len(looks) - 1)
    known = np.ones((2, 3, *shape))
    for look, n in enumerate(looks):
        running = verdicts == "inconclusive"
        seen = differences[..., :n]
        now = t_evidence(seen.mean(-1), seen.std(-1, ddof=1), n, margin)
        known = np.where(running, np.minimum(known, [sequential_p(p, look, looks) for p in now]), known)
        found = decide(Evidence(*known), expectations)
        settled = np.where(running & (found != "inconclusive"), look, settled)
        verdicts = np.where(running, found, verdicts)
    return verdicts, settled


def simulate() -> Iterator[dict[str, float | str]]:
    """Yield, for each setting, how many studies give any arm each verdict, and how many seeds they use.

    All arms of a study have the same true difference, which is where most arms can be wrong at once.
    """
    for difference, expectation in SETTINGS:
        for arms in (1, 3, 6):
            for deviation in (0.003, 0.01, 0.02):
                generator = np.random.default_rng([arms, round(1000 * deviation)])
                differences = difference + deviation * generator.standard_normal((STUDIES, arms, LOOKS[-1]))
                verdicts, settled = decide_at_looks(differences, MARGIN, LOOKS, [expectation] * arms)
                shares = {verdict: float((verdicts == verdict).any(-1).mean()) for verdict in VERDICTS}
                settles = float((verdicts != "inconclusive").mean())
                yield {
                    "expected": expectation, "difference": difference, "arms": arms, "deviation": deviation, **shares,
                    "seeds": float(np.array(LOOKS)[settled].mean()),
                    "settled": settles,
                    "seeds without looks": _fixed(differences, expectation, settles),
                }  # fmt: skip


def _fixed(differences: np.ndarray, expectation: Expectation, settles: float) -> int:
    """Return the fewest seeds with which studies that are tested once settle as many arms."""
    for n in range(LOOKS[0], LOOKS[-1]):
        verdicts, _ = decide_at_looks(differences[..., :n], MARGIN, (n,), [expectation] * differences.shape[-2])
        if (verdicts != "inconclusive").mean() >= settles:
            return n
    return LOOKS[-1]


def table(rows: Sequence[dict[str, float | str]]) -> str:
    """Return the simulation as a table in Markdown."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = [value if isinstance(value, str) else f"{value:.3g}" for value in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(list(simulate())))
