"""The interval of a median by order statistics, which supposes nothing of the distribution."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which the median of all such runs lies, with CONFIDENCE at least (all of them where they are too few)."""
    ordered, count = sorted(values), len(values)
    outside, drop = 0.0, 0
    for below in range(count // 2):
        outside += 2 * comb(count, below) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        drop = below + 1
    left = max(0, drop - 1)
    return ordered[left], ordered[count - 1 - left]
