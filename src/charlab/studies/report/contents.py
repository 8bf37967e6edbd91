"""The contents of a report, independent of its format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from charlab.errors import UserError
from charlab.evaluation.bootstrap import TextInterval, bootstrap_text
from charlab.quantities import count, joined
from charlab.runs.record import SCENE_LENGTH, Record
from charlab.studies.costs import PLOTTED
from charlab.studies.definition import EXPECTED_TO
from charlab.studies.report.arms import ArmSummary, entropy, references, scored_text, summarize
from charlab.studies.report.factors import Factor, numeric_factors
from charlab.studies.report.literature import Source, literature
from charlab.studies.report.method import (
    commands,
    environment,
    limits,
    method,
    settings_table,
    train_command,
    without_paths,
)
from charlab.studies.report.scaling import Scaling, scaling
from charlab.studies.report.sentences import Notice, caution, notices, on_other_text, reason
from charlab.studies.report.tables import Table, budget_table, cell_table, result_table, verdict_name, verdict_table
from charlab.studies.report.tuning import conditional, half_tuned, tuning_table
from charlab.studies.report.where import Whereabouts, locate

if TYPE_CHECKING:
    from charlab.studies.evidence import Verdict
    from charlab.studies.plan import Plan
    from charlab.studies.state import CellResult, StudyResults
    from charlab.studies.verdicts import Comparison

SAMPLE_LENGTH = 400  # characters

_WAITING = {
    "missing": "Not run yet",
    "running": "Running",
    "held back": "Not shown before all cells of the next look have ended",
    "not needed": "Not needed",
}


class Judgment(NamedTuple):
    """The judgment on an arm: its verdict in words and in a sentence, and what weakens it (usually "")."""

    comparison: Comparison
    verdict: str
    reason: str
    expectation: str
    caution: str
    other_text: str

    @property
    def shown(self) -> Verdict:
        """The verdict that gives the arm its color and sign; "none" if there are too few seeds for evidence."""
        return "none" if self.comparison.too_few_seeds else self.comparison.verdict


class Unfinished(NamedTuple):
    """A cell that failed, diverged or could not be run again, and the command that runs it."""

    cell: str
    status: str
    reason: str
    command: str


class Sample(NamedTuple):
    """The beginning of the text that a run of an arm generated."""

    arm: str
    text: str


@dataclass(frozen=True)
class Contents:
    """The contents of a report.

    Attributes:
        summary: what was compared, in a line.
        judgments: the judgment on each arm except the baseline; `verdicts` is the same as a table.
        waiting: names of the cells that are missing or running, by the label of their state.
        older: names of the cells run by other code than today's, or "".
        floor: entropy of the text in nats per character, if known.
    """

    plan: Plan
    summary: str
    notices: tuple[Notice, ...]
    arms: Mapping[str, ArmSummary]
    judgments: tuple[Judgment, ...]
    verdicts: Table | None
    results: Table
    budgets: Table
    cells: Table
    unfinished: tuple[Unfinished, ...]
    waiting: Mapping[str, str]
    older: str
    scaling: Scaling | None
    tuning: Table | None
    factors: tuple[Factor, ...]
    where: Whereabouts
    samples: tuple[Sample, ...]
    method: tuple[str, ...]
    settings: Table | None
    sources: tuple[Source, ...]
    limits: tuple[str, ...]
    commands: Mapping[str, str]
    environment: Mapping[str, str]
    floor: float | None
    captions: Mapping[str, str]

    @property
    def compared_costs(self) -> list[str]:
        """The plotted costs in which arms differ by more than 1%, else the training time; none for a single arm."""
        arms = [arm for arm in self.arms.values() if arm.mean is not None and not arm.leaks]
        if len(arms) < 2:
            return []
        costs = {cost: [arm.costs[cost].median for arm in arms if cost in arm.costs] for cost in PLOTTED}
        differing = [cost for cost, medians in costs.items() if medians and max(medians) > 1.01 * min(medians)]
        return differing or ["training_s"]


def gather(results: StudyResults) -> Contents:
    """Return the contents of a report on these results."""
    plan, arms, comparisons = results.plan, summarize(results), results.comparisons()
    texts = {arm: other_text(results, arms[arm], arms[plan.baseline]) for arm in comparisons}
    records = [result.record for result in results.cells if result.record is not None and result.ended]
    citations = literature(plan, records)
    finished = sum(result.status == "finished" for result in results.cells)
    judgments = tuple(_judgment(comparison, texts[arm], plan) for arm, comparison in comparisons.items())
    law = scaling(results, arms)
    return Contents(
        plan=plan,
        summary=f"{count(len(plan.arms), 'arm')} × {count(len(plan.seeds), 'seed')}, {finished} of {len(plan.cells)} "
        f"cells finished{f'; baseline: {plan.baseline}' * plan.compares}",
        notices=tuple(notices(results, arms, comparisons)),
        arms=arms,
        judgments=judgments,
        verdicts=verdict_table(judgments, texts, plan) if judgments else None,
        results=result_table(plan, arms, references(results)),
        budgets=budget_table(plan, arms, mismatch=results.mismatch() is not None),
        cells=cell_table(results),
        unfinished=tuple(
            Unfinished(
                cell.cell.key,
                cell.status,
                without_paths(printable(cell.reason)).strip(),
                train_command(cell.cell.overrides),
            )
            for cell in results.cells
            if (cell.status != "finished" or cell.reason) and cell.status not in _WAITING
        ),
        waiting={
            label: names
            for status, label in _WAITING.items()
            if (names := _names(plan, [cell for cell in results.cells if cell.status == status]))
        },
        older=_names(plan, [cell for cell in results.cells if cell.older]),
        scaling=law,
        tuning=tuning_table(plan, arms),
        factors=numeric_factors(results) if plan.target is None and plan.kind == "comparison" else (),
        where=locate(results) if comparisons and plan.target is None else Whereabouts({}),
        samples=tuple(
            Sample(arm, printable(text[:SAMPLE_LENGTH]).strip("\n"))
            for arm in arms
            if (text := results.samples(arm)).strip()
        ),
        method=tuple(method(plan, records, comparisons, citations)),
        settings=settings_table(results),
        sources=tuple(dict.fromkeys(citation.source for citation in citations)),
        limits=tuple(limits(results, records, comparisons)),
        commands=commands(results),
        environment=environment(records),
        floor=entropy(results),
        captions=_captions(plan, arms, law),
    )


def _judgment(comparison: Comparison, text: TextInterval | str, plan: Plan) -> Judgment:
    left_out = bool(comparison.diverged or comparison.baseline_diverged)
    return Judgment(
        comparison,
        verdict=verdict_name(comparison, exploratory=plan.exploratory, mark=half_tuned(plan, comparison.arm)),
        reason=reason(comparison),
        expectation=EXPECTED_TO[comparison.expectation],
        caution=" ".join(filter(None, [caution(comparison), conditional(plan, comparison.arm)])),
        other_text=text if isinstance(text, str) else on_other_text(text, plan.protocol, left_out=left_out),
    )


def _names(plan: Plan, cells: Sequence[CellResult]) -> str:
    """Return the names of some cells, arm by arm; "" if there are none."""
    if len(cells) == len(plan.cells):
        return "all of them"
    found = []
    for arm in plan.arms:
        if seeds := [f"{cell.cell.seed}" for cell in cells if cell.cell.arm == arm.name]:
            found.append(f"{arm.name} ({'all seeds' if len(seeds) == len(plan.seeds) else ', '.join(seeds)})")
    return joined(found, most=100)


def other_text(results: StudyResults, arm: ArmSummary, baseline: ArmSummary) -> TextInterval | str:
    """Return how an arm's mean difference would vary over texts, or a sentence on why that is not known."""
    if results.plan.target is not None:
        return "Not asked: stretches of the text have no times to the target of their own."
    if arm.leaks or baseline.leaks:
        return "Not asked: the figures of a model that sees what it predicts say nothing about any text."
    if "bound" in (arm.likelihood, baseline.likelihood):
        return "Not asked: only the sum of a bound over the whole text has a meaning."
    ours, theirs = (results.records(name) for name in (baseline.name, arm.name))
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs and _alike(ours[seed], theirs[seed])]
    if not pairs:
        return "Not known: no pair of finished cells has figures for stretches of the same text."
    first = pairs[0][0]
    pairs = [pair for pair in pairs if _alike(pair[0], first)]
    sizes = np.full(len(first.scenes), SCENE_LENGTH)
    sizes[-1] = first.metric("blocks")["characters"] - SCENE_LENGTH * (len(sizes) - 1)  # what is left
    left, right = (np.array([record.scenes for record in side]) for side in zip(*pairs, strict=True))
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return "Not known: some stretches of the text have no finite loss."
    try:
        return bootstrap_text(left, right, sizes)
    except UserError as error:
        return f"Not known: {error}"


