"""Intervals of event time, as runs cut it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from features.errors import InvalidInput
from features.times import duration, from_micros, micros, to_micros

DAY = timedelta(days=1)


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


def whole_days(text: str | None) -> timedelta | None:
    """A duration of whole days; None for None.

    >>> whole_days("36h")
    Traceback (most recent call last):
    features.errors.InvalidInput: chunk '36h' is not a number of whole days: write it like '1d' or '7d'
    """
    if text is None:
        return None
    span = duration(text)
    if span < DAY or span % DAY:
        raise InvalidInput(f"chunk {text!r} is not a number of whole days: write it like '1d' or '7d'")
    return span


def split(start: datetime, end: datetime, longest: timedelta) -> list[tuple[datetime, datetime]]:
    """Split [start, end) so that no piece is longer than whole days ``longest``; the first one may be shorter.

    >>> noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    >>> [str(first) for first, _ in split(noon, noon + 2 * DAY, DAY)]
    ['2026-03-01 12:00:00+00:00', '2026-03-02 00:00:00+00:00', '2026-03-03 00:00:00+00:00']
    """
    midnight = datetime.combine(start.date(), datetime.min.time(), UTC)
    count = -(-(end - midnight) // longest)
    cuts = [start, *(midnight + longest * number for number in range(1, count))]
    return list(zip(cuts, [*cuts[1:], end], strict=True))


def cut(
    days: pl.DataFrame, room: int, start: datetime, end: datetime, *, weight: int = 1, width: timedelta = DAY
) -> list[tuple[datetime, datetime]]:
    """Cut [start, end) into pieces that hold no more rows than there is room for, as far as cuts allow.

    ``days`` has event_date and rows, sorted; a row takes the room of ``weight``. Cuts lie at multiples of
    ``width`` since the epoch: at the first one of a date, and at others where a date alone is too much.

    >>> from datetime import date
    >>> days = pl.DataFrame({"event_date": [date(2026, 3, d) for d in (1, 2, 3)], "rows": [5, 4, 4]})
    >>> [
    ...     str(piece[0].date())
    ...     for piece in cut(days, 8, datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 4, tzinfo=UTC))
    ... ]
    ['2026-03-01', '2026-03-02']
    """
    step, cuts, filled = micros(width), [start], 0
    for day, rows in days.iter_rows():
        moment = datetime.combine(day, datetime.min.time(), UTC)
        if moment + DAY <= start:
            continue
        if moment >= end:
            break
        first, parts = -(-to_micros(moment) // step) * step, min(-(-rows * weight // room), micros(DAY) // step)
        if filled and filled + rows * weight > room and cuts[-1] < (at := from_micros(first)) < end:
            cuts.append(at)
            filled = 0
        for part in range(1, parts):
            at = from_micros(first + micros(DAY) * part // parts // step * step)
            if cuts[-1] < at < end:
                cuts.append(at)
                filled = 0
        filled += rows * weight // max(parts, 1)
    return list(zip(cuts, [*cuts[1:], end], strict=True))
