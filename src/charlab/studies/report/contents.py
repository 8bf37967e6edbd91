"""All that a report says, whatever it is written in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from charlab.studies.bootstrap import TextInterval
from charlab.studies.report import wording
from charlab.studies.report.arms import ArmSummary, summarize
from charlab.studies.report.figures import COSTS
from charlab.studies.report.notices import notices
from charlab.studies.report.other_text import other_text
from charlab.studies.report.pieces import Notice, Table, joined
from charlab.studies.report.references import entropy, references
from charlab.studies.report.tables import budget_table, cell_table, result_table, verdict_name, verdict_table

if TYPE_CHECKING:
    from charlab.runs.record import Record
    from charlab.studies.comparison import Comparison
    from charlab.studies.plan import Plan
    from charlab.studies.results import StudyResults

SAMPLE_LENGTH = 400  # characters
PROTOCOLS = {
    "blocks": "every character of the validation text once, in windows side by side",
    "sliding": "every character of the validation text once, in overlapping windows",
    "estimate": "random windows of the validation text",
}
RULES = (
    "Fixed before the first cell ran, and applied in this order: equivalent if the 90% interval lies within ± the "
    "margin (adjusted after Holm over the arms); supported if the difference is significant (adjusted p < 0.05) in the "
    "direction expected; refuted if a difference of the margin in that direction is ruled out (95% bound); else "
    "inconclusive. Where no difference is expected, being equivalent supports it."
)


class Judgment(NamedTuple):
    """What is said of an arm."""

    comparison: Comparison
    verdict: str
    expectation: str
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
        unfinished: those that have no result, or diverged.
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
        return [cost for cost, medians in costs.items() if medians and max(medians) > 1.01 * min(medians)] or [
            "training_s"
        ]

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
        judgments=tuple(_judgment(comparison, texts[arm]) for arm, comparison in comparisons.items()),
        verdicts=verdict_table(comparisons, texts, plan.margin) if comparisons else None,
        results=result_table(plan, arms, references(results)),
        budgets=budget_table(plan, arms, matches=results.mismatch() is None),
        cells=cell_table(results),
        unfinished=tuple(_unfinished(results)),
        older=_older(results),
        samples=tuple(
            Sample(arm, wording.printable(text[:SAMPLE_LENGTH]).strip("\n"))
            for arm in arms
            if (text := results.samples(arm)).strip()
        ),
        method=tuple(_method(plan, records)),
        limits=tuple(_limits(results, records)),
        commands=_commands(results),
        environment=_environment(records),
        floor=entropy(results),
    )


def _summary(results: StudyResults) -> str:
    plan = results.plan
    finished = sum(result.status == "finished" for result in results.cells)
    arms, seeds = _count(len(plan.arms), "arm"), _count(len(plan.seeds), "seed")
    return f"{arms} × {seeds}, {finished} of {len(plan.cells)} cells finished; baseline: {plan.baseline}"


def _judgment(comparison: Comparison, text: TextInterval | str) -> Judgment:
    expectation = "make no difference" if comparison.expectation == "no difference" else comparison.expectation
    sentence = text if isinstance(text, str) else text.sentence
    return Judgment(comparison, verdict_name(comparison), expectation, sentence)


def _unfinished(results: StudyResults) -> list[Unfinished]:
    found = []
    for result in results.cells:
        if result.status == "finished" and not result.reason:
            continue
        reason = result.reason or ("It has not been run yet." if result.status == "missing" else "")
        shown = wording.without_paths(wording.printable(reason)).strip()
        found.append(Unfinished(result.cell.key, result.status, shown, wording.cell_command(result.cell)))
    return found


def _older(results: StudyResults) -> str:
    """Names the cells of older code, arm by arm."""
    seeds: dict[str, list[str]] = {}
    for result in results.cells:
        if result.older:
            seeds.setdefault(result.cell.arm, []).append(f"{result.cell.seed}")
    return "; ".join(f"{arm} {', '.join(numbers)}" for arm, numbers in seeds.items())


def _method(plan: Plan, records: list[Record]) -> list[str]:
    """Returns how the study was done, as far as plan and records tell."""
    sentences = []
    if records:
        first = records[0]
        data = first.config.get("data", {})
        window = f" Windows have {data['context_length']} characters" if data.get("context_length") else ""
        batch = f", {data['batch_size']} of them make a batch" if window and data.get("batch_size") else ""
        text = f"{first.corpus.get('name')} ({first.corpus.get('characters', 0):,} characters)"
        settings = f"{window}{batch} (in the baseline)." if window else ""
        sentences.append(f"The models predict the next character of {text}.{settings}")
    protocol = PROTOCOLS.get(plan.protocol, plan.protocol)
    sentences += [
        f"What is compared is the mean negative log-likelihood in nats per character over {protocol} "
        f"(protocol “{plan.protocol}”), with the weights that training ended with.",
        f"Each arm was trained with the same {_count(len(plan.seeds), 'seed')} (first: {plan.seeds[0]}) and has to "
        f"share the baseline's {_BUDGETS[plan.budget]}.",
    ]
    if all(arm.paired for arm in plan.arms):
        sentences.append("A seed gives all arms the same windows in the same order, so differences are taken by seed.")
    if len(plan.arms) > 1:
        sentences.append(f"The smallest difference that matters was set to {plan.margin:g} nats per character.")
    return sentences


_BUDGETS = {
    "steps": "number of optimizer steps",
    "characters": "number of characters seen in training",
    "flops": "number of floating-point operations",
    "seconds": "seconds of training",
    "parameters": "number of parameters",
}


def _limits(results: StudyResults, records: list[Record]) -> list[str]:
    """Returns what follows from how the study was made, and nothing that would have to be known besides."""
    plan = results.plan
    texts = sorted({f"{record.corpus.get('name')}" for record in records})
    sentences = []
    if texts:
        sentences.append(
            f"Text: {joined(texts)} only, and its validation part is a small sample of what it stands for."
        )
    sentences += [
        "Size: nothing is shown of longer training or of larger models.",
        "Seeds: they vary initial weights, the order of the windows and dropout, and nothing else.",
        "Settings: this report does not know how the settings that the arms share (the learning rate, for one) were "
        "chosen; settings tuned for one arm favor it.",
    ]
    if plan.budget == "seconds":
        machines = joined(sorted({_machine(record) for record in records})) or "one machine"
        sentences.append(f"Clock: equal seconds on {machines} are not equal seconds on another machine.")
    if len({record.code for record in records}) > 1:
        sentences.append("Code: the cells were not all made by the same code.")
    return sentences


def _commands(results: StudyResults) -> dict[str, str]:
    plan, commands = results.plan, {}
    if plan.command:
        commands["the whole study (what has finished is not run again)"] = wording.relative(f"python {plan.command}")
        if any(result.older for result in results.cells):
            commands["with the cells of older code run again"] = wording.relative(
                f"python {plan.command} study.rerun=[older]"
            )
    commands["this report"] = f"python scripts/report.py study={plan.name}"
    for arm in plan.arms:
        cell = next(cell for cell in plan.cells if cell.arm == arm.name)
        commands[f"one cell of {arm.name}"] = wording.cell_command(cell)
    return commands


def _environment(records: list[Record]) -> dict[str, str]:
    """Returns what the cells ran on: all that occurred, the most frequent first."""
    kinds: dict[str, Counter[str]] = {"machine": Counter(_machine(record) for record in records)}
    for record in records:
        for name, version in record.versions.items():
            kinds.setdefault(name, Counter())[version] += 1
        kinds.setdefault("code", Counter())[f"{record.code or 'unknown'}"] += 1
        kinds.setdefault("commit", Counter())[f"{record.git_commit or 'unknown'}"] += 1
    return {name: joined([value for value, _ in counts.most_common()]) for name, counts in kinds.items() if counts}


def _machine(record: Record) -> str:
    machine = record.machine
    threads = f", {_count(machine['threads'], 'thread')}" if machine.get("device") == "cpu" else ""
    return f"{machine.get('name')} ({machine.get('device')}{threads}, {machine.get('precision')})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
