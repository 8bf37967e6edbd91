"""A study's statistics as one would compute them by hand: one study at a time, each rule written out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired


def sign_flip_p(differences: list[float]) -> float:
    """The share of all sign patterns whose sum is at least as far from zero as the one seen."""
    seen = abs(sum(differences)) - 1e-9
    patterns = list(itertools.product([-1, 1], repeat=len(differences)))
    extreme = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= seen for signs in patterns]
    return sum(extreme) / len(patterns)


def holm(p_values: list[float]) -> list[float]:
    """Each p-value times the number of those not smaller, and never below an adjusted smaller one."""
    adjusted = []
    for p in p_values:
        steps = [min(1.0, q * sum(r >= q for r in p_values)) for q in p_values if q <= p]
        adjusted.append(max(steps))
    return adjusted


def verdicts(baseline: np.ndarray, arms: np.ndarray, margin: float, expectations: list[str]) -> list[str]:
    """The verdicts on arms (m, n) against a baseline (n,), by the rules in a report, with scipy and statsmodels."""
    different = holm([stats.ttest_rel(baseline, arm).pvalue for arm in arms])
    same = holm([ttost_paired(baseline, arm, -margin, margin)[0] for arm in arms])
    against = holm([_p_against(baseline - arm, margin, e) for arm, e in zip(arms, expectations, strict=True)])
    result = []
    for arm, p, p_same, p_against, expectation in zip(arms, different, same, against, expectations, strict=True):
        sign = -1 if expectation == "worsen" else 1
        d = sign * (baseline - arm)
        if expectation == "no difference":
            if p_same < 0.05:
                result.append("supported")
            elif p < 0.05 and p_against < 0.05:
                result.append("refuted")
            else:
                result.append("inconclusive")
        elif p_same < 0.05:
            result.append("equivalent")
        elif p < 0.05 and d.mean() > 0:
            result.append("supported")
        elif p_against < 0.05:
            result.append("refuted")
        else:
            result.append("inconclusive")
    return result


def _p_against(d: np.ndarray, margin: float, expectation: str) -> float:
    """One-sided p-value against the margin in the direction that was expected; either side for no difference."""
    upper = stats.ttest_1samp(d, margin, alternative="less").pvalue
    lower = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    return {"improve": upper, "worsen": lower, "no difference": min(1 - upper, 1 - lower)}[expectation]


def drawn_text_bootstrap(
    differences: np.ndarray, sizes: np.ndarray, length: int, stretches: int, resamples: int, seed: int
) -> np.ndarray:
    """Mean differences of resampled texts: each strings together stretches of `length` blocks that begin anywhere."""
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(resamples):
        total, characters = 0.0, 0
        for start in generator.integers(len(differences), size=stretches):
            for block in range(start, start + length):
                total += differences[block % len(differences)]
                characters += sizes[block % len(differences)]
        means.append(total / characters)
    return np.array(means)


def signed_rank_p(differences: list[float]) -> tuple[float, float]:
    """The share of all sign patterns with a sum of positive ranks at most, and at least, as large as the one seen."""
    n = len(differences)
    size = [round(abs(d), 12) for d in differences]
    ranks = [sum(a < b for a in size) + (1 + sum(a == b for a in size)) / 2 for b in size]
    moving = [rank for rank, d in zip(ranks, size, strict=True) if d]
    seen = sum(ranks[i] for i in range(n) if differences[i] > 0 and size[i])
    patterns = itertools.product([0, 1], repeat=len(moving))
    sums = [sum(rank for rank, sign in zip(moving, signs, strict=True) if sign) for signs in patterns]
    return sum(s <= seen for s in sums) / len(sums), sum(s >= seen for s in sums) / len(sums)


def log_speed_ups(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]], factor: float
) -> list[float]:
    """Each pair's log ratio after the baseline was sped up by a factor, both cut off where the first of them ends."""
    found = []
    for (time, limit), (time_after, limit_after) in zip(before, after, strict=True):
        end = min(limit / factor, limit_after) * (1 + 1e-12)
        first, second = time / factor, time_after
        if first > end and second > end:
            found.append(0.0)
        else:
            found.append(np.inf if first > end else -np.inf if second > end else float(np.log(first / second)))
    return found
