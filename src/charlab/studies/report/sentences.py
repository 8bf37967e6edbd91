"""The sentences on verdicts: what to read before them, their reasons and what weakens them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from charlab.quantities import count, joined, nats, percent, ratio
from charlab.studies.paired import MOST_SEEDS

if TYPE_CHECKING:
    from charlab.evaluation.bootstrap import TextInterval
    from charlab.studies.plan import Plan
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.state import StudyResults
    from charlab.studies.verdicts import Comparison

RULES = (
    "These rules were fixed before the first cell ran and are applied in this order: equivalent if the interval is "
    "within ± the margin; supported if the difference is significant in the expected direction (two-sided, 5%); "
    "refuted if a difference of the margin in that direction is ruled out (one-sided, 5%); otherwise inconclusive. An "
    "arm expected to make no difference is supported if it is equivalent, and refuted if its difference is significant "
    "and larger than the margin. Each of the three tests is Holm-adjusted over the arms; the interval shown is that of "
    "the test that decided."
)

_WITHIN = "within the margin of {margin} of the baseline"
_CLAIMS: dict[str, dict[str, str]] = {
    "equivalent": {"improve": _WITHIN, "worsen": _WITHIN},
    "supported": {
        "improve": "better than the baseline",
        "worsen": "worse than the baseline",
        "no difference": _WITHIN,
    },
    "refuted": {
        "improve": "an improvement of {margin} or more is ruled out",
        "worsen": "a worsening of {margin} or more is ruled out",
        "no difference": "the difference is larger than the margin of {margin}",
    },
    "inconclusive": {
        "improve": "an improvement is not shown, and one of {margin} is not ruled out",
        "worsen": "a worsening is not shown, and one of {margin} is not ruled out",
        "no difference": "a difference of {margin} is neither shown nor ruled out",
    },
}
_AS_SOON = "at the target as soon as the baseline, within a factor of {margin}"
_TIME_CLAIMS: dict[str, dict[str, str]] = {
    "equivalent": {"improve": _AS_SOON, "worsen": _AS_SOON},
    "supported": {
        "improve": "at the target sooner than the baseline",
        "worsen": "at the target later than the baseline",
        "no difference": _AS_SOON,
    },
    "refuted": {
        "improve": "a speed-up by a factor of {margin} or more is ruled out",
        "worsen": "a slow-down by a factor of {margin} or more is ruled out",
        "no difference": "the times differ by more than a factor of {margin}",
    },
    "inconclusive": {
        "improve": "a speed-up is not shown, and one by a factor of {margin} is not ruled out",
        "worsen": "a slow-down is not shown, and one by a factor of {margin} is not ruled out",
        "no difference": "a difference by a factor of {margin} is neither shown nor ruled out",
    },
}


class Notice(NamedTuple):
    """A caveat to read before anything else."""

    level: Literal["alarm", "caution", "note"]
    text: str


def notices(
    results: StudyResults, arms: Mapping[str, ArmSummary], comparisons: Mapping[str, Comparison]
) -> list[Notice]:
    """Return the notices, first those without which the rest misleads.

    A sweep in which nothing is compared gets none that are about comparisons.
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
        *_unreached(results.plan.baseline, comparisons),
        *_bounds(arms),
    ]


def _few_seeds(results: StudyResults, comparisons: Mapping[str, Comparison]) -> list[Notice]:
    number = len(results.plan.seeds)
    if len(results.plan.arms) == 1:
        return [Notice("note", "There is only one arm, so nothing is compared.")]
    if not comparisons and (looks := results.plan.planned_looks):
        return [Notice("note", f"The first look, after {looks[0]} seeds, has not been reached: nothing is shown yet.")]
    if not comparisons:
        text = f"Too few seeds for any verdict: {count(number, 'seed')}. This report only describes these runs."
        return [Notice("alarm", text)]
    short = [comparison for comparison in comparisons.values() if comparison.too_few_seeds]
    if not short:
        return []
    least = min(comparison.ended for comparison in short)
    whose = "" if len(short) == len(comparisons) else f" for {joined([comparison.arm for comparison in short])}"
    text = (
        f"Too few seeds{whose}: {least} of {number} pairs of cells have ended, but a study with "
        f"{count(len(comparisons), 'arm')} to compare needs at least {short[0].minimum_seeds}. The differences below "
        "are not evidence yet."
    )
    return [Notice("alarm", text)]


def _different_texts(results: StudyResults) -> list[Notice]:
    corpora = [result.record.corpus for result in results.cells if result.record is not None]
    if len({corpus.get("sha256") for corpus in corpora}) < 2:
        return []
    names = joined(list(Counter(f"{corpus.get('name')}" for corpus in corpora)))
    text = (
        f"The cells were scored on different texts ({names}), so their figures cannot be compared and the differences "
        "mean nothing."
    )
    return [Notice("alarm", text)]


