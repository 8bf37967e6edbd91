"""A study's tables: verdicts, results, budgets, cells. A table holds styled text, independent of the format."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from charlab.evaluation.bootstrap import TextInterval
from charlab.quantities import (
    UNKNOWN,
    amount,
    count,
    duration,
    fixed,
    interval,
    percent,
    probability,
    ratio,
    signed,
    with_error,
)
from charlab.studies.costs import BY_BUDGET, COSTS
from charlab.studies.report.sentences import bound_sign

if TYPE_CHECKING:
    from charlab.studies.plan import Plan
    from charlab.studies.report.arms import ArmSummary, Cost, Reference
    from charlab.studies.report.contents import Judgment
    from charlab.studies.state import StudyResults
    from charlab.studies.verdicts import Comparison

Style = Literal["plain", "strong", "faint", "struck", "alarm", "code"]

SYMBOLS = {"supported": "✓", "refuted": "✗", "equivalent": "≈", "inconclusive": "?", "none": UNKNOWN}
_STATUS_STYLES: Mapping[str, Style] = {"finished": "plain", "held back": "faint", "not needed": "faint"}


class Span(NamedTuple):
    """A piece of text in one style, not escaped yet."""

    text: str
    style: Style = "plain"


@dataclass(frozen=True)
class Entry:
    """One entry of a table; its column is sorted by the key, None last."""

    spans: tuple[Span, ...]
    key: float | str | None = None

    @property
    def text(self) -> str:
        """Its text without styles."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True)
class Table:
    """A table of figures, which are aligned to the right; columns of text have their headings in `left`."""

    name: str
    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    left: Collection[str] = ("arm",)

    @property
    def aligns(self) -> list[str]:
        """The alignment of each column."""
        return ["left" if heading in self.left else "right" for heading in self.headings]

    def without(self, *headings: str) -> Table:
        """Return the table without these columns, and without columns in which nothing is known."""
        kept = [
            index
            for index, heading in enumerate(self.headings)
            if heading not in headings and any(row[index].text != UNKNOWN for row in self.rows)
        ]
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return replace(self, headings=tuple(self.headings[index] for index in kept), rows=rows)


def entry(text: str, key: float | str | None = None, style: Style = "plain") -> Entry:
    """Return an entry in one style, sorted by its text unless a key is given."""
    return Entry((Span(text, style),), text if key is None else key)


NOTHING = Entry((Span(UNKNOWN, "faint"),))


def verdict_name(comparison: Comparison, *, exploratory: bool, mark: str = "") -> str:
    """Return the verdict in words with its gravest caveat and a mark, because it may be read on its own."""
    if comparison.verdict == "none":
        return "no verdict"
    if comparison.too_few_seeds:
        return "not evidence yet"
    bound = " (≤)" if comparison.bound or comparison.baseline_bound else ""
    caveat = "exploratory" if exploratory else "provisional" if comparison.provisional else ""
    return ", ".join(filter(None, [comparison.verdict + bound, mark, caveat]))


def verdict_table(judgments: Sequence[Judgment], texts: Mapping[str, TextInterval | str], plan: Plan) -> Table:
    """Return the verdict on each arm with the figures behind it."""
    level = f"at the level at which Holm's method tested the verdict over {count(len(judgments), 'arm')}."
    figures: tuple[str, ...]
    if plan.target is not None:
        clock = "optimizer steps" if plan.metric == "steps_to" else "seconds of training"
        figures = ("speed-up", "interval", "p (Holm)", "pairs", "not reached", "by the baseline")
        caption = (
            f"Speed-up: the baseline's {clock} until the estimate on validation text is at {plan.target:g} nats per "
            "character, divided by the arm's with the same seed; Hodges and Lehmann's estimate and the interval of the "
            f"signed-rank test, {level} Not reached: cells of the arm, and of the baseline, that did not reach it. The "
            f"smallest speed-up that matters is {plan.margin:g}."
        )
    else:
        figures = ("improvement", "interval", "p (Holm)", "p (sign flip)", "pairs", "seeds to settle", "on other text")
        caption = (
            "Improvement: the baseline's nats per character minus the arm's with the same seed, above 0 if the arm is "
            f"better; mean and t-interval over seeds, {level} p: of the paired t-tests that decide, Holm-adjusted, and "
            "of the two-sided sign-flip permutation test, not adjusted. The smallest difference that matters is "
            f"{plan.margin:g}. On other text: 95% interval by block bootstrap over the validation text, averaged over "
            f"seeds first{'' if plan.protocol == 'blocks' else ', of the difference by blocks'}."
        )
        comparisons = [judgment.comparison for judgment in judgments]
        if any(comparison.diverged or comparison.baseline_diverged for comparison in comparisons):
            caption += (
                " Where cells have no finite loss, the interval is the 95% interval of the other pairs, and p may be "
                "that of an exact sign test of all."
            )
        if any(comparison.bound or comparison.baseline_bound for comparison in comparisons):
            caption += " (≤): judged by an upper bound; ≥ or ≤: the true improvement is at least, or at most, this."
    left = ("arm", "expected to", "verdict")
    rows = tuple(_verdict_row(judgment, texts[judgment.comparison.arm]) for judgment in judgments)
    return Table("verdicts", caption, (*left, *figures), rows, left)


