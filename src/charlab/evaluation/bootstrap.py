"""Estimate whether a difference would hold on other text, by a block bootstrap over the validation text.

Seeds measure how much a difference varies with the randomness of training, but the validation text is a sample, too.
Losses of neighboring characters are correlated, and so are those of neighboring scenes: between models of different
families, differences summed over 2,000 characters of tiny Shakespeare correlate with the next sums by up to 0.75. An
interval that assumes independence then covers 55% to 70% instead of 95%, so a resample consists of eight long stretches
of the text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from charlab.errors import UserError

_STRETCHES = 8  # per resample


@dataclass(frozen=True)
class TextInterval:
    """How a mean difference, baseline minus arm, would vary over texts of the same kind and length.

    Attributes:
        mean: mean difference per character, in the unit of the sums; positive if the arm is better.
        standard_error: standard error of the mean over texts.
        interval_95: 95% confidence interval of the mean.
        characters: number of characters in the text.
    """

    mean: float
    standard_error: float
    interval_95: tuple[float, float]
    characters: int


def bootstrap_text(baseline: np.ndarray, arm: np.ndarray, sizes: np.ndarray) -> TextInterval:
    """Return the confidence interval of the mean difference over texts.

    This is a circular block bootstrap (Politis and Romano 1992) of the sums averaged over seeds: a resample
    concatenates eight stretches of the text (slightly fewer if K is not a multiple of 8), each a run of consecutive
    blocks that starts anywhere and may wrap around. Instead of drawing resamples, the function uses the closed form of
    their variance. The variance is multiplied by q / (q − 1) for q stretches, and the interval is that of Student's t
    with q − 1 degrees of freedom, because percentile intervals from so few stretches are too narrow. In simulations
    with 55 blocks it covers 96% if blocks are independent, 95% if neighbors correlate by 0.3, 92% at 0.6 and 87% at
    0.75 (percentile intervals from single blocks: 95%, 84%, 65%, 55%).

    Do not use it for upper bounds of the likelihood, whose terms per character have no meaning of their own.

    Args:
        baseline: (S, K) sums of the baseline's negative log-likelihoods by seed and block of the text.
        arm: (S, K) sums of the arm's.
        sizes: (K,) characters in each block.

    Raises:
        UserError: if the shapes differ, or there are fewer than two blocks.
    """
    if baseline.shape != arm.shape or baseline.shape[1:] != sizes.shape:
        raise UserError(
            f"The sums over blocks have shapes {baseline.shape} and {arm.shape} for {sizes.size} blocks: "
            "compare runs with the same seeds on the same text."
        )
    if sizes.size < 2:
        raise UserError(
            f"A text of {sizes.sum():,} characters is one block: several are needed to generalize to other text."
        )
    differences = (baseline - arm).mean(axis=0)
    characters = int(sizes.sum())
    mean = float(differences.sum() / characters)
    length = math.ceil(sizes.size / _STRETCHES)
    stretches = sizes.size / length
    residuals = differences - mean * sizes  # residuals of a ratio of two sums; they add up to 0
    around = np.concatenate([residuals, residuals[: length - 1]])
    runs = np.convolve(around, np.ones(length), mode="valid")  # (K,)
    variance = stretches * np.mean(runs**2) * stretches / (stretches - 1)
    standard_error = math.sqrt(variance) / characters
    half_width = float(stats.t.isf(0.025, stretches - 1)) * standard_error
    return TextInterval(mean, standard_error, (mean - half_width, mean + half_width), characters)
