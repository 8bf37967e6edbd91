"""The sentences of a report: what to read first, how the study was done, what it does not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from charlab.quantities import count, joined

if TYPE_CHECKING:
    from charlab.runs.record import Record
    from charlab.studies.comparison import Comparison
    from charlab.studies.plan import Plan
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.results import StudyResults

RULES = (
    "Fixed before the first cell ran, and applied in this order: equivalent if the 90% interval lies within ± the "
    "margin (adjusted after Holm over the arms); supported if the difference is significant (adjusted p < 0.05) in the "
    "direction expected; refuted if a difference of the margin in that direction is ruled out (95% bound); else "
    "inconclusive. Where no difference is expected, being equivalent supports it."
)
_PROTOCOLS = {
    "blocks": "every character of the validation text once, in windows side by side",
    "sliding": "every character of the validation text once, in overlapping windows",
    "estimate": "random windows of the validation text",
}
_BUDGETS = {
    "steps": "number of optimizer steps",
    "characters": "number of characters seen in training",
    "flops": "number of floating-point operations",
    "seconds": "seconds of training",
    "parameters": "number of parameters",
}


class Notice(NamedTuple):
    """A sentence to read before anything else."""

    level: Literal["alarm", "caution", "note"]
    text: str


def notices(
    results: StudyResults, arms: Mapping[str, ArmSummary], comparisons: Mapping[str, Comparison]
) -> list[Notice]:
    """Return the notices, first those without which the rest misleads."""
    mismatch, unpaired = results.mismatch(), results.unpaired()
    return [
        *_few_seeds(results, comparisons),
        *([Notice("alarm", f"Budgets do not match. {mismatch}")] if mismatch else []),
        *_different_texts(results),
        *_leaks(arms),
        *_exploration(results.plan),
        *([Notice("caution", unpaired)] if unpaired else []),
        *_cells(results),
        *_bounds(arms),
    ]


def _few_seeds(results: StudyResults, comparisons: Mapping[str, Comparison]) -> list[Notice]:
    number = len(results.plan.seeds)
    if len(results.plan.arms) == 1:
        return [Notice("note", "There is one arm only, so nothing is compared.")]
    if not comparisons:
        seeds = count(number, "seed")
        return [Notice("alarm", f"Too few seeds for any verdict: {seeds}. What follows describes these runs only.")]
    short = [comparison for comparison in comparisons.values() if comparison.too_few_seeds]
    if not short:
        return []
    least = min(len(comparison.seeds) - len(comparison.absent) for comparison in short)
    whose = "" if len(short) == len(comparisons) else f" for {joined([comparison.arm for comparison in short])}"
    text = (
        f"Too few seeds{whose}: {least} of {number} pairs of cells have ended, and with "
        f"{count(len(comparisons), 'arm')} to compare a study needs at least "
        f"{short[0].minimum_seeds} pairs. What is said below of these differences is not evidence yet."
    )
    return [Notice("alarm", text)]


def _different_texts(results: StudyResults) -> list[Notice]:
    corpora = [result.record.corpus for result in results.cells if result.record is not None]
    if len({corpus.get("sha256") for corpus in corpora}) < 2:
        return []
    names = joined(list(Counter(f"{corpus.get('name')}" for corpus in corpora)))
    text = (
        f"The cells were scored on different texts ({names}): figures on different texts cannot be compared, and "
        "their differences mean nothing."
    )
    return [Notice("alarm", text)]


def _leaks(arms: Mapping[str, ArmSummary]) -> list[Notice]:
    found = []
    for arm in arms.values():
        if not arm.leaks:
            continue
        who, whose = ("The baseline", "no arm gets a verdict") if arm.is_baseline else ("The arm", "it gets no verdict")
        honest = ""
        if arm.honest is not None and arm.mean is not None and arm.honest.mean == arm.honest.mean:
            honest = (
                f" Scored character by character, as it would generate, it has {arm.honest.mean:.2f} nats per "
                f"character, not the {arm.mean:.2f} that it claims."
            )
        found.append(Notice("alarm", f"{who} {arm.name} sees what it is to predict, so {whose}.{honest}"))
    return found


def _exploration(plan: Plan) -> list[Notice]:
    if not plan.exploratory:
        return []
    reasons = ["an ordinary sweep states no hypothesis beforehand"] if plan.sweep else []
    if len(plan.seeds) > plan.planned_seeds:
        looks = sorted({look for look in plan.looks if look < len(plan.seeds)})
        after = f" after looks at {joined([str(look) for look in looks])}" if looks else ""
        reasons.append(f"planned with {plan.planned_seeds} seeds, it was grown to {len(plan.seeds)}{after}")
    reasons += [amendment.rstrip(".") for amendment in plan.amendments]
    text = (
        f"Exploratory: {'; '.join(reasons)}. False findings are then more frequent than stated: take the verdicts "
        "as hints, to be confirmed by a study with fresh seeds."
    )
    return [Notice("caution", text)]


def _cells(results: StudyResults) -> list[Notice]:
    without = Counter(result.status for result in results.cells if not result.ended)
    diverged = sum(result.status == "diverged" for result in results.cells)
    older = sum(result.older for result in results.cells)
    total = len(results.cells)
    found = []
    if without:
        kinds = joined([f"{number} {status}" for status, number in without.most_common()])
        text = f"{without.total()} of {total} cells have no result ({kinds}), so the verdicts are provisional."
        found.append(Notice("caution", text))
    if diverged:
        found.append(Notice("caution", f"{diverged} of {total} cells diverged, which counts against their arms."))
    if older:
        found.append(Notice("note", f"{older} of {total} cells were made by other code than today's."))
    return found


def _bounds(arms: Mapping[str, ArmSummary]) -> list[Notice]:
    bounds = [arm.name for arm in arms.values() if arm.likelihood == "bound"]
    if not bounds or len(bounds) == len(arms):
        return []
    text = (
        f"Upper bounds (≤): {joined(bounds)}. The true nll lies at or below the figure, so being worse than an "
        "exact figure does not show being worse."
    )
    return [Notice("note", text)]


def method(plan: Plan, records: list[Record]) -> list[str]:
    """Return how the study was done, as far as its plan and records tell."""
    sentences = []
    texts = {f"{record.corpus.get('name')} ({record.corpus.get('characters', 0):,} characters)" for record in records}
    if texts:
        sentences.append(f"The models predict the next character of {joined(sorted(texts))}.")
    data = [record.config.get("data", {}) for record in records]
    settings = {(values.get("context_length"), values.get("batch_size")) for values in data}
    if len(settings) == 1 and None not in (setting := settings.pop()):
        sentences.append(f"A batch is {setting[1]} windows of {setting[0]} characters.")
    sentences += [
        "What is compared is the mean negative log-likelihood in nats per character over "
        f"{_PROTOCOLS.get(plan.protocol, plan.protocol)} (protocol “{plan.protocol}”), with the weights that training "
        "ended with.",
        f"Each arm was trained with the same {count(len(plan.seeds), 'seed')} (first: {plan.seeds[0]}) and has to "
        f"share the baseline's {_BUDGETS[plan.budget]}.",
    ]
    if all(arm.paired for arm in plan.arms):
        sentences.append("A seed gives all arms the same windows in the same order, so differences are taken by seed.")
    if len(plan.arms) > 1:
        sentences.append(f"The smallest difference that matters was set to {plan.margin:g} nats per character.")
    return sentences


def limits(results: StudyResults, records: list[Record]) -> list[str]:
    """Return what the study leaves open, as far as its plan and records tell."""
    texts = sorted({f"{record.corpus.get('name')}" for record in records})
    sentences = [
        *[f"Text: {joined(texts)} only, and its validation part is a small sample of what it stands for."]
        * bool(texts),
        "Size: nothing is shown of longer training or of larger models.",
        "Seeds: they vary initial weights, the order of the windows and dropout, and nothing else.",
        "Settings: this report does not know how the settings that the arms share (the learning rate, for one) were "
        "chosen; settings tuned for one arm favor it.",
    ]
    if results.plan.budget == "seconds":
        machines = joined(sorted({_machine(record) for record in records})) or "one machine"
        sentences.append(f"Clock: equal seconds on {machines} are not equal seconds on another machine.")
    if len({record.code for record in records}) > 1:
        sentences.append("Code: the cells were not all made by the same code.")
    return sentences


def environment(records: list[Record]) -> dict[str, str]:
    """Return what the cells ran on: every value that occurred, the most frequent first."""
    kinds: dict[str, Counter[str]] = {"machine": Counter(_machine(record) for record in records)}
    for record in records:
        for name, version in record.versions.items():
            kinds.setdefault(name, Counter())[version] += 1
        kinds.setdefault("code", Counter())[f"{record.code or 'unknown'}"] += 1
        kinds.setdefault("commit", Counter())[f"{record.git_commit or 'unknown'}"] += 1
    return {name: joined([value for value, _ in counts.most_common()]) for name, counts in kinds.items() if counts}


def _machine(record: Record) -> str:
    machine = record.machine
    threads = f", {count(machine['threads'], 'thread')}" if machine.get("device") == "cpu" else ""
    return f"{machine.get('name')} ({machine.get('device')}{threads}, {machine.get('precision')})"