def _verdict_row(judgment: Judgment, text: TextInterval | str) -> tuple[Entry, ...]:
    comparison, timed = judgment.comparison, judgment.comparison.target is not None
    write: Callable[[float], str] = ratio if timed else signed
    low, high = map(write, comparison.interval)
    ends = f"{low} to {high}" if timed else f"[{low}, {high}]"
    p_values = [comparison.p_holm] if timed else [comparison.p_holm, comparison.p_sign_flip]
    row = [
        entry(comparison.arm, style="strong"),
        entry(judgment.expectation),
        entry(f"{SYMBOLS[judgment.shown]} {judgment.verdict}", judgment.verdict, "strong"),
        entry(bound_sign(comparison) + write(comparison.mean), comparison.mean) if comparison.n else NOTHING,
        entry(f"{ends} at {percent(comparison.confidence)}", comparison.interval[0])
        if comparison.n > 1 or (timed and comparison.n)
        else NOTHING,
        *(NOTHING if comparison.verdict == "none" else entry(probability(p), p) for p in p_values),
        entry(f"{comparison.n}", comparison.n),
    ]
    if timed:
        missed = (len(comparison.unreached), len(comparison.baseline_unreached))
        return (*row, *(entry(f"{number}", number) for number in missed))
    needed = comparison.seeds_needed
    row.append(NOTHING if needed is None else entry(f"{needed}", needed))
    return (*row, NOTHING if isinstance(text, str) else entry(interval(text.interval_95), text.interval_95[0]))


def result_table(plan: Plan, arms: Mapping[str, ArmSummary], references: Sequence[Reference]) -> Table:
    """Return what each arm reached over its seeds, and the figures to compare it with."""
    several = len(plan.seeds) > 1
    rows = [_result_row(arm) for arm in arms.values()]
    for reference in references:
        figures = (reference.nll, reference.nll / math.log(2), math.exp(reference.nll))
        name = Entry((Span(reference.name, "faint"),), reference.name)
        rows.append((name, *(entry(fixed(value, 3), value, "faint") for value in figures), NOTHING))
    over_seeds = "; mean over seeds ± half-width of the 95% t-interval" if several else ""
    notes = [f"Validation text, protocol “{plan.protocol}”{over_seeds}."]
    if any(arm.leaks for arm in arms.values()):
        notes.append(
            "Struck-through figures are false because the model sees what it predicts; the honest figure comes from "
            "scoring a sample of the text one character at a time."
        )
    if any(arm.likelihood == "bound" for arm in arms.values()):
        notes.append("≤ marks upper bounds, which cannot be ranked with the others.")
    notes += [f"{reference.name}: {reference.note}." for reference in references]
    caption = " ".join(note[0].upper() + note[1:] for note in notes)
    headings = ("arm", "nats per character", "bits per character", "perplexity", "seeds")
    table = Table("results", caption, headings, tuple(rows))
    return table if several else table.without("seeds")


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
        return NOTHING
    sign = "≤ " if arm.likelihood == "bound" else ""
    text = sign + with_error(estimate.mean, estimate.half_width, digits)
    if not arm.leaks:
        return entry(text, estimate.mean)
    if arm.honest is None or not with_honest:
        return Entry((Span(text, "struck"),))
    honest, error = arm.honest
    spans = (Span(text, "struck"), Span(" leaks", "alarm"), Span(f" honest {with_error(honest, error, 2)}", "strong"))
    return Entry(spans, honest)


def budget_table(plan: Plan, arms: Mapping[str, ArmSummary], *, mismatch: bool) -> Table:
    """Return what each arm cost, and whether the arms share the declared budget, if they are compared."""
    declared, mark = BY_BUDGET[plan.budget], ""
    if plan.compares:
        known = [name for name, arm in arms.items() if declared in arm.costs]
        mark = " (NOT matched)" if mismatch else " (matched)" if plan.baseline in known and len(known) > 1 else ""
    headings = ("arm", *(cost.heading + mark * (name == declared) for name, cost in COSTS.items()))
    rows = tuple(
        (entry(arm.name, style="strong"), *(_cost(name, arm.costs.get(name)) for name in COSTS))
        for arm in arms.values()
    )
    caption = " ".join(
        [
            *["Medians over finished cells, with the range if they differ."] * (len(plan.seeds) > 1),
            *[f"The declared budget is equal {plan.budget}."] * plan.compares,
            "FLOPs are counted, not estimated; training is the time of training itself, without set-up and evaluation.",
        ]
    )
    return Table("budgets", caption, headings, rows)


def _cost(name: str, cost: Cost | None) -> Entry:
    if cost is None:
        return NOTHING
    if name == "parameters" and cost.high == 0:
        return entry("counts only", 0.0)
    text, low, high = map(COSTS[name].write, cost)
    return Entry((Span(text), *[Span(f" ({low} – {high})", "faint")] * (low != high)), cost.median)


def cell_table(results: StudyResults) -> Table:
    """Return a row for every cell."""
    rows = []
    for result in results.cells:
        figure, record = results.figure(result), result.record
        nll = figure.get("nll")
        leaks = record is not None and bool(record.causality.get("leaks"))
        sign = "≤ " if figure.get("likelihood") == "bound" else ""
        seconds = record.time.get("training_s") if record is not None else None
        status = [Span(result.status, _STATUS_STYLES.get(result.status, "alarm"))]
        status += [Span(" leaks", "alarm")] * leaks + [Span(" older code", "faint")] * result.older
        rows.append(
            (
                entry(result.cell.arm),
                entry(f"{result.cell.seed}", result.cell.seed),
                Entry(tuple(status), result.status),
                NOTHING if nll is None else entry(f"{sign}{nll:.4f}", nll, "struck" if leaks else "plain"),
                NOTHING if record is None else entry(amount(record.steps), record.steps),
                NOTHING if seconds is None else entry(duration(seconds), seconds),
                entry(result.cell.run, style="code"),
            )
        )
    headings = ("arm", "seed", "status", "nats per character", "steps", "training", "run")
    return Table("cells", "One row for each arm and seed.", headings, tuple(rows), left=("arm", "status", "run"))
