"""A study's tables: verdicts, results, budgets, cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from charlab.studies.bootstrap import TextInterval
from charlab.studies.report import wording
from charlab.studies.report.pieces import UNKNOWN, Column, Entry, Span, Style, Table, entry

if TYPE_CHECKING:
    from charlab.studies.comparison import Comparison
    from charlab.studies.plan import Plan
    from charlab.studies.report.arms import ArmSummary, Cost
    from charlab.studies.report.references import Reference
    from charlab.studies.results import StudyResults

SYMBOLS = {"supported": "✓", "refuted": "✗", "equivalent": "≈", "inconclusive": "?", "none": "–"}
EXPECTED_TO = {"improve": "improve", "worsen": "worsen", "no difference": "make no difference"}
_MATCHED = {"steps": "steps", "characters": "characters", "flops": "flops", "seconds": "training_s"}
_COST_COLUMNS = {
    "steps": ("steps", wording.amount),
    "characters": ("characters", wording.amount),
    "flops": ("FLOPs", wording.amount),
    "training_s": ("training", wording.duration),
    "parameters": ("parameters", wording.amount),
    "peak_memory_bytes": ("peak memory", wording.memory),
}


def verdict_name(comparison: Comparison, *, exploratory: bool) -> str:
    """Returns the verdict in words, with what weakens it most: it may be read alone."""
    if comparison.verdict == "none":
        return "no verdict"
    doubts = {
        "too few seeds": comparison.too_few_seeds,
        "exploratory": exploratory,
        "provisional": comparison.provisional,
    }
    bound = " (≤)" if comparison.bound or comparison.baseline_bound else ""
    return ", ".join([comparison.verdict + bound, *[doubt for doubt, holds in doubts.items() if holds][:1]])


def verdict_table(comparisons: Mapping[str, Comparison], texts: Mapping[str, TextInterval | str], plan: Plan) -> Table:
    """Returns the verdict on each arm with what it rests on."""
    columns = (
        Column("arm", "left"),
        Column("expected to", "left"),
        Column("verdict", "left"),
        Column("improvement"),
        Column("95% interval"),
        Column("p (Holm)"),
        Column("p (sign flip)"),
        Column("pairs"),
        Column("seeds to settle"),
        Column("on other text"),
    )
    rows = tuple(_verdict_row(comparison, texts[arm], plan) for arm, comparison in comparisons.items())
    caption = (
        "Improvement: nats per character of the baseline minus those of the arm with the same seed, so above 0 the "
        "arm is better; mean and 95% t-interval over seeds. p: two-sided paired t-test, adjusted after Holm over "
        f"{len(comparisons)} arm{'' if len(comparisons) == 1 else 's'}; beside it the exact sign-flip test, not "
        f"adjusted. The smallest difference that matters is {plan.margin:g}. On other text: 95% interval by block "
        "bootstrap over the validation text, seeds averaged first."
    )
    return Table("verdicts", caption + bound_note(comparisons), columns, rows)


def bound_note(comparisons: Mapping[str, Comparison]) -> str:
    """Returns what the mark (≤) beside a verdict means, to be added to a caption; nothing where there is none."""
    if not any(comparison.bound or comparison.baseline_bound for comparison in comparisons.values()):
        return ""
    return " (≤): judged by an upper bound; ≥ or ≤: the true improvement is at least, or at most, the one shown."


def _verdict_row(comparison: Comparison, text: TextInterval | str, plan: Plan) -> tuple[Entry, ...]:
    known = comparison.n > 0
    name = verdict_name(comparison, exploratory=plan.exploratory)
    return (
        entry(comparison.arm, style="strong"),
        entry(EXPECTED_TO[comparison.expectation]),
        entry(f"{SYMBOLS[comparison.verdict]} {name}", comparison.verdict, "strong"),
        entry(comparison.sign + wording.signed(comparison.mean), comparison.mean) if known else _unknown(),
        entry(wording.interval(comparison.interval_95)) if comparison.n > 1 else _unknown(),
        _p_value(comparison, comparison.p_difference_holm),
        _p_value(comparison, comparison.p_sign_flip),
        entry(f"{comparison.n}", comparison.n),
        _unknown() if comparison.seeds_needed is None else entry(f"{comparison.seeds_needed}", comparison.seeds_needed),
        _unknown() if isinstance(text, str) else entry(wording.interval(text.interval_95)),
    )


def _p_value(comparison: Comparison, p: float) -> Entry:
    return _unknown() if comparison.verdict == "none" else entry(wording.probability(p), p)


def result_table(plan: Plan, arms: Mapping[str, ArmSummary], references: Sequence[Reference]) -> Table:
    """Returns what each arm reached, over its seeds."""
    columns = (
        Column("arm", "left"),
        Column("nats per character"),
        Column("bits per character"),
        Column("perplexity"),
        Column("seeds"),
    )
    rows = [_result_row(arm) for arm in arms.values()]
    rows += [
        (
            Entry((Span(reference.name, "faint"),), reference.name),
            entry(wording.figure(reference.nll, 3), reference.nll, "faint"),
            entry(wording.figure(reference.nll / math.log(2), 3), reference.nll / math.log(2), "faint"),
            entry(wording.figure(math.exp(reference.nll), 3), math.exp(reference.nll), "faint"),
            _unknown(),
        )
        for reference in references
    ]
    notes = [
        f"Validation text by protocol “{plan.protocol}”; mean over seeds ± half of the 95% t-interval.",
        *["Figures struck through are false, since the model sees what it is to predict; the honest one, scored "
          "character by character on a sample of the text, stands beside them."]
        * any(arm.leaks for arm in arms.values()),
        *["≤ marks upper bounds, which cannot be ranked with the others."]
        * any(arm.likelihood == "bound" for arm in arms.values()),
        *[f"{reference.name}: {reference.note}." for reference in references],
    ]  # fmt: skip
    return Table("results", " ".join(note[0].upper() + note[1:] for note in notes), columns, tuple(rows))


def _result_row(arm: ArmSummary) -> tuple[Entry, ...]:
    seeds = f"{arm.seeds}" if arm.seeds == arm.planned else f"{arm.seeds} of {arm.planned}"
    name = [Span(arm.name, "strong"), *[Span(" (baseline)", "faint")] * arm.is_baseline]
    return (
        Entry(tuple(name), arm.name),
        _figure(arm, "value", 4, with_honest=True),
        _figure(arm, "bpc", 4),
        _figure(arm, "perplexity", 3),
        entry(seeds, arm.seeds),
    )


def _figure(arm: ArmSummary, measure: str, digits: int, *, with_honest: bool = False) -> Entry:
    estimate = arm.figures[measure]
    if math.isnan(estimate.mean):
        return _unknown()
    sign = "≤ " if arm.likelihood == "bound" else ""
    text = sign + wording.with_error(estimate.mean, estimate.half_width, digits)
    if not arm.leaks:
        return entry(text, estimate.mean)
    spans = [Span(text, "struck")]
    if arm.honest is None or not with_honest:
        return Entry(tuple(spans))
    honest, error = arm.honest
    spans += [Span(" leaks", "alarm"), Span(f" honest {wording.with_error(honest, error, 2)}", "strong")]
    return Entry(tuple(spans), honest)


def budget_table(plan: Plan, arms: Mapping[str, ArmSummary], *, matches: bool) -> Table:
    """Returns what each arm took; `matches` tells if the declared budget is shared."""
    declared = _MATCHED.get(plan.budget, plan.budget)
    columns = [Column("arm", "left")]
    for cost, (heading, _) in _COST_COLUMNS.items():
        mark = (" (matched)" if matches else " (NOT matched)") if cost == declared else ""
        columns.append(Column(heading + mark))
    rows = [
        (
            entry(arm.name, style="strong"),
            *(_cost(cost, arm.costs.get(cost)) for cost in _COST_COLUMNS),
        )
        for arm in arms.values()
    ]
    caption = (
        f"Medians over finished cells, and the range where it differs. The declared budget is equal {plan.budget}. "
        "FLOPs are counted, not estimated; training is the cell's own training clock, without set-up and evaluation."
    )
    return Table("budgets", caption, tuple(columns), tuple(rows))


def _cost(name: str, cost: Cost | None) -> Entry:
    if cost is None:
        return _unknown()
    if name == "parameters" and cost.high == 0:
        return entry("counts only", 0.0)
    write = _COST_COLUMNS[name][1]
    text, low, high = write(cost.median), write(cost.low), write(cost.high)
    spans = [Span(text)] if low == high else [Span(text), Span(f" ({low} – {high})", "faint")]
    return Entry(tuple(spans), cost.median)


def cell_table(results: StudyResults) -> Table:
    """Returns every cell."""
    columns = (
        Column("arm", "left"),
        Column("seed"),
        Column("status", "left"),
        Column("nats per character"),
        Column("steps"),
        Column("training"),
        Column("run", "left"),
    )
    rows = []
    for result in results.cells:
        figure, record = results.figure(result), result.record
        nll = figure.get("nll")
        leaks = record is not None and bool(record.causality.get("leaks"))
        style: Style = "struck" if leaks else "plain"
        sign = "≤ " if figure.get("likelihood") == "bound" else ""
        seconds = record.time.get("training_s") if record is not None else None
        status = [Span(result.status, "plain" if result.status == "finished" else "alarm")]
        status += [Span(" leaks", "alarm")] * leaks + [Span(" older code", "faint")] * result.older
        rows.append(
            (
                entry(result.cell.arm),
                entry(f"{result.cell.seed}", result.cell.seed),
                Entry(tuple(status), result.status),
                _unknown() if nll is None else entry(f"{sign}{nll:.4f}", nll, style),
                _unknown() if record is None else entry(wording.amount(record.steps), record.steps),
                _unknown() if seconds is None else entry(wording.duration(seconds), seconds),
                entry(result.cell.run, style="code"),
            )
        )
    return Table("cells", "Every cell of the study.", columns, tuple(rows))


def _unknown() -> Entry:
    return Entry((Span(UNKNOWN, "faint"),))
