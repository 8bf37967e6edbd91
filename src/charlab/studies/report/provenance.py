"""How a study was made, what that leaves open, and how to make it again: in sentences and commands."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from charlab.studies.report import wording
from charlab.studies.report.pieces import joined

if TYPE_CHECKING:
    from charlab.runs.record import Record
    from charlab.studies.plan import Plan
    from charlab.studies.results import StudyResults

PROTOCOLS = {
    "blocks": "every character of the validation text once, in windows side by side",
    "sliding": "every character of the validation text once, in overlapping windows",
    "estimate": "random windows of the validation text",
}


def method(plan: Plan, records: list[Record]) -> list[str]:
    """Returns how the study was done, as far as plan and records tell."""
    sentences = []
    texts = {f"{record.corpus.get('name')} ({record.corpus.get('characters', 0):,} characters)" for record in records}
    if texts:
        sentences.append(f"The models predict the next character of {joined(sorted(texts))}.")
    data = [record.config.get("data", {}) for record in records]
    settings = {(values.get("context_length"), values.get("batch_size")) for values in data}
    if len(settings) == 1 and None not in (setting := settings.pop()):
        sentences.append(f"A batch is {setting[1]} windows of {setting[0]} characters.")
    protocol = PROTOCOLS.get(plan.protocol, plan.protocol)
    sentences += [
        f"What is compared is the mean negative log-likelihood in nats per character over {protocol} "
        f"(protocol “{plan.protocol}”), with the weights that training ended with.",
        f"Each arm was trained with the same {count(len(plan.seeds), 'seed')} (first: {plan.seeds[0]}) and has to "
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


def limits(results: StudyResults, records: list[Record]) -> list[str]:
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


def commands(results: StudyResults) -> dict[str, str]:
    """Returns what makes the study, this report and a run of each arm again, by what each command is for."""
    plan = results.plan
    found = {}
    if plan.command:
        again = wording.relative(f"python {plan.command}")
        found["The whole study; what has finished is not run again"] = again
        if any(result.older for result in results.cells):
            found["The same, but what older code has made is run again"] = f"{again} study.rerun=older"
    found["This report"] = f"python scripts/report.py study={plan.name}"
    for arm in plan.arms:
        cell = next(cell for cell in plan.cells if cell.arm == arm.name)
        found[f"One cell of {arm.name}"] = wording.cell_command(cell)
    return found


def environment(records: list[Record]) -> dict[str, str]:
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
    threads = f", {count(machine['threads'], 'thread')}" if machine.get("device") == "cpu" else ""
    return f"{machine.get('name')} ({machine.get('device')}{threads}, {machine.get('precision')})"


def count(number: int, noun: str) -> str:
    """Returns a number of things in words."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
