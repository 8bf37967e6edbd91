"""What a report says about tuning: the table, and the sentences that make verdicts conditional on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from charlab.quantities import count, duration, joined, three_digits
from charlab.studies.report.tables import Entry, Span, Table, entry

if TYPE_CHECKING:
    from charlab.studies.parameters import Tuned
    from charlab.studies.plan import Plan
    from charlab.studies.report.arms import ArmSummary


def tuning_table(plan: Plan, arms: Mapping[str, ArmSummary]) -> Table | None:
    """Return what was chosen for each arm, at what cost, and how flat the optimum was; None if no arm was tuned."""
    tuned = {arm.name: arm.tuned for arm in plan.arms if arm.tuned is not None}
    if not tuned:
        return None
    within, rows = f"{plan.margin:g} nats", []
    for name, found in tuned.items():
        sign = "≤ " if arms[name].likelihood == "bound" else ""
        failed = f", {found.failed} without a result" if found.failed else ""
        values = ", ".join(f"{key} {three_digits(a)} to {three_digits(b)}" for key, (a, b) in found.ranges.items())
        ends = [Span(f" {joined(found.at_end)} at the end of the range", "alarm")] * bool(found.at_end)
        rows.append(
            (
                entry(name, style="strong"),
                entry(chosen(found), style="code"),
                entry(f"{sign}{found.loss:.4f}", found.loss, "struck" if arms[name].leaks else "plain"),
                entry(f"{found.trials} × {count(len(found.seeds), 'seed')}{failed}", found.trials),
                entry(duration(found.seconds), found.seconds),
                entry(f"{found.near} of {found.trials}", found.near),
                Entry((Span(values), *ends)),
            )
        )
    untuned = [arm.name for arm in plan.arms if arm.tuned is None]
    caption = (
        "Chosen on dev text before the first cell, with separate seeds; dev: nats per character on that text, mean "
        f"over these seeds. Training: time of all trials. Within {within} of the chosen one: how many trials, "
        "and the values that they span, which show how flat the optimum is."
    )
    if any(found.at_end for found in tuned.values()):
        caption += " At the end of the range: a better value may be outside."
    if mixed := [name for name, found in tuned.items() if found.mixed]:
        caption += f" Exact losses and upper bounds were compared in tuning {joined(mixed)}: others may be better."
    if untuned:
        caption += f" Not tuned: {joined(untuned)}."
    headings = ("arm", "chosen", "dev", "trials", "training", f"within {within}", "values within")
    return Table("tuning", caption, headings, tuple(rows), left=("arm", "chosen", "values within"))


def chosen(found: Tuned) -> str:
    """Return the chosen values as overrides, with three significant digits."""
    shown = {key: three_digits(value) if isinstance(value, float) else value for key, value in found.values.items()}
    return " ".join(f"{key}={value}" for key, value in shown.items())


def half_tuned(plan: Plan, arm: str) -> str:
    """Return a mark for the verdict if only one of the arm and the baseline was tuned, else ""."""
    tuned = [plan.arm(name).tuned is not None for name in (arm, plan.baseline)]
    if tuned[0] == tuned[1]:
        return ""
    return "only the arm tuned" if tuned[0] else "only the baseline tuned"


def conditional(plan: Plan, arm: str) -> str:
    """Return a sentence on what an arm's verdict depends on; "" if neither it nor the baseline was tuned."""
    found = {"the arm": plan.arm(arm).tuned, "the baseline": plan.arm(plan.baseline).tuned}
    if not any(found.values()):
        return ""
    values = [f"{chosen(tuned)} for {name}" for name, tuned in found.items() if tuned is not None]
    unfair = f", and {mark}, which favors it" if (mark := half_tuned(plan, arm)) else ""
    return f"Conditional on the chosen values, {joined(values)}{unfair}."


def tuning_method(plan: Plan) -> list[str]:
    """Return how arms were tuned, in sentences."""
    names, tuned = [arm.name for arm in plan.arms if arm.tuned], [arm.tuned for arm in plan.arms if arm.tuned]
    if not tuned:
        return []
    keys = joined(list(dict.fromkeys(key for found in tuned for key in found.values)))
    who = (
        "every arm was"
        if len(tuned) == len(plan.arms)
        else f"only {joined(names)} {'was' if len(names) == 1 else 'were'}"
    )
    return [
        f"Before the first cell, {who} tuned within the same budget: {count(tuned[0].trials, 'trial')} with "
        f"{count(len(tuned[0].seeds), 'seed')} each, none of them a seed of the cells, chose {keys} by the loss on dev "
        "text, which is part of the train text and is neither trained on nor reported."
    ]
