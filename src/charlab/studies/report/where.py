"""Where in the validation text the arms of a study differ from its baseline: an exploratory part of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from charlab.errors import UserError
from charlab.evaluation.breakdown import differences
from charlab.quantities import count, percent, signed
from charlab.runs.record import Record
from charlab.runs.text import NLL
from charlab.runs.text_differences import (
    ComparedText,
    TextDifferences,
    check_length,
    comparable_nll,
    compared_text_of,
    gather_parts,
    same_text,
)
from charlab.studies.evidence import mean_interval
from charlab.studies.report.method import without_paths
from charlab.studies.report.tables import Entry, Span, Style, Table, entry

if TYPE_CHECKING:
    import pandas as pd

    from charlab.studies.state import StudyResults

PASSAGES = 20  # over all arms, but no fewer than FEWEST of each
FEWEST = 4
MOST_ARMS = 8  # columns of the table


class Whereabouts(NamedTuple):
    """Where the arms differ.

    Attributes:
        arms: baseline minus arm, by arm; empty if no run has kept the nll of each character.
        note: which arms are missing, and why, in sentences; "" if none is.
    """

    arms: Mapping[str, TextDifferences]
    note: str = ""

    @property
    def tables(self) -> tuple[Table, ...]:
        """The parts and the passages as tables; none if there are no arms."""
        shown = dict(list(self.arms.items())[:MOST_ARMS])
        return (_parts_table(shown), _passages_table(shown)) if shown else ()

    def frame(self) -> pd.DataFrame:
        """Return the parts in full precision, a row for each arm and part."""
        import pandas as pd

        rows = []
        for arm, where in self.arms.items():
            for part in (*where.parts, where.whole):
                low, high = part.interval or (math.nan, math.nan)
                found = {"split": part.split, "part": part.label, "characters": part.characters, "mean": part.mean}
                rows.append({"arm": arm, **found, "low_95": low, "high_95": high})
        return pd.DataFrame(rows)


def locate(results: StudyResults) -> Whereabouts:
    """Return where each arm differs from the baseline, over the seeds that both have finished."""
    plan = results.plan
    kept = {
        arm.name: {seed: run for seed, run in results.records(arm.name).items() if (run.folder / NLL).exists()}
        for arm in plan.arms
    }
    base = kept.pop(plan.baseline)
    pairs = {arm: [(base[seed], runs[seed]) for seed in runs if seed in base] for arm, runs in kept.items()}
    pairs = {arm: found for arm, found in pairs.items() if found}
    if not pairs:
        return Whereabouts({})
    compared, arms, notes = None, {}, []
    for arm, found in pairs.items():
        try:
            compared = compared or compared_text_of(found[0][0])
            arms[arm] = _difference(compared, found[0][0], found, max(FEWEST, PASSAGES // len(pairs)))
        except UserError as error:
            notes.append(f"{arm} is left out. {without_paths(str(error))}")
    if len(arms) > MOST_ARMS:
        notes.append(f"The tables show the first {MOST_ARMS} of {len(arms)} arms; tables/where.csv has them all.")
    return Whereabouts(arms, " ".join(notes))


def _difference(
    compared: ComparedText, first: Record, pairs: list[tuple[Record, Record]], most: int
) -> TextDifferences:
    """Return where the second runs of pairs differ from the first ones, with t-intervals over the pairs."""
    number = len(compared.text)
    total: Float[np.ndarray, " N"] = np.zeros(number)
    sums: list[list[Float[np.ndarray, " G"]]] = [[] for _ in compared.groupings]
    for pair in pairs:
        if not all(same_text(first, record) for record in pair):
            raise UserError("Its runs were scored on another text or split than the baseline's.")
        ours, theirs = (comparable_nll(record) for record in pair)
        check_length(compared, ours, theirs)
        nats = differences(ours, theirs)
        total += nats
        for grouping, found in zip(compared.groupings, sums, strict=True):
            found.append(grouping.add_up(nats)[:, 0])

    by_pair = [np.stack(found) for found in sums]  # (S, G) each
    intervals = [[mean_interval(x / number) if len(x) > 1 else None for x in found.T] for found in by_pair]
    return gather_parts(compared, [found.sum(0) for found in by_pair], intervals, total, pairs=len(pairs), most=most)


def _parts_table(arms: Mapping[str, TextDifferences]) -> Table:
    parts, rows = [(*where.parts, where.whole) for where in arms.values()], []
    for found in zip(*parts, strict=True):
        part = found[0]
        share = part.characters / parts[0][-1].characters
        style: Style = "plain" if part.split else "strong"
        errors = [f" ± {(one.interval[1] - one.interval[0]) / 2:.4f}" if one.interval else "" for one in found]
        figures = [entry(signed(one.mean) + error, one.mean, style) for one, error in zip(found, errors, strict=True)]
        rows.append((entry(part.split), entry(part.label, style=style), entry(percent(share), share), *figures))
    caption = (
        "Baseline minus arm in nats per character of the text, by blocks: positive where the arm is better. The parts "
        "of each split add up to the whole. ±: 95% t-interval over seeds, not adjusted for the number of parts."
    )
    return Table("where", caption, ("split by", "part", "characters", *arms), tuple(rows), left=("split by", "part"))


def _passages_table(arms: Mapping[str, TextDifferences]) -> Table:
    rows = [
        (
            entry(arm),
            entry(signed(passage.nats, 1), passage.nats),
            entry(f"{passage.start + 1:,}", passage.start),
            Entry((Span(where.shown(passage), "code"),)),
        )
        for arm, where in arms.items()
        for passage in where.passages
    ]
    caption = (
        f"The {count(len(rows), 'passage')} that differ most, in either direction: baseline minus arm, mean over seeds."
    )
    return Table("passages", caption, ("arm", "nats", "character", "passage"), tuple(rows), left=("arm", "passage"))