def _leaks(arms: Mapping[str, ArmSummary], compares: bool) -> list[Notice]:
    found = []
    for arm in arms.values():
        if not arm.leaks:
            continue
        who, effect = "The arm", "it gets no verdict" if compares else "its figures are false"
        if arm.is_baseline and compares:
            who, effect = "The baseline", "no arm gets a verdict"
        honest = ""
        if arm.honest is not None and arm.mean is not None and arm.honest.mean == arm.honest.mean:
            honest = (
                f" Scored one character at a time, as in generation, it has {arm.honest.mean:.2f} nats per character "
                f"instead of the {arm.mean:.2f} that it claims."
            )
        found.append(Notice("alarm", f"{who} {arm.name} sees what it predicts, so {effect}.{honest}"))
    return found


def _half_tuned(plan: Plan) -> list[Notice]:
    tuned = [arm.name for arm in plan.arms if arm.tuned is not None]
    if len(tuned) in (0, len(plan.arms)):
        return []
    untuned = [arm.name for arm in plan.arms if arm.tuned is None]
    text = f"Tuned: {joined(tuned)}; not tuned: {joined(untuned)}. Comparisons of the two favor what was tuned."
    return [Notice("caution", text)]


def _exploration(plan: Plan) -> list[Notice]:
    if not plan.exploratory:
        return []
    reasons = ["an ordinary sweep states no hypothesis in advance"] if plan.sweep else []
    if len(plan.seeds) > plan.planned_seeds:
        looks = sorted({look for look in plan.looks if look < len(plan.seeds)})
        after = f" after looks at {joined([str(look) for look in looks])}" if looks else ""
        planned = count(plan.planned_seeds, "seed")
        reasons.append(f"the study was planned with {planned} and extended to {len(plan.seeds)}{after}")
    reasons += [amendment.rstrip(".") for amendment in plan.amendments]
    text = (
        f"Exploratory: {'; '.join(reasons)}. False findings are therefore more frequent than stated: treat the "
        "verdicts as hints and confirm them in a study with fresh seeds."
    )
    return [Notice("caution", text)]


def _cells(results: StudyResults, compares: bool) -> list[Notice]:
    without = Counter(result.status for result in results.cells if not (result.ended or result.status == "not needed"))
    diverged = sum(result.status == "diverged" for result in results.cells)
    older = sum(result.older for result in results.cells)
    total = len(results.cells)
    found = []
    if without:
        kinds = joined([f"{number} {status}" for status, number in without.most_common()])
        effect = ", so the verdicts are provisional" if compares else ""
        text = f"{without.total()} of {total} cells have no result ({kinds}){effect}."
        found.append(Notice("caution", text))
    if diverged:
        effect = ", which counts against their arms" if compares else ""
        found.append(Notice("caution", f"{diverged} of {total} cells diverged{effect}."))
    if older:
        found.append(Notice("note", f"{older} of {total} cells were run by other code than today's."))
    return found


def _unreached(baseline: str, comparisons: Mapping[str, Comparison]) -> list[Notice]:
    shown = list(comparisons.values())
    if not shown or shown[0].target is None:
        return []
    missed = {baseline: shown[0].baseline_unreached} | {found.arm: found.unreached for found in shown}
    said = [f"{arm} with {count(len(seeds), 'seed')}" for arm, seeds in missed.items() if seeds]
    if not said:
        return []
    text = (
        f"The target of {shown[0].target:g} nats per character was not reached by {joined(said)}: such a cell counts "
        "as later than any that reached it, and speed-ups may have no upper or no lower limit."
    )
    return [Notice("note", text)]


def _bounds(arms: Mapping[str, ArmSummary]) -> list[Notice]:
    bounds = [arm.name for arm in arms.values() if arm.likelihood == "bound"]
    if not bounds or len(bounds) == len(arms):
        return []
    text = (
        f"Upper bounds (≤): {joined(bounds)}. The true nll is at or below the figure, so a bound that is worse than an "
        "exact figure does not show that the model is worse."
    )
    return [Notice("note", text)]


def reason(comparison: Comparison) -> str:
    """Return a verdict in one sentence, with its figures."""
    verdict = comparison.verdict
    if verdict == "none":
        return f"No verdict: {_obstacle(comparison)}."
    margin, claims = f"{comparison.margin:g}", _CLAIMS
    if comparison.target is not None:
        margin, claims = f"{math.exp(comparison.margin):g}", _TIME_CLAIMS
    claim = claims[verdict][comparison.expectation].format(margin=margin)
    if verdict == "supported" and _beyond_margin(comparison):
        claim += f" by more than the margin of {margin}"
    remedy = f"; {_remedy(comparison)}" if verdict == "inconclusive" else ""
    name = f"Not evidence yet; {verdict} so far" if comparison.too_few_seeds else verdict.capitalize()
    return f"{name}: {claim} ({_figures(comparison)}){remedy}."