def _alike(a: Record, b: Record) -> bool:
    """Return whether two runs have figures for the same stretches of the same text."""
    return bool(a.scenes) and scored_text(a) == scored_text(b) and len(a.scenes) == len(b.scenes)


def _captions(plan: Plan, arms: Mapping[str, ArmSummary], law: Scaling | None) -> dict[str, str]:
    """Return the captions of the figures by name."""
    several, leaking = len(plan.seeds) > 1, [arm.name for arm in arms.values() if arm.leaks]
    over_seeds = " Line: mean over finished seeds. Band: range over seeds." if several else ""
    bars = " Bars: 95% t-interval over seeds." if several else ""
    left_out = f" Not plotted because of false figures: {joined(leaking)}." if leaking else ""
    return {
        "differences": f"Differences from the baseline {plan.baseline}. Circle: one seed. Diamond and bar: mean and "
        "the interval that decides. Gray: differences too small to matter."
        if plan.target is None
        else f"Speed-ups over the baseline {plan.baseline}. Circle: one seed. Diamond and bar: estimate and interval "
        "that decides. Gray: speed-ups too small to matter.",
        "scaling": law.caption if law else "",
        "factors": f"Loss against what was varied. Diamond: the best value{' with its 95% interval' * several}."
        f"{' Band: 95% t-interval of the mean.' * several} Cross: no finite loss.",
        "curves": f"Estimates on validation text during training.{over_seeds} Curves may start above the plot."
        f"{' Dotted: the target.' * (plan.target is not None)}",
        "costs": f"Quality against cost. Further left is cheaper, lower is better.{bars}{left_out}",
    }


def printable(text: str) -> str:
    """Return a text with unprintable characters replaced by U+FFFD, and tabs by spaces."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text.expandtabs(4))
