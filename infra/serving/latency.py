"""What a server has done and how long it took: counts in buckets of fixed number, cheap enough for every request."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

BOUNDS = tuple(round(base * 10.0**power, 6) for power in range(-5, 1) for base in (1, 1.5, 2, 3, 5, 7.5))
"""Upper bounds of the buckets, in seconds: from 10 µs to 7.5 s, each at most 1.7 times the one before."""

Key = TypeVar("Key")

By = Literal["path", "part", "group", "service"]
"""What durations are of: whole requests by path or by service, reads by group, and the parts of a request."""


class Histogram(msgspec.Struct):
    """Durations in buckets by their upper bounds; the last bucket has those above them all."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def merge(self, other: Histogram) -> None:
        """Count what another one has."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.longest = max(self.longest, other.longest)

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """The mean duration; 0.0 without any."""
        return self.total / self.count if self.count else 0.0

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

    def summary(self) -> dict[str, float]:
        """How many there are, and p50, p95, p99 and the longest in seconds."""
        quantiles = {f"p{q}": self.quantile(q / 100) for q in (50, 95, 99)}
        return {"count": self.count, **quantiles, "longest": self.longest}


class Figures(msgspec.Struct):
    """What a worker, or several, have done.

    ``requests`` are counts by path and status; ``seconds`` are histograms (By, name); ``counts`` are counts of other
    things (what, of which kind), and ``gauges`` what is so now.
    """

    requests: dict[str, dict[int, int]] = {}
    seconds: dict[str, dict[str, Histogram]] = {}
    counts: dict[str, dict[str, int]] = {}
    gauges: dict[str, float] = {}

    def took(self, by: By, name: str, seconds: float) -> None:
        """Count a duration."""
        kind = self.seconds.get(by)
        if kind is None:
            kind = self.seconds[by] = {}
        histogram = kind.get(name)
        if histogram is None:
            histogram = kind[name] = Histogram()
        histogram.add(seconds)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        statuses = self.requests.setdefault(path, {})
        statuses[status] = statuses.get(status, 0) + 1
        self.took("path", path, seconds)

    def count(self, what: str, kind: str, number: int = 1) -> None:
        """Count something."""
        kinds = self.counts.setdefault(what, {})
        kinds[kind] = kinds.get(kind, 0) + number

    def merge(self, other: Figures) -> None:
        """Count what another worker has done; gauges add up."""
        for path, statuses in other.requests.items():
            _add(self.requests.setdefault(path, {}), statuses)
        for what, kinds in other.counts.items():
            _add(self.counts.setdefault(what, {}), kinds)
        for gauge, value in other.gauges.items():
            self.gauges[gauge] = self.gauges.get(gauge, 0.0) + value
        for by, named in other.seconds.items():
            mine = self.seconds.setdefault(by, {})
            for name, histogram in named.items():
                mine.setdefault(name, Histogram()).merge(histogram)


def _add(mine: dict[Key, int], theirs: Mapping[Key, int]) -> None:
    for key, number in theirs.items():
        mine[key] = mine.get(key, 0) + number
