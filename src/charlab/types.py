"""Numbers with a range, as constructors annotate them; the configuration check reads these by name."""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high`, the ends included unless said otherwise; None is unbounded."""

    low: float | None = None
    high: float | None = None
    low_excluded: bool = False
    high_excluded: bool = False


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, low_excluded=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Probability = Annotated[float, Range(0, 1, high_excluded=True)]
Fraction = Annotated[float, Range(0, 1)]
