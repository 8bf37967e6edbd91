"""All that a report says, whatever it is written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from charlab.studies.bootstrap import TextInterval
from charlab.studies.report import wording
from charlab.studies.report.arms import ArmSummary, summarize
from charlab.studies.report.figures import COSTS
from charlab.studies.report.notices import notices
from charlab.studies.report.other_text import other_text
from charlab.studies.report.pieces import Notice, Table, joined
from charlab.studies.report.provenance import commands, count, environment, limits, method
from charlab.studies.report.references import entropy, references
from charlab.studies.report.tables import (
    EXPECTED_TO,
    budget_table,
    cell_table,
    result_table,
    verdict_name,
    verdict_table,
)

if TYPE_CHECKING:
    from charlab.studies.comparison import Comparison
    from charlab.studies.plan import Plan
    from charlab.studies.results import CellResult, StudyResults

SAMPLE_LENGTH = 400  # characters
RULES = (
    "Fixed before the first cell ran, and applied in this order: equivalent if the 90% interval lies within ± the "
    "margin (adjusted after Holm over the arms); supported if the difference is significant (adjusted p < 0.05) in the "
    "direction expected; refuted if a difference of the margin in that direction is ruled out (95% bound); else "
    "inconclusive. Where no difference is expected, being equivalent supports it."
)


_WAITING = ("missing", "running")


class Judgment(NamedTuple):
    """What is said of an arm.

    Attributes:
        comparison: all figures.
        verdict: in words.
        expectation: what it was expected to do.
        caution: why the verdict may not mean what it says; mostly empty.
        other_text: whether the difference would hold on other text.
    """

    comparison: Comparison
    verdict: str
    expectation: str
    caution: str
    other_text: str


class Unfinished(NamedTuple):
    """A cell that has no result, or diverged, and how to make it again."""

    cell: str
    status: str
    reason: str
    command: str


class Sample(NamedTuple):
    """The beginning of what a run of an arm wrote."""

    arm: str
    text: str


@dataclass(frozen=True)
class Contents:
    """All that a report says.

    Attributes:
        plan: the study's.
        summary: what was compared, in a line.
        notices: what has to be read first.
        arms: what each arm's cells amount to.
        comparisons: the verdicts with all their figures.
        judgments: what is said of each arm but the baseline.
        verdicts: the same as a table; None where nothing is compared.
        results: what each arm reached.
        budgets: what it took.
        cells: every cell.
        unfinished: those that have no result though they were run, or diverged.
        waiting: names of those that have not been run, or are running, by status.
        older: names of those made by other code than today's; empty if there are none.
        samples: text from each arm.
        method: how it was done, in sentences.
        limits: what is not shown, in sentences.
        commands: what it is for → the command.
        environment: what the cells ran on, by name.
        floor: the entropy of the text in nats per character, where it is known.
    """

    plan: Plan
    summary: str
    notices: tuple[Notice, ...]
    arms: Mapping[str, ArmSummary]
    comparisons: Mapping[str, Comparison]
    judgments: tuple[Judgment, ...]
    verdicts: Table | None
    results: Table
    budgets: Table
    cells: Table
    unfinished: tuple[Unfinished, ...]
    waiting: Mapping[str, str]
    older: str
    samples: tuple[Sample, ...]
    method: tuple[str, ...]
    limits: tuple[str, ...]
    commands: Mapping[str, str]
    environment: Mapping[str, str]
    floor: float | None

    @property
    def compared_costs(self) -> list[str]:
        """What arms differ in by more than a hundredth, of what can be drawn; the training time if there is nothing.

        Empty where fewer than two arms have a figure that can be trusted.
        """
        arms = [arm for arm in self.arms.values() if arm.mean is not None and not arm.leaks]
        if len(arms) < 2:
            return []
        costs = {cost: [arm.costs[cost].median for arm in arms if cost in arm.costs] for cost in COSTS}
        differing = [cost for cost, medians in costs.items() if medians and max(medians) > 1.01 * min(medians)]
        return differing or ["training_s"]

    @property
    def cost_note(self) -> str:
        """Says which arms cannot be drawn against their costs; mostly nothing."""
        leaking = [arm.name for arm in self.arms.values() if arm.leaks]
        return f"Not drawn, for its figures are false: {joined(leaking)}." if leaking else ""


def gather(results: StudyResults) -> Contents:
    """Returns all that a report on these results says."""
    plan, arms, comparisons = results.plan, summarize(results), results.comparisons()
    texts = {arm: other_text(results, arms[arm], arms[plan.baseline]) for arm in comparisons}
    records = [result.record for result in results.cells if result.record is not None and result.ended]
    return Contents(
        plan=plan,
        summary=_summary(results),
        notices=tuple(notices(results, arms, comparisons)),
        arms=arms,
        comparisons=comparisons,
        judgments=tuple(_judgment(comparison, texts[arm], plan) for arm, comparison in comparisons.items()),
        verdicts=verdict_table(comparisons, texts, plan) if comparisons else None,
        results=result_table(plan, arms, references(results)),
        budgets=budget_table(plan, arms, matches=results.mismatch() is None),
        cells=cell_table(results),
        unfinished=tuple(_unfinished(results)),
        waiting={status: named for status in _WAITING if (named := _named(results, _has_status(status)))},
        older=_named(results, lambda cell: cell.older),
        samples=tuple(
            Sample(arm, wording.printable(text[:SAMPLE_LENGTH]).strip("\n"))
            for arm in arms
            if (text := results.samples(arm)).strip()
        ),
        method=tuple(method(plan, records)),
        limits=tuple(limits(results, records)),
        commands=commands(results),
        environment=environment(records),
        floor=entropy(results),
    )


def _summary(results: StudyResults) -> str:
    plan = results.plan
    finished = sum(result.status == "finished" for result in results.cells)
    arms, seeds = count(len(plan.arms), "arm"), count(len(plan.seeds), "seed")
    return f"{arms} × {seeds}, {finished} of {len(plan.cells)} cells finished; baseline: {plan.baseline}"


def _judgment(comparison: Comparison, text: TextInterval | str, plan: Plan) -> Judgment:
    """Returns what is said of an arm."""
    sentence = text if isinstance(text, str) else text.sentence
    name = verdict_name(comparison, exploratory=plan.exploratory)
    return Judgment(comparison, name, EXPECTED_TO[comparison.expectation], comparison.caution, sentence)


def _unfinished(results: StudyResults) -> list[Unfinished]:
    found = []
    for result in results.cells:
        if (result.status == "finished" and not result.reason) or result.status in _WAITING:
            continue
        reason = wording.without_paths(wording.printable(result.reason)).strip()
        found.append(Unfinished(result.cell.key, result.status, reason, wording.cell_command(result.cell)))
    return found


def _named(results: StudyResults, holds: Callable[[CellResult], bool]) -> str:
    """Names the cells of which something holds, arm by arm; nothing if there are none."""
    found = []
    for arm in results.plan.arms:
        cells = results.of(arm.name)
        seeds = [f"{result.cell.seed}" for result in cells if holds(result)]
        if seeds:
            found.append(f"{arm.name} ({'all seeds' if len(seeds) == len(cells) else ', '.join(seeds)})")
    return "all of them" if all(map(holds, results.cells)) else joined(found, most=100)


def _has_status(status: str) -> Callable[[CellResult], bool]:
    return lambda result: result.status == status
