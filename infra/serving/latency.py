"""How long requests take: counts in buckets of fixed number, cheap enough for every request."""

from __future__ import annotations

import bisect
from collections import Counter
from dataclasses import dataclass, field

BOUNDS = tuple(round(base * 10.0**power, 6) for power in range(-5, 1) for base in (1, 1.5, 2, 3, 5, 7.5))
"""Upper bounds of the buckets, in seconds: from 10 µs to 7.5 s, each at most 1.7 times the one before."""


@dataclass
class Histogram:
    """Durations in buckets by their upper bounds; the last bucket has those above them all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """The upper bound of the bucket with the quantile, but no more than the longest; 0.0 without any.

        >>> histogram = Histogram()
        >>> for seconds in (0.001, 0.002, 0.003, 0.9):
        ...     histogram.add(seconds)
        >>> histogram.quantile(0.5), histogram.quantile(0.99)
        (0.002, 0.9)
        """
        left = q * self.count
        for bound, number in zip((*BOUNDS, float("inf")), self.counts, strict=True):
            left -= number
            if left <= 0 and number:
                return min(bound, self.longest)
        return 0.0


@dataclass
class Seen:
    """What an endpoint has done: how long its requests took, and how many ended with which status."""

    seconds: Histogram = field(default_factory=Histogram)
    statuses: Counter[int] = field(default_factory=Counter)

    def add(self, status: int, seconds: float) -> None:
        """Count a request."""
        self.seconds.add(seconds)
        self.statuses[status] += 1


class Latency:
    """What each endpoint of this process has done, by its path."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Seen] = {}

    def of(self, path: str) -> Seen:
        """What the endpoint at a path has done."""
        return self.endpoints.setdefault(path, Seen())
