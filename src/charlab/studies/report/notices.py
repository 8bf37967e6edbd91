"""What has to be read before the verdicts: too few seeds, unmatched budgets, and whatever else weakens them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from charlab.studies.report.pieces import Notice, joined

if TYPE_CHECKING:
    from charlab.studies.comparison import Comparison
    from charlab.studies.report.arms import ArmSummary
    from charlab.studies.results import StudyResults


def notices(
    results: StudyResults, arms: Mapping[str, ArmSummary], comparisons: Mapping[str, Comparison]
) -> list[Notice]:
    """Returns the notices, those first without which the rest misleads: seeds, budgets, exploration, cells."""
    groups = [
        _seeds(results, comparisons),
        _budget(results),
        _text(results),
        _leaks(arms),
        _exploration(results),
        _unpaired(results),
        _cells(results),
        _bounds(arms),
    ]
    return [notice for group in groups for notice in group]


def _seeds(results: StudyResults, comparisons: Mapping[str, Comparison]) -> list[Notice]:
    number = len(results.plan.seeds)
    if len(results.plan.arms) == 1:
        return [Notice("note", "There is one arm only, so nothing is compared.")]
    if not comparisons:
        seeds = f"{number} seed{'' if number == 1 else 's'}"
        return [Notice("alarm", f"Too few seeds for any verdict: {seeds}. What follows describes these runs only.")]
    short = [comparison for comparison in comparisons.values() if comparison.too_few_seeds]
    if not short:
        return []
    least = min(len(comparison.seeds) - len(comparison.absent) for comparison in short)
    whose = "" if len(short) == len(comparisons) else f" for {joined([comparison.arm for comparison in short])}"
    return [
        Notice(
            "alarm",
            f"Too few seeds{whose}: {least} of {number} pairs of cells have ended, and with "
            f"{len(comparisons)} arm{'' if len(comparisons) == 1 else 's'} to compare a study needs at least "
            f"{short[0].minimum_seeds} pairs. What is said below of these differences is not evidence yet.",
        )
    ]


def _budget(results: StudyResults) -> list[Notice]:
    mismatch = results.mismatch()
    return [Notice("alarm", f"Budgets do not match. {mismatch}")] if mismatch else []


def _text(results: StudyResults) -> list[Notice]:
    records = [result.record for result in results.cells if result.record is not None]
    names = Counter(f"{record.corpus.get('name')}" for record in records)
    if len({record.corpus.get("sha256") for record in records}) < 2:
        return []
    return [
        Notice(
            "alarm",
            f"The cells were scored on different texts ({joined(list(names))}): figures on different texts cannot be "
            "compared, and their differences mean nothing.",
        )
    ]


def _leaks(arms: Mapping[str, ArmSummary]) -> list[Notice]:
    leaking = [arm for arm in arms.values() if arm.leaks]
    found = []
    for arm in leaking:
        honest = ""
        if arm.honest is not None and arm.mean is not None and arm.honest.mean == arm.honest.mean:
            honest = (
                f" Scored character by character, as it would generate, it has {arm.honest.mean:.2f} nats per "
                f"character, not the {arm.mean:.2f} that it claims."
            )
        what = "The baseline" if arm.is_baseline else "The arm"
        found.append(
            Notice("alarm", f"{what} {arm.name} sees what it is to predict, so it gets no verdict.{honest}")
            if not arm.is_baseline
            else Notice("alarm", f"{what} {arm.name} sees what it is to predict, so no arm gets a verdict.{honest}")
        )
    return found


def _exploration(results: StudyResults) -> list[Notice]:
    plan = results.plan
    if not plan.exploratory:
        return []
    reasons = []
    if plan.sweep:
        reasons.append("an ordinary sweep states no hypothesis beforehand")
    if len(plan.seeds) > plan.planned_seeds:
        looks = sorted({look for look in plan.looks if look < len(plan.seeds)})
        after = f" after looks at {joined([str(look) for look in looks])}" if looks else ""
        reasons.append(f"planned with {plan.planned_seeds} seeds, it was grown to {len(plan.seeds)}{after}")
    reasons += [amendment.rstrip(".") for amendment in plan.amendments]
    return [
        Notice(
            "caution",
            f"Exploratory: {'; '.join(reasons)}. False findings are then more frequent than stated: take the verdicts "
            "as hints, to be confirmed by a study with fresh seeds.",
        )
    ]


def _unpaired(results: StudyResults) -> list[Notice]:
    sentence = results.unpaired()
    return [Notice("caution", sentence)] if sentence else []


def _cells(results: StudyResults) -> list[Notice]:
    without = Counter(result.status for result in results.cells if not result.ended)
    diverged = sum(result.status == "diverged" for result in results.cells)
    older = sum(result.older for result in results.cells)
    total = len(results.cells)
    found = []
    if without:
        kinds = joined([f"{number} {status}" for status, number in without.most_common()])
        text = f"{sum(without.values())} of {total} cells have no result ({kinds}), so the verdicts are provisional."
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
    return [
        Notice(
            "note",
            f"Upper bounds (≤): {joined(bounds)}. The true nll lies at or below the figure, so being worse than an "
            "exact figure does not show being worse.",
        )
    ]
