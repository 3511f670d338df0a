"""Windows: at each boundary b, aggregates over the pieces in [b - window, b) that were known by then.

A piece is a raw row or a tile. It counts at boundary b from the one at which it was known until the one
at which something newer took its place: late rows and corrections change later boundaries, never ones
already served (SEMANTICS.md §3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from features.feature_group import Feature
from features.feature_rows import EVENT
from features.intervals import Interval
from features.times import UTC_US

AT = "_at"
"""When a piece happened, or where its tile begins (UTC µs as Int64)."""
KNOWN = "_known"
"""The first boundary at which a piece counts (µs)."""
REPLACED = "_replaced"
"""The boundary from which a piece counts no more since another took its place (µs); null for never."""

_BOUNDARY = "_boundary"
_PRESENT = "_present"


@dataclass(frozen=True)
class Member:
    """One feature of a window: its span in µs, its expression over pieces and its value over none."""

    name: str
    span: int
    expr: pl.Expr
    nothing: Any


def of_nothing(feature: Feature, frame: pl.LazyFrame) -> Any:
    """What a feature is over no rows: 0 for counts and sums, null where there is no such value (0/0 is none)."""
    values = pl.DataFrame(schema=frame.collect_schema()).select(feature.expr.alias(feature.name)).to_series()
    value = values[0] if len(values) else None
    return None if isinstance(value, float) and math.isnan(value) else value


def boundary_after(moment: pl.Expr, every: int) -> pl.Expr:
    """The first boundary later than a moment (µs)."""
    return (moment // every + 1) * every


def boundary_from(moment: pl.Expr, every: int) -> pl.Expr:
    """The first boundary at or after a moment (µs)."""
    return -((-moment) // every) * every


@dataclass(frozen=True)
class Placed:
    """Pieces and the boundaries, from ``first`` to ``last`` (µs), at which a window holds each of them."""

    pieces: pl.LazyFrame
    first: pl.Expr
    last: pl.Expr


def placed(pieces: pl.LazyFrame, span: int, every: int) -> Placed:
    """Where pieces lie in windows of a span: from when they are known until the window has passed them."""
    return Placed(pieces, pl.col(KNOWN), (pl.col(AT) + span) // every * every)


def aggregated(
    moments: pl.LazyFrame,
    keys: Sequence[str],
    members: Sequence[Member],
    inside: Callable[[int], Sequence[Placed]],
    interval: Interval,
    every: int,
    order: Sequence[str] = (),
) -> pl.LazyFrame:
    """The features of each entity at the moments at which it emits (see ``emissions``).

    ``inside`` gives the pieces in windows of a span: the keys, AT, KNOWN, REPLACED and what the members'
    expressions read, which see them in the ``order`` of these columns, if any. The result has the keys,
    event_timestamp and the members.
    """
    low, high = interval.boundaries(every)
    rows = moments
    for span in sorted({m.span for m in members}):
        parts = [_at_boundaries(part, low, high, every) for part in inside(span)]
        pieces = pl.concat(parts).join(moments, on=[*keys, _BOUNDARY], how="semi")
        pieces = pieces.sort(order, nulls_last=True) if order else pieces
        chosen = [m for m in members if m.span == span]
        found = pieces.group_by([*keys, _BOUNDARY]).agg(m.expr.alias(m.name) for m in chosen)
        rows = rows.join(found.with_columns(pl.lit(True).alias(_PRESENT)), on=[*keys, _BOUNDARY], how="left")
        filled = [
            pl.when(_PRESENT).then(pl.col(m.name)).otherwise(pl.lit(m.nothing)).alias(m.name)
            for m in chosen
            if m.nothing is not None
        ]
        rows = rows.with_columns(filled).drop(_PRESENT)
    return rows.with_columns(pl.col(_BOUNDARY).cast(UTC_US).alias(EVENT)).drop(_BOUNDARY)


def emissions(
    pieces: pl.LazyFrame, keys: Sequence[str], spans: Sequence[int], interval: Interval, every: int
) -> pl.LazyFrame:
    """The boundaries of an interval at which a piece of an entity enters a window, leaves one or is replaced.

    ``spans`` are all windows of the group: they decide together when an entity emits.
    """
    low, high = interval.boundaries(every)
    at, known, replaced = pl.col(AT), pl.col(KNOWN), pl.col(REPLACED)
    stays = at + max(spans)
    whole = pl.all_horizontal(pl.col(k).is_not_null() for k in keys)
    pieces = pieces.filter(whole & (known <= high) & (stays + every >= low))

    def moments(boundary: pl.Expr, there: pl.Expr) -> pl.LazyFrame:
        inside = (boundary >= low) & (boundary <= high)
        return pieces.filter(there & inside).select(*keys, boundary.alias(_BOUNDARY))

    changes = [moments(known, known <= stays), moments(replaced, replaced <= stays)]
    for span in spans:
        left = boundary_after(at + span, every)
        changes.append(moments(left, (known <= at + span) & (replaced.is_null() | (replaced >= left))))
    return pl.concat(changes).unique()


def _at_boundaries(part: Placed, low: int, high: int, every: int) -> pl.LazyFrame:
    """Each piece once for every boundary in [low, high] at which a window holds it."""
    first = pl.max_horizontal(part.first, pl.col(KNOWN))
    last = pl.min_horizontal(part.last, pl.col(REPLACED) - every)
    if low == high:
        there = part.pieces.filter((first <= low) & (last >= low))
        return there.with_columns(pl.lit(low, pl.Int64).alias(_BOUNDARY))
    first, last = pl.max_horizontal(first, pl.lit(low)), pl.min_horizontal(last, pl.lit(high))
    ranges = pl.int_ranges(first, last + 1, every).alias(_BOUNDARY)
    return part.pieces.filter(first <= last).with_columns(ranges).explode(_BOUNDARY)
