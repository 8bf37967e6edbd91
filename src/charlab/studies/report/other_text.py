"""Would a difference hold on other text? The block bootstrap, where a study's records allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from charlab.errors import UserError
from charlab.runs.record import SCENE_LENGTH, Record
from charlab.studies.bootstrap import TextInterval, bootstrap_text

if TYPE_CHECKING:
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.results import StudyResults


def other_text(results: StudyResults, arm: ArmSummary, baseline: ArmSummary) -> TextInterval | str:
    """Returns the interval of an arm's mean difference over texts, or why there is none, in a sentence."""
    if arm.leaks or baseline.leaks:
        return "Not asked: a model that sees what it is to predict says nothing of any text."
    if "bound" in (arm.likelihood, baseline.likelihood):
        return "Not asked: of a bound only the sum over the whole text means something."
    ours, theirs = (_records(results, name) for name in (baseline.name, arm.name))
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs and _alike(ours[seed], theirs[seed])]
    if not pairs:
        return "Not known: no pair of finished cells has its figures by stretches of the same text."
    pairs = [pair for pair in pairs if _alike(pair[0], pairs[0][0])]
    try:
        return bootstrap_text(
            np.array([left.scenes for left, _ in pairs]),
            np.array([right.scenes for _, right in pairs]),
            _sizes(pairs[0][0]),
        )
    except UserError as error:
        return f"Not known: {error}"


def _records(results: StudyResults, arm: str) -> dict[int, Record]:
    """Returns by seed the arm's records that have their figures by stretches."""
    found = ((result.cell.seed, result.record) for result in results.of(arm) if result.status == "finished")
    return {seed: record for seed, record in found if record is not None and record.scenes}


def _alike(a: Record, b: Record) -> bool:
    """Whether two runs were scored on the same text."""
    return a.corpus.get("sha256") == b.corpus.get("sha256") and len(a.scenes) == len(b.scenes)


def _sizes(record: Record) -> np.ndarray:
    """Returns how many characters each stretch has; the last one has what is left."""
    sizes = np.full(len(record.scenes), SCENE_LENGTH)
    sizes[-1] = record.metric("blocks")["characters"] - SCENE_LENGTH * (len(sizes) - 1)
    return sizes
