"""The sentences on verdicts: notices to read before them, their reasons, and what weakens them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from charlab.quantities import count, joined, nats, percent, ratio
from charlab.studies.evidence import seeds_to_settle
from charlab.studies.parameters import MOST_SEEDS
from charlab.studies.report.arms import scored_text

if TYPE_CHECKING:
    from charlab.evaluation.bootstrap import TextInterval
    from charlab.studies.plan import Plan
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.state import StudyResults
    from charlab.studies.verdicts import Comparison

RULES = (
    "The rules, fixed before the first cell ran, in this order: equivalent if the interval is within ± the margin; "
    "supported if the difference is significant in the expected direction (two-sided, 5%); refuted if a difference of "
    "the margin in that direction is ruled out (one-sided, 5%); otherwise inconclusive. An arm expected to make no "
    "difference is supported if it is equivalent, and refuted if its difference is significant and larger than the "
    "margin. Each of the three tests is Holm-adjusted over the arms; the interval shown is that of the test that "
    "decided, or that failed to support."
)

_EFFECTS = {
    False: {"improve": ("an improvement", "better"), "worsen": ("a worsening", "worse")},
    True: {"improve": ("a speed-up", "at the target sooner"), "worsen": ("a slow-down", "at the target later")},
}
"""The expected effect, and how the arm then compares, for losses (False) and for times to a target (True)."""


class Notice(NamedTuple):
    """A caveat to read before anything else."""

    level: Literal["alarm", "caution", "note"]
    text: str


def notices(
    results: StudyResults, arms: Mapping[str, ArmSummary], comparisons: Mapping[str, Comparison]
) -> list[Notice]:
    """Return the notices, starting with those without which the rest would mislead.

    A sweep in which nothing is compared gets none about comparisons.
    """
    compares, scales = results.plan.compares, results.plan.kind == "scaling"
    mismatch = results.mismatch() if compares or scales else None
    unpaired = results.unpaired() if compares else None
    return [
        *(_few_seeds(results, comparisons) if compares else []),
        *([Notice("alarm", f"Budgets do not match. {mismatch}")] if mismatch else []),
        *_different_texts(results),
        *_leaks(arms, compares),
        *(_half_tuned(results.plan) if compares else []),
        *(_exploration(results.plan) if compares or scales else []),
        *([Notice("caution", unpaired)] if unpaired else []),
        *_cells(results, compares),
        *_unreached(results.plan, comparisons),
        *_bounds(arms),
    ]


def _few_seeds(results: StudyResults, comparisons: Mapping[str, Comparison]) -> Iterator[Notice]:
    number, looks = len(results.plan.seeds), results.plan.planned_looks
    short = [comparison for comparison in comparisons.values() if comparison.too_few_seeds]
    if len(results.plan.arms) == 1:
        yield Notice("note", "There is only one arm, so nothing is compared.")
    elif not comparisons and looks:
        yield Notice("note", f"The first look, after {looks[0]} seeds, has not been reached: nothing is shown yet.")
    elif not comparisons:
        text = f"Too few seeds for any verdict: {count(number, 'seed')}. This report only describes these runs."
        yield Notice("alarm", text)
    elif short:
        least = min(comparison.ended for comparison in short)
        whose = "" if len(short) == len(comparisons) else f" for {joined([comparison.arm for comparison in short])}"
        yield Notice(
            "alarm",
            f"Too few seeds{whose}: {least} of {number} pairs of cells {_have(least)} ended, but a study with "
            f"{count(len(comparisons), 'arm')} to compare needs at least {short[0].minimum_seeds}. The differences "
            "below are not evidence yet.",
        )


def _different_texts(results: StudyResults) -> Iterator[Notice]:
    records = [result.record for result in results.cells if result.record is not None]
    if len({record.corpus.get("sha256") for record in records}) > 1:
        names = joined(list(dict.fromkeys(f"{record.corpus.get('name')}" for record in records)))
        different = f"texts ({names})"
    elif len(set(map(scored_text, records))) > 1:
        different = "parts of the text, as data.train_fraction or data.validation_fraction differs"
    else:
        return
    yield Notice(
        "alarm",
        f"The cells were scored on different {different}, so their figures cannot be compared and the differences mean "
        "nothing.",
    )


def _leaks(arms: Mapping[str, ArmSummary], compares: bool) -> Iterator[Notice]:
    for arm in arms.values():
        if not arm.leaks:
            continue
        who, effect = "The arm", "it gets no verdict" if compares else "its figures are false"
        if arm.is_baseline and compares:
            who, effect = "The baseline", "no arm gets a verdict"
        honest = ""
        if arm.honest is not None and arm.mean is not None and not math.isnan(arm.honest.mean):
            honest = (
                f" Scored one character at a time, as in generation, it has {arm.honest.mean:.2f} nats per character "
                f"instead of the {arm.mean:.2f} that it claims."
            )
        yield Notice("alarm", f"{who} {arm.name} sees what it predicts, so {effect}.{honest}")


def _half_tuned(plan: Plan) -> Iterator[Notice]:
    tuned = [arm.name for arm in plan.arms if arm.tuned is not None]
    untuned = [arm.name for arm in plan.arms if arm.tuned is None]
    if tuned and untuned:
        text = f"Tuned: {joined(tuned)}; not tuned: {joined(untuned)}. Comparisons of the two favor what was tuned."
        yield Notice("caution", text)


def _exploration(plan: Plan) -> Iterator[Notice]:
    reasons = ["an ordinary sweep states no hypothesis in advance"] if plan.sweep else []
    if len(plan.seeds) > plan.planned_seeds:
        looks = sorted({look for look in plan.looks if look < len(plan.seeds)})
        many = "a look" if len(looks) == 1 else "looks"
        after = f" after {many} at {joined([str(look) for look in looks])}" if looks else ""
        planned = count(plan.planned_seeds, "seed")
        reasons.append(f"the study was planned with {planned} and extended to {len(plan.seeds)}{after}")
    reasons += [amendment.rstrip(".") for amendment in plan.amendments]
    if reasons:
        yield Notice(
            "caution",
            f"Exploratory: {'; '.join(reasons)}. False findings are therefore more frequent than stated: treat the "
            "verdicts as hints and confirm them in a study with fresh seeds.",
        )


def _cells(results: StudyResults, compares: bool) -> Iterator[Notice]:
    without = Counter(result.status for result in results.cells if not (result.ended or result.status == "not needed"))
    diverged = sum(result.status == "diverged" for result in results.cells)
    older = sum(result.older for result in results.cells)
    total = len(results.cells)
    if without:
        kinds = joined([f"{number} {status}" for status, number in without.most_common()])
        effect = ", so the verdicts are provisional" if compares else ""
        lacking = f"{without.total()} of {total} cells {_have(without.total())} no result"
        yield Notice("caution", f"{lacking} ({kinds}){effect}.")
    if diverged:
        effect = ", which counts against their arms" if compares else ""
        yield Notice("caution", f"{diverged} of {total} cells diverged{effect}.")
    infinite = Counter(reason for result in results.cells if (reason := results.figure(result).get("reason")))
    for why, number in infinite.items():
        effect = ", which counts against their arms" if compares else ""
        yield Notice("caution", f"{number} of {total} cells {_have(number)} no finite loss{effect}. {why}")
    if older:
        were = "was" if older == 1 else "were"
        yield Notice("note", f"{older} of {total} cells {were} run by other code than today's.")


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _unreached(plan: Plan, comparisons: Mapping[str, Comparison]) -> Iterator[Notice]:
    missed: dict[str, set[int]] = {plan.baseline: set()}
    for arm, found in comparisons.items():
        missed[plan.baseline].update(found.baseline_unreached)  # with the seeds that this arm has, too
        missed[arm] = set(found.unreached)
    if said := [f"{arm} with {count(len(seeds), 'seed')}" for arm, seeds in missed.items() if seeds]:
        yield Notice(
            "note",
            f"The target of {plan.target:g} nats per character was not reached by {joined(said)}: such a cell "
            "counts as later than any that reached it, and speed-ups may have no upper or no lower limit.",
        )


def _bounds(arms: Mapping[str, ArmSummary]) -> Iterator[Notice]:
    bounds = [arm.name for arm in arms.values() if arm.likelihood == "bound"]
    if 0 < len(bounds) < len(arms):
        yield Notice(
            "note",
            f"Upper bounds (≤): {joined(bounds)}. The true nll is at or below the figure, so a bound that is worse "
            "than an exact figure does not show that the model is worse.",
        )


def reason(comparison: Comparison) -> str:
    """Return a verdict in one sentence, with its figures."""
    verdict = comparison.verdict
    if verdict == "none":
        return f"No verdict: {_obstacle(comparison)}."
    remedy = f"; {_remedy(comparison)}" if verdict == "inconclusive" else ""
    name = f"Not evidence yet; {verdict} so far" if comparison.too_few_seeds else verdict.capitalize()
    return f"{name}: {_claim(comparison)} ({_figures(comparison)}){remedy}."


def _claim(comparison: Comparison) -> str:
    """Return what a verdict says of the arm."""
    verdict, expectation, timed = comparison.verdict, comparison.expectation, comparison.target is not None
    margin = f"{math.exp(comparison.margin) if timed else comparison.margin:g}"
    by_margin = f"by a factor of {margin}" if timed else f"of {margin}"
    if verdict == "equivalent" or (verdict, expectation) == ("supported", "no difference"):
        return (
            f"at the target as soon as the baseline, within a factor of {margin}"
            if timed
            else f"within the margin of {margin} of the baseline"
        )
    if expectation == "no difference":
        if verdict == "inconclusive":
            return f"a difference {by_margin} is neither shown nor ruled out"
        larger = "the times differ by more than a factor of" if timed else "the difference is larger than the margin of"
        return f"{larger} {margin}"
    effect, compared = _EFFECTS[timed][expectation]
    if verdict == "inconclusive":
        return f"{effect} is not shown, and one {by_margin} is not ruled out"
    if verdict == "refuted":
        return f"{effect} {by_margin} or more is ruled out"
    low, high = comparison.interval
    beyond = low > comparison.margin if expectation == "improve" else high < -comparison.margin
    known = not (comparison.diverged or comparison.baseline_diverged)
    return f"{compared} than the baseline{f' by more than the margin of {margin}' * (beyond and known)}"


def _obstacle(comparison: Comparison) -> str:
    """Return why there is no verdict."""
    if comparison.baseline_leaking:
        return f"the baseline sees what it predicts (with {_seeds(comparison.baseline_leaking)})"
    if comparison.leaking:
        return f"the arm sees what it predicts (with {_seeds(comparison.leaking)}), so its figures mean nothing"
    return "fewer than two pairs of cells have a value"


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


def _figures(comparison: Comparison) -> str:
    """Return the figures behind a verdict."""
    n, seeds, timed = comparison.n, count(len(comparison.seeds), "seed"), comparison.target is not None
    write = ratio if timed else nats
    low, high = map(write, comparison.interval)
    mean = bound_sign(comparison) + write(comparison.mean)
    figures = []
    if not math.isnan(comparison.mean):
        figures.append(f"speed-up {mean}" if timed else f"mean improvement {mean} nats per character")
    if comparison.mixed:
        figures.append(f"the {'arm' if comparison.bound else 'baseline'}'s figure is an upper bound (≤)")
    elif comparison.bound:
        figures.append("both figures are upper bounds (≤)")
    missed = {"arm": comparison.unreached, "baseline": comparison.baseline_unreached}.items()
    figures += [f"the {who} did not reach the target with {len(lost)} of {seeds}" for who, lost in missed if lost]
    fates = [
        f"the {who} has no finite loss with {len(lost)} of {seeds}, which counts against it"
        for who, lost in {"arm": comparison.diverged, "baseline": comparison.baseline_diverged}.items()
        if lost
    ]
    if fates:
        figures += [f"95% interval {low} to {high}"] * (n > 1)
        return "; ".join(fates + [f"over the other {n}: {', '.join(figures)}"] * bool(n))
    if comparison.verdict == "refuted" and comparison.expectation != "no difference":
        side, bound = ("upper", high) if comparison.expectation == "improve" else ("lower", low)
        figures.append(f"{percent((1 + comparison.confidence) / 2)} {side} bound {bound}")
    else:
        p = "p < 0.0001" if comparison.p_holm < 0.0001 else f"p = {comparison.p_holm:.3g}"
        figures += [f"{percent(comparison.confidence)} interval {low} to {high}", f"Holm-adjusted {p}"]
    look = " at this look" if n < max(comparison.planned_looks, default=n) else ""
    return ", ".join([*figures, f"n = {n}{look}"])


def _remedy(comparison: Comparison) -> str:
    """Return what would settle an inconclusive verdict."""
    if comparison.diverged or comparison.baseline_diverged:
        return "more seeds settle nothing until these cells are fixed"
    if comparison.mixed:
        return "one of the two figures is a bound, so no number of seeds is certain to settle it"
    if comparison.target is not None:
        missed = comparison.unreached or comparison.baseline_unreached
        longer = ", and longer training shows when the others reach the target" if missed else ""
        return f"more seeds would narrow the interval{longer}"
    if (needed := comparison.seeds_needed) is not None:
        return f"if the spread over seeds stays as it is, a fresh study of {needed} seeds would settle it"
    given = (comparison.margin, comparison.num_arms, comparison.expectation)
    if seeds_to_settle(comparison.standard_deviation, *given) is None:
        return f"with this spread, not even {MOST_SEEDS:,} seeds would settle it"
    if comparison.expectation == "no difference" and abs(comparison.mean) > comparison.margin / 2:
        return "the difference is so close to the margin that more seeds may not settle it"
    return "more seeds may settle it"


def bound_sign(comparison: Comparison) -> str:
    """Return "≥ " or "≤ " if the improvement is only a bound, else ""."""
    if comparison.mixed:
        return "≥ " if comparison.bound else "≤ "
    return f"{comparison.mean_sign} " if comparison.mean_sign else ""


TIME_RULES = (
    "The tests are exact Wilcoxon signed-rank tests of the logarithms of the speed-ups; a pair with only one run that "
    "reached the target ranks last. The interval holds the speed-ups that the tests do not reject."
)


def caution(comparison: Comparison) -> str:
    """Return a sentence on how bounds limit a verdict; "" if all values are exact."""
    if comparison.bound and comparison.baseline_bound:
        return "Both figures are upper bounds (≤): the verdict is on the bounds, not on the likelihoods below them."
    if comparison.bound:
        return (
            "The arm's figure is an upper bound (≤), and its true value may be lower: the arm can be shown to be "
            "better than the baseline, but neither worse nor the same."
        )
    if comparison.baseline_bound:
        return (
            "The baseline's figure is an upper bound (≤), and its true value may be lower: the arm can be shown to "
            "be worse than the baseline, but neither better nor the same."
        )
    return ""


def on_other_text(text: TextInterval, protocol: str = "blocks", *, left_out: bool = False) -> str:
    """Return a sentence on whether a difference would hold on other text.

    Args:
        text: the difference by `blocks`, the only protocol with figures for stretches of the text.
        protocol: the study's protocol.
        left_out: whether pairs had no finite loss, and are not part of the difference.
    """
    low, high = text.interval_95
    answer = "may turn out better or worse"
    if low > 0 or high < 0:
        answer = f"would be expected to be {'better' if text.mean > 0 else 'worse'}"
    return (
        f"On other text of this kind, the arm {answer} (mean improvement{' by blocks' * (protocol != 'blocks')} "
        f"{nats(text.mean)} nats per character, 95% interval {nats(low)} to {nats(high)}, block bootstrap over "
        f"{text.characters:,} characters).{' Pairs without a finite loss are left out.' * left_out}"
    )
