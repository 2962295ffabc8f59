"""Does a series grow? A test that a few odd samples, a sawtooth or a late warm-up can not decide.

The first fifth is thrown away (caches fill). What is left is cut into three equal parts. It *grows* where both hold:

1. the median of the last part exceeds the median of the first by more than `allowed`, and
2. the median rises from part to part: last > middle > first. What rose once and stays is a level, not a growth;
   and the rise from the middle to the last is at least a quarter of the whole rise: what levels off is none.

The slope that is shown is Theil and Sen's: the median of the slopes between all pairs of samples (of at most 200 that
lie evenly), which up to 29% of arbitrary samples can not move far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Final

WARM_UP: Final = 0.2
PAIRS_OF: Final = 200
LEVELLING: Final = 0.25


@dataclass(frozen=True, slots=True)
class Verdict:
    """`parts` are the medians of the three thirds; `slope_hour` the growth in an hour."""

    grows: bool
    parts: tuple[float, float, float]
    slope_hour: float

    @property
    def rise(self) -> float:
        return self.parts[2] - self.parts[0]


def judge(series: Sequence[tuple[float, float]], allowed: float) -> Verdict | None:
    """The verdict of (seconds, value) pairs in order; None where there are too few to say anything."""
    settled = series[int(len(series) * WARM_UP) :]
    third = len(settled) // 3
    if third < 5:
        return None
    values = [value for _, value in settled]
    first, middle, last = (median(values[start : start + third]) for start in (0, third, len(values) - third))
    rise = last - first
    grows = rise > allowed and first < middle < last and last - middle >= LEVELLING * rise
    return Verdict(grows, (first, middle, last), slope(settled) * 3600)


def slope(series: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's, in units a second."""
    step = max(1, len(series) // PAIRS_OF)
    slopes = [
        (second[1] - first[1]) / (second[0] - first[0])
        for first, second in combinations(series[::step], 2)
        if second[0] > first[0]
    ]
    return median(slopes) if slopes else 0.0
