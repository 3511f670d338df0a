"""Intervals of event time, as runs cut it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from features.times import to_micros


@dataclass(frozen=True)
class Interval:
    """Which rows to emit: event_timestamp in [start, end) and not after ``cutoff``.

    A row at a boundary b (grains with ``every``) belongs to the interval with start < b ≤ end.
    """

    start: datetime
    end: datetime
    cutoff: datetime

    def keep(self, column: str, *, boundary: bool) -> pl.Expr:
        """Whether a moment belongs to the interval."""
        moment = pl.col(column)
        if boundary:
            inside = (moment > self.start) & (moment <= self.end)
        else:
            inside = (moment >= self.start) & (moment < self.end)
        return inside & (moment <= self.cutoff)

    def boundaries(self, every: int) -> tuple[int, int]:
        """The first and last boundary of the interval, in µs; none lies in it where first > last."""
        last = min(self.end, self.cutoff)
        return to_micros(self.start) // every * every + every, to_micros(last) // every * every