def _beyond_margin(comparison: Comparison) -> bool:
    """Return whether the interval of a difference as expected is beyond the margin."""
    low, high = comparison.interval
    if comparison.diverged or comparison.baseline_diverged:
        return False
    return {"improve": low > comparison.margin, "worsen": high < -comparison.margin}.get(comparison.expectation, False)


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
    n = comparison.n
    figures = [f"{_improvement(comparison)}"] if n else []
    if comparison.mixed:
        figures.append(f"the {'arm' if comparison.bound else 'baseline'}'s figure is an upper bound (≤)")
    elif comparison.bound:
        figures.append("both figures are upper bounds (≤)")
    fates = [
        f"the {whose} diverged with {len(seeds)} of {count(len(comparison.seeds), 'seed')}, which counts against it"
        for whose, seeds in (("arm", comparison.diverged), ("baseline", comparison.baseline_diverged))
        if seeds
    ]
    figures += [
        f"the {whose} did not reach the target with {len(seeds)} of {count(len(comparison.seeds), 'seed')}"
        for whose, seeds in (("arm", comparison.unreached), ("baseline", comparison.baseline_unreached))
        if seeds
    ]
    if not fates:
        look = " at this look" if n < max(comparison.planned_looks, default=n) else ""
        return ", ".join([*figures, *_test(comparison), f"n = {n}{look}"])
    if n > 1:
        figures.append(f"95% interval {_range(comparison.interval)}")
    return "; ".join(fates + ([f"over the other {n}: {', '.join(figures)}"] if n else []))


def _improvement(comparison: Comparison) -> str:
    if comparison.target is None:
        return f"mean improvement {bound_sign(comparison)}{nats(comparison.mean)} nats per character"
    return f"speed-up {bound_sign(comparison)}{ratio(comparison.mean)}"


def _test(comparison: Comparison) -> list[str]:
    """Return the interval and the p-value of the test that decided."""
    low, high = comparison.interval
    if comparison.verdict == "refuted" and comparison.expectation != "no difference":
        side, bound = ("upper", high) if comparison.expectation == "improve" else ("lower", low)
        return [f"{percent((1 + comparison.confidence) / 2)} {side} bound {_written(comparison)(bound)}"]
    level = percent(comparison.confidence)
    return [
        f"{level} interval {_range(comparison.interval, _written(comparison))}",
        f"Holm-adjusted {_p(comparison.p_holm)}",
    ]


def _written(comparison: Comparison) -> Callable[[float], str]:
    return nats if comparison.target is None else ratio


def _range(ends: tuple[float, float], write: Callable[[float], str] = nats) -> str:
    return f"{write(ends[0])} to {write(ends[1])}"


def _p(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.3g}"


def _remedy(comparison: Comparison) -> str:
    """Return what would settle an inconclusive verdict."""
    if comparison.diverged or comparison.baseline_diverged:
        return "more seeds settle nothing until the diverging cells are fixed"
    if comparison.mixed:
        return "one of the two figures is a bound, so no number of seeds is certain to settle it"
    if comparison.target is not None:
        return "more seeds would narrow the interval" + (
            ", and longer training shows when the others reach the target"
            if comparison.unreached or comparison.baseline_unreached
            else ""
        )
    if (needed := comparison.seeds_needed) is not None:
        return f"if the spread over seeds stays as it is, a fresh study of {needed} seeds would settle it"
    if comparison.expectation == "no difference" and abs(comparison.mean) > comparison.margin / 2:
        return "the difference is so close to the margin that more seeds may not settle it"
    return f"with this spread, not even {MOST_SEEDS:,} seeds would settle it"


def bound_sign(comparison: Comparison) -> str:
    """Return "≥ " or "≤ " if the improvement is only a bound of the true one, else ""."""
    if comparison.mixed:
        return "≥ " if comparison.bound else "≤ "
    return f"{comparison.mean_sign} " if comparison.mean_sign else ""


TIME_RULES = (
    "The tests are Wilcoxon's signed-rank tests of the logarithms of the speed-ups, exact, with the pairs of which "
    "only one run reached the target ranked last; the interval is that of the speed-ups that they do not reject."
)


def caution(comparison: Comparison) -> str:
    """Return in a sentence what bounds leave of a verdict; "" if all values are exact."""
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


def on_other_text(text: TextInterval) -> str:
    """Return in a sentence whether a difference would hold on other text."""
    low, high = text.interval_95
    answer = "may turn out better or worse"
    if low > 0 or high < 0:
        answer = f"would be expected to be {'better' if text.mean > 0 else 'worse'}"
    return (
        f"On other text of this kind, the arm {answer} (mean improvement {nats(text.mean)} nats per character, 95% "
        f"interval {_range(text.interval_95)}, block bootstrap over {text.characters:,} characters)."
    )
